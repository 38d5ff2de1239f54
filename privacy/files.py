"""Files written whole or not at all, and private ones readable by their owner only."""

import errno
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import FormatError

_SECRET_BYTES = 32


def write_atomic(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write `content` so that a crash leaves the old file or the new one, never half.

    Args:
        path: Where; missing folders are made (0700 when private).
        content: The whole content.
        private: Mode 0600, set before the first byte is written; 0700 for every
            folder that is made.
    """
    make_folder(path.parent, private=private)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:  # mkstemp makes the file 0600
            if not private:
                os.fchmod(fd, 0o644)
            file.write(content)
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes and threads that ask for this file waiting meanwhile.

    Args:
        path: Of the lock, which is made if absent and stays.
    """
    make_folder(path.parent, private=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_folder(path: Path, *, private: bool) -> None:
    """Make a folder and the missing ones above it, all with mode 0700 if private."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True, mode=0o700 if private else 0o755)
    if not path.is_dir():  # an existing file is in the way
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def secret_of_file(path: Path, *, code: str) -> bytes:
    """Return the 32 secret bytes in a file, made on first use with mode 0600.

    Args:
        path: The file.
        code: Of the error.

    Raises:
        FormatError: The file has another length.
    """
    if not path.exists():
        _make_secret(path)
    secret = path.read_bytes()
    if len(secret) != _SECRET_BYTES:
        msg = f"{path} has {len(secret)} bytes, expected {_SECRET_BYTES}: restore it"
        raise FormatError(msg, code=code)
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret whole; if another process is quicker, its secret stays."""
    make_folder(path.parent, private=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_atomic(fresh, secrets.token_bytes(_SECRET_BYTES), private=True)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def default_home() -> Path:
    """Return `$PRIVACY_HOME`, or `~/.privacy`: keys and pins of whoever runs this."""
    return Path(os.environ.get("PRIVACY_HOME") or Path.home() / ".privacy")
