"""Compile contracts/src into privacy/chain/contracts.json: `make contracts`.

The same sources and compiler give the same bytes on every machine. `--check` only says
whether the file is up to date.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from privacy.encoding import canonical_json, sha256_hex  # noqa: E402
from privacy.zkml.evm.solc import (  # noqa: E402
    SETTINGS,
    TOOLS,
    Compiled,
    compile_sources,
    solc_version,
)

CONTRACTS = ROOT / "contracts"
OUT = ROOT / "privacy" / "chain" / "contracts.json"
SHIPPED = (
    "AttestationVerifier",
    "IInferenceConsumer",
    "IInputSource",
    "InferenceCoordinator",
    "ModelRegistry",
    "ProofVerifier",
    "ProvenLoan",
    "SubscriptionManager",
)
OWN_SETTINGS = {
    **SETTINGS,
    "optimizer": {"enabled": True, "runs": 10_000},
    "viaIR": True,
}
_IMPORT = re.compile(r'import[^;]*?"([^"]+)"')


def sources(folder: Path) -> dict[str, str]:
    """Return every Solidity file in a folder, and all that they import."""
    todo = sorted(folder.rglob("*.sol"))
    found: dict[str, str] = {}
    while todo:
        path = todo.pop()
        name = source_name(path)
        if name in found:
            continue
        found[name] = path.read_text()
        for target in _IMPORT.findall(found[name]):
            relative = target.startswith(".")
            todo.append(
                (path.parent / target).resolve() if relative else TOOLS / target
            )
    return dict(sorted(found.items()))


def source_name(path: Path) -> str:
    """Return how imports name a file."""
    base = CONTRACTS if path.is_relative_to(CONTRACTS) else TOOLS
    return path.relative_to(base).as_posix()


def build() -> bytes:
    """Return what `OUT` should hold."""
    made = compile_sources(sources(CONTRACTS / "src"), settings=OWN_SETTINGS)
    contracts = {name: entry(made[name]) for name in SHIPPED}
    value = {"compiler": solc_version(), "contracts": contracts}
    return canonical_json({**value, "sources_sha256": sources_sha256()})


def sources_sha256() -> str:
    """Return one digest of our sources, the libraries' versions and the settings."""
    files = [*sorted((CONTRACTS / "src").rglob("*.sol")), CONTRACTS / "package.json"]
    parts = {source_name(path): sha256_hex(path.read_bytes()) for path in files}
    return sha256_hex(canonical_json({"files": parts, "settings": OWN_SETTINGS}))


def entry(made: Compiled) -> dict[str, object]:
    """Return a contract as the file holds it."""
    return {"abi": made.abi, "init_code": made.init_code.hex()}


def main() -> None:
    """Write the file, or compare it."""
    content = build()
    if "--check" in sys.argv:
        if not OUT.is_file() or OUT.read_bytes() != content:
            sys.exit(f"{OUT.relative_to(ROOT)} is not of these sources: make contracts")
        return
    OUT.write_bytes(content)
    print(f"wrote {OUT.relative_to(ROOT)}, {len(content):,} bytes")


if __name__ == "__main__":
    main()
