"""A published example and a gateway process to measure."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx

from privacy.bundle import Bundle, open_bundle
from privacy.publish import is_current, publish
from privacy.publish.data import hold_back

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAME = "breast-cancer"


def published(folder: Path) -> tuple[Bundle, list[list[float]]]:
    """Return the breast-cancer example, published once, and one held-back row."""
    sys.path.insert(0, str(EXAMPLES))
    import train_breast_cancer as example

    model, table, _ = example.train()
    root = folder / "models" / NAME / "1"
    if root.is_dir() and not is_current(open_bundle(root)):
        shutil.rmtree(root)
    if not root.is_dir():
        publish(
            model,
            table.to_numpy(),
            name=NAME,
            version="1",
            store=folder / "models",
            columns=list(table.columns),
            classes=example.CLASSES,
        )
    _, held = hold_back(table.to_numpy())
    row: list[float] = table.to_numpy()[held[0]].tolist()
    return open_bundle(root), [row]


class Live:
    """A gateway process on loopback."""

    def __init__(
        self, folder: Path, models: Path, *, module: str = "gateway", **settings: str
    ) -> None:
        """Choose a port, an empty data folder and other settings by name.

        Args:
            folder: For the data folder.
            models: Published models.
            module: Serves the gateway; another one has other engines.
            settings: See `gateway.settings`.
        """
        self._module = module
        self.data = folder / "gateway"
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._models = models
        self._settings = {name.upper(): value for name, value in settings.items()}
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        self.start()
        text = (self.data / "out").read_text()
        self.key = text.rpartition("shown once: ")[2].strip()
        return self

    def start(self) -> None:
        """Start the process, with the data of an earlier life, and wait."""
        names = {"DATA_DIR": self.data, "MODELS_DIR": self._models, "PORT": self._port}
        chosen = {**names, **self._settings}
        env = {f"PRIVACY_GATEWAY_{k}": str(v) for k, v in chosen.items()}
        out, log = (self.data / "out").open("ab"), (self.data / "log").open("ab")
        with out, log:
            self._process = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, "-m", self._module],
                env={**os.environ, **env},
                stdout=out,
                stderr=log,
            )
        end = time.monotonic() + 180
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                raise RuntimeError((self.data / "log").read_text()[-2000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """End the process with SIGKILL, wherever it is."""
        self._process.kill()
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False

    @property
    def pid(self) -> int:
        """The gateway's process id."""
        return self._process.pid

    def http(self) -> httpx.Client:
        """Return a plain HTTP client with the admin key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
