"""A PostgreSQL of one's own: in a folder for the time, gone with whoever started it.

with Postgres() as server:
    url = server.database("gateway")
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

_PR_SET_PDEATHSIG = 1
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
MISSING = "no PostgreSQL here: install it (Debian: apt-get install postgresql)"


class PostgresMissingError(RuntimeError):
    """PostgreSQL is not installed."""


def programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs.

    Raises:
        PostgresMissingError: There is none.
    """
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
    )
    if found:
        return found[-1].parent
    if path := shutil.which("initdb"):
        return Path(path).resolve().parent
    raise PostgresMissingError(MISSING)


class Postgres:
    """A server on a loopback port.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, *, durable: bool = False) -> None:
        """Describe a server; with `durable`, commits reach the disk, as in earnest."""
        self.port = _free_port()
        self._settings = () if durable else _FAST
        self._bin = programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __enter__(self) -> Self:
        """Make the cluster and start the server."""
        self._folder = Path(tempfile.mkdtemp(prefix="privacy-postgres-"))
        user = _user()
        if user:
            shutil.chown(self._folder, *user)
        self._as_user = (
            {"user": user[0], "group": user[1], "extra_groups": []} if (user) else {}
        )
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust",
                  "-E", "UTF8", "--no-locale", "--no-sync")  # fmt: skip
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and remove the folder."""
        if self._process:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self._folder}",
            "max_connections=300",
            *self._settings,
        )
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data]
                + [word for setting in settings for word in ("-c", setting)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self._folder,
                preexec_fn=_end_with_parent,  # noqa: PLW1509
                **self._as_user,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server; connections break."""
        assert self._process
        self._process.send_signal(how)
        self._process.wait(30)
        self._process = None

    def database(self, name: str, *, template: str = "template0") -> str:
        """Make a database; return its address."""
        self._sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def _sql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        import psycopg

        try:
            self._sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *words: Any) -> None:
        subprocess.run(
            [self._bin / program, *words],
            check=True,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            **self._as_user,
        )


def _user() -> tuple[int, int] | None:
    """Return whom the server runs as, since it refuses root; None for who we are."""
    if os.getuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise PostgresMissingError("PostgreSQL does not run as root: add a user postgres")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
