"""Make the project's own environment: `python3 scripts/setup.py demo`.

Sets, each holding the one before: `client` (check and send), `demo` (every engine and
the gateway), `dev` (and chain, Ray, S3 and the tools). Every package is pinned
by hash in requirements/. A second run finds the stamp of the first and ends at once;
an interrupted one starts again.

Any Python from 3.8 reads this file, so that an old one can say what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ("client", "demo", "dev")  # each holds those before it
DISK_GB = {"client": 1, "demo": 9, "dev": 9}
OLDEST, BELOW = (3, 11, 1), (3, 13)
PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
HEARTBEAT_S = 20.0


class SetupError(Exception):
    """Setting up cannot go on; the message is one line that says what to do."""


class Clock:
    """Says what is being done, with the seconds since the start."""

    def __init__(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line at once."""
        print(f"[{time.monotonic() - self._start:4.0f} s] {text}", flush=True)


def suits(version: tuple[int, ...]) -> bool:
    """Return whether the locked packages install on that Python."""
    return OLDEST <= version < BELOW


def stamp_of(venv: Path, name: str) -> Path:
    """Return the file that says a set is installed."""
    return venv / f".privacy-{name}"


def stamp_text(venv: Path, name: str, root: Path = ROOT) -> str:
    """Return what a set's stamp holds: all that decides the install, and where it is.

    Environments do not survive being moved: their scripts name the old folder.
    """
    files = [root / "requirements" / f"{name}.txt", root / "pyproject.toml"]
    parts = (hashlib.sha256(f.read_bytes()).hexdigest() for f in files)
    return "\n".join([*parts, os.path.realpath(venv)])


def is_ready(venv: Path, name: str, root: Path = ROOT) -> bool:
    """Return whether the environment holds that set, or a larger one, as locked now."""
    if not (venv / "bin" / "python").exists():  # also: its Python was removed
        return False
    for larger in SETS[SETS.index(name) :]:
        stamp = stamp_of(venv, larger)
        if stamp.is_file() and stamp.read_text() == stamp_text(venv, larger, root):
            return True
    return False


def version_of(python: str) -> tuple[int, ...]:
    """Return an interpreter's version, or () if it cannot make environments."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
        )
        return tuple(int(part) for part in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()  # pyenv's shims exist, and fail, for versions it does not have


def candidates() -> list[str]:
    """Return where a Python may be, the likeliest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    names = [sys.executable, *map(shutil.which, ("python3.11", "python3.12"))]
    fixed = ["/usr/bin/python3.11", "/usr/bin/python3.12"]
    managed = sorted(map(str, pyenv.glob("versions/3.1[12].*/bin/python")))
    return [p for p in dict.fromkeys([*names, *managed, *fixed]) if p]


def find_python() -> str:
    """Return a Python that the locked packages install on."""
    for python in candidates():
        if suits(version_of(python)):
            return python
    this = ".".join(map(str, sys.version_info[:3]))
    raise SetupError(
        f"no usable Python 3.11.1+ or 3.12 found (this one is {this}): install one with"
        " its venv module (Debian, Ubuntu: python3.11-venv; or `pyenv install 3.12`)"
        " and run this again"
    )


def check_disk(folder: Path, needed_gb: float) -> None:
    """Refuse to begin what the disk cannot hold."""
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            f"{folder} has {free_gb:.1f} GB free, {needed_gb:g} GB are needed: free"
            " some space, or set PRIVACY_VENV to a folder on a larger disk"
        )


