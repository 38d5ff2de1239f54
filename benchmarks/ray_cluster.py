"""A Ray cluster on this machine, started by `privacy node start`, whose nodes can die.

with RayCluster(folder) as cluster:
    cluster.add("one", "fhe,zkml")
    cluster.kill("one")                 # as a power cut would, everything at once

Each node has a loopback address, a certificate and a data folder of its own.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

from gateway.executors.ray.credentials import Credentials
from privacy.certs import Certificates

_hosts = itertools.count(3)


class RayCluster:
    """The head is a node of its own, which runs no job; gateways connect to it."""

    def __init__(self, folder: Path) -> None:
        """Choose a port, and a home in `folder`."""
        self.home = folder / "home"
        self.port = _free_port()
        self.address = f"127.0.0.2:{self.port}"
        self.pids: dict[str, int] = {}
        self._modes: dict[str, list[str]] = {}
        self._env: dict[str, dict[str, str]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a gateway that has this cluster and no node of its own."""
        return {
            "ray_address": self.address,
            "ray_credentials": self.home / "cluster",
            "local_modes": "[]",
        }

    def add(self, name: str, modes: str, *options: str, **env: Any) -> None:
        """Start a node; `env` are settings of its own."""
        host = f"127.0.0.{next(_hosts)}"
        credentials = self.home / f"cluster-{name}"
        Credentials(credentials).make(
            Certificates(self.home / "certs"), name=name, hosts=[host]
        )
        token = (self.home / "cluster" / "token").read_bytes()
        (credentials / "token").write_bytes(token)
        self._modes[name] = [
            f"--join={self.address}",
            f"--modes={modes}",
            f"--host={host}",
            f"--credentials={credentials}",
            *options,
        ]
        self._env[name] = {
            f"PRIVACY_GATEWAY_{k.upper()}": str(v) for k, v in env.items()
        }
        self.restart(name)

    def restart(self, name: str) -> None:
        """Start a node that was killed."""
        self._start(name, *self._modes[name], env=self._env[name])

    def kill(self, name: str) -> None:
        """Kill everything of a node at once."""
        main = psutil.Process(self.pids.pop(name))
        everything = [main, *main.children(recursive=True)]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # first, so that none sees another die
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        """Kill every node."""
        for name in list(self.pids):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.kill(name)

    def _start(
        self, name: str, *options: str, env: dict[str, str] | None = None
    ) -> None:
        started = self.privacy("node", "start", f"--name={name}", *options, env=env)
        self.pids[name] = started["pid"]

    def privacy(self, *arguments: str, env: dict[str, str] | None = None) -> Any:
        """Return what a command prints with `--json`."""
        answer = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "privacy", *arguments, "--json"],
            env={**os.environ, **(env or {}), "PRIVACY_HOME": str(self.home)},
            capture_output=True,
            check=False,
        )
        if answer.returncode:
            raise RuntimeError((answer.stdout + answer.stderr).decode()[-2000:])
        return json.loads(answer.stdout)

    def __enter__(self) -> Self:
        """Start the head."""
        self._start("head", "--head", "--modes=", f"--port={self.port}", "--cpus=1")
        return self

    def __exit__(self, *_: object) -> None:
        """Kill every node."""
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
