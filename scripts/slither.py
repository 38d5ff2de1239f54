"""Static analysis of contracts/src with Slither: `make slither`.

Slither (PyPI: slither-analyzer) is looked for on the path or in $PRIVACY_SLITHER; give
it an environment of its own. It compiles with the project's solc, offline. Findings of
high or medium impact must be explained in contracts/slither.json; this ends with status
1 if one is not, or if one that is explained there is not found any more.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from contracts_build import CONTRACTS, OWN_SETTINGS, sources  # noqa: E402

from privacy.zkml.evm.solc import run_solc  # noqa: E402

EXPLAINED = CONTRACTS / "slither.json"
IMPACTS = ("High", "Medium")


def analyse(slither: str) -> list[dict[str, Any]]:
    """Return Slither's findings of high and medium impact."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = sources(CONTRACTS / "src")
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        wanted = {"*": {"*": ["abi", "evm.bytecode", "evm.deployedBytecode"]}}
        wanted["*"][""] = ["ast"]
        job = {
            "language": "Solidity",
            "sources": {name: {"content": text} for name, text in texts.items()},
            "settings": {**OWN_SETTINGS, "outputSelection": wanted},
        }
        (folder / "input.json").write_text(json.dumps(job))
        solc = folder / "solc"
        solc.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} --as-solc "$@"\n')
        solc.chmod(0o700)
        command = [slither, "input.json", "--compile-force-framework", "Solc-json"]
        command += ["--solc", str(solc), "--json", "found.json", "--fail-none"]
        done = subprocess.run(
            command, cwd=folder, stderr=subprocess.PIPE, text=True, check=False
        )
        if not (folder / "found.json").is_file():
            sys.exit(f"slither ended with {done.returncode}: {done.stderr[-2000:]}")
        found = json.loads((folder / "found.json").read_text())
    if not found["success"]:
        sys.exit(f"slither failed: {found['error']}")
    detected = found["results"].get("detectors", [])
    return [one for one in detected if one["impact"] in IMPACTS]


def named(finding: dict[str, Any]) -> str:
    """Return what is explained: the check, and the function or variable it is about."""
    element = finding["elements"][0]
    inside = element["type_specific_fields"].get("parent", {}).get("name", "")
    return f"{finding['check']}: {inside}.{element['name']}"


def as_solc(arguments: list[str]) -> None:
    """Answer as the compiler would; what solcjs says beside is left out."""
    if "--version" in arguments:
        print(run_solc(["--version"], ""))
        return
    said = run_solc(["--standard-json"], sys.stdin.read())
    answer = json.loads(said[said.find("{") :])
    errors = answer.get("errors", [])
    answer["errors"] = [e for e in errors if e["severity"] == "error"]
    print(json.dumps(answer))


def main() -> None:
    """Compare what Slither finds with what is explained."""
    if sys.argv[1:2] == ["--as-solc"]:
        as_solc(sys.argv[2:])
        return
    slither = os.environ.get("PRIVACY_SLITHER") or shutil.which("slither")
    if not slither:
        sys.exit(
            "slither was not found: pip install slither-analyzer into an environment "
            "of its own, and name it in PRIVACY_SLITHER"
        )
    explained = json.loads(EXPLAINED.read_text())
    found = {named(one): one for one in analyse(slither)}
    for name, one in found.items():
        print(f"{one['impact'].lower()} {name}: {explained.get(name, 'NOT EXPLAINED')}")
    gone = sorted(set(explained) - set(found))
    for name in gone:
        print(f"explained, but not found any more: {name}")
    sys.exit(1 if gone or set(found) - set(explained) else 0)


if __name__ == "__main__":
    main()