def run(command: list[str], clock: Clock, env: dict[str, str] | None = None) -> None:
    """Run a command to its end, with a sign of life where nobody watches a bar."""
    with subprocess.Popen(
        command,
        cwd=str(ROOT),
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
    ) as process:
        while True:
            try:
                status = process.wait(HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                if not sys.stderr.isatty():
                    clock.say("still installing")
    if status:
        raise SetupError(
            f"`{' '.join(command[:4])} …` ended with status {status}; the lines above"
            " say why. Run this again once that is mended"
        )


def must_rebuild(venv: Path) -> bool:
    """Return whether what is there is half made, moved, or has lost its Python.

    Raises:
        SetupError: What is there was not made by this script.
    """
    if not venv.exists() or not any(venv.iterdir()):
        return False
    stamps = list(venv.glob(".privacy-*"))
    if not stamps and venv != ROOT / ".venv":
        raise SetupError(f"{venv} was not made by this script: name another folder")
    if stamp_of(venv, "installing") in stamps:
        return True
    if not suits(version_of(str(venv / "bin" / "python"))):
        return True
    here = os.path.realpath(venv)
    return any(s.read_text().splitlines()[-1:] != [here] for s in stamps)


def empty(venv: Path) -> None:
    """Delete what is in the environment, but not the mark that it is half made."""
    stamp_of(venv, "installing").touch()
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != stamp_of(venv, "installing"):
            path.unlink()


def make_venv(venv: Path, name: str, clock: Clock) -> None:
    """Bring the environment to a state that packages can be installed into."""
    if must_rebuild(venv):
        clock.say(f"clearing {venv}, which is half made or was moved")
        empty(venv)
    fresh = not (venv / "bin" / "python").exists()
    check_disk(venv, DISK_GB[name] if fresh else 1)
    python = find_python() if fresh else ""
    venv.mkdir(parents=True, exist_ok=True)
    stamp_of(venv, "installing").touch()
    for old in SETS:  # from here on nothing is ready until the end
        if stamp_of(venv, old).exists():
            stamp_of(venv, old).unlink()
    if fresh:
        clock.say(f"making {venv} with {python}")
        run([python, "-m", "venv", str(venv)], clock)


def link_mode(uv: str, venv: Path) -> dict[str, str]:
    """Return uv's settings: copy where its cache lies on another disk."""
    cache = Path(subprocess.check_output([uv, "cache", "dir"]).decode().strip())
    while not cache.exists():
        cache = cache.parent
    same_disk = cache.stat().st_dev == venv.stat().st_dev
    return {} if same_disk else {"UV_LINK_MODE": "copy"}


def install(venv: Path, name: str, clock: Clock) -> None:
    """Install uv, the set and the project itself, nothing of it unpinned."""
    python = str(venv / "bin" / "python")
    clock.say("installing uv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    lock = ROOT / "requirements"
    pinned = ["--require-hashes", "-r"]
    run([*pip, "install", "--no-deps", *pinned, str(lock / "uv.txt")], clock)
    uv = str(venv / "bin" / "uv")
    env = {"UV_PYTHON_DOWNLOADS": "never", **link_mode(uv, venv)}
    size = "" if name == "client" else " (about 3 GB to fetch the first time)"
    clock.say(f"installing requirements/{name}.txt{size}")
    pip = [uv, "pip", "install", "--python", python]
    run([*pip, *pinned, str(lock / f"{name}.txt")], clock, env)
    clock.say("installing the project")
    own = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    run([*pip, *own], clock, env)


def set_up(name: str) -> None:
    """Bring the environment to that set unless it is there already."""
    venv = Path(os.environ.get("PRIVACY_VENV") or ROOT / ".venv")
    venv = venv if venv.is_absolute() else Path.cwd() / venv
    if is_ready(venv, name):
        return
    clock = Clock()
    with Path(__file__).open() as turn:  # two runs at once take turns
        fcntl.flock(turn, fcntl.LOCK_EX)
        if is_ready(venv, name):
            return
        make_venv(venv, name, clock)
        install(venv, name, clock)
        stamp_of(venv, name).write_text(stamp_text(venv, name))
        stamp_of(venv, "installing").unlink()
    clock.say(f"{name} is ready in {venv}")


def main() -> int:
    """Run from the command line; 0 if the set is ready."""
    if len(sys.argv) != 2 or sys.argv[1] not in SETS:  # noqa: PLR2004
        print(f"usage: python3 scripts/setup.py {'|'.join(SETS)}", file=sys.stderr)
        return 2
    try:
        set_up(sys.argv[1])
    except SetupError as exc:
        print(f"setup: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
