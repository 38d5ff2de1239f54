"""A gateway over real HTTP: in a thread of this process, or as a process of its own.

with ThreadGateway.fake(tmp_path) as gateway:      # white-box, fake engines
    gateway.client().get("/v1/models")

gateway = ProcessGateway(data_dir, models_dir)      # `python -m gateway`, real engines
gateway.start(); gateway.kill(); gateway.start(); gateway.stop()
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn

from gateway.app import bootstrap_admin_key, create_app
from gateway.executors.base import Engines
from gateway.server import server_options
from gateway.settings import Settings
from privacy.encoding import sha256_hex
from tests.support.fake_enclave import fake_enclave

FAKE_ENGINES = Engines("tests.support.fake_worker:handler", fake_enclave)


def free_port() -> int:
    """Return a port that neither another worker nor an outgoing connection takes."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = random.randrange(10_000 + worker, 32_000, workers)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(
    true: Callable[[], Any],
    *,
    seconds: float = 60.0,
    every_s: float = 0.02,
    what: str = "",
) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(every_s)
    raise TimeoutError(what or "it never became true")


def printed_json(text: str) -> Any:
    """Return what a command printed with `--json` among a gateway thread's logs."""
    value, _ = json.JSONDecoder().raw_decode(text[text.index("{\n") :])
    return value


class Api(httpx.Client):
    """A client of the gateway with the few calls that most tests make."""

    def upload(self, content: bytes, *, to: str = "blobs") -> str:
        sha256 = sha256_hex(content)
        self.put(f"/v1/{to}/{sha256}", content=content).raise_for_status()
        return sha256

    def order(
        self,
        order: dict[str, Any],
        *,
        mode: str = "zkml",
        model: str = "demo",
        wait: int = 0,
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Upload an order for the fake worker and submit it as a job."""
        sha256 = self.upload(json.dumps(order).encode())
        sent = {"model": model, "mode": mode, "input": sha256, **body}
        prefer = {"Prefer": f"wait={wait}"} if wait else {}
        return self.post("/v1/jobs", json=sent, headers={**prefer, **(headers or {})})

    def finished(self, job_id: str) -> dict[str, Any]:
        """Return a job once it has finished."""
        job: dict[str, Any] = self.get(
            f"/v1/jobs/{job_id}", headers={"Prefer": "wait=50"}
        ).json()
        assert job["finished_at"], job
        return job


class _Served:
    base_url: str
    admin_key: str

    def client(self, key: str | None = None) -> Api:
        """Return a client with a key; the admin key by default, none if empty."""
        key = self.admin_key if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return Api(base_url=self.base_url, headers=headers, timeout=90)

    def new_key(self, *scopes: str, tenant: str = "default", **more: Any) -> str:
        body = {"tenant": tenant, "scopes": list(scopes), **more}
        with self.client() as admin:
            admin.post("/v1/tenants", json={"id": tenant})  # 409 if it is there
            key: str = (
                admin.post("/v1/api-keys", json=body).raise_for_status().json()["key"]
            )
        return key


class ThreadGateway(_Served):
    """A gateway served from a thread; `app.state.gateway` is at hand."""

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.settings = settings.model_copy(update={"port": free_port()})
        scheme = "https" if settings.tls else "http"
        self.base_url = f"{scheme}://127.0.0.1:{self.settings.port}"
        self.admin_key = bootstrap_admin_key(settings) or ""
        self.app = create_app(self.settings, engines=engines)
        config = uvicorn.Config(
            self.app,
            port=self.settings.port,
            **{**server_options(self.settings), "timeout_graceful_shutdown": 1},
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._server.serve(),)
        )

    @classmethod
    def fake(cls, folder: Path, **settings: Any) -> Self:
        """Return a gateway with fake engines, its data and models under `folder`."""
        chosen = {"data_dir": folder / "data", "models_dir": folder / "models"}
        return cls(Settings(**{**chosen, **settings}), FAKE_ENGINES)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(
            lambda: self._server.started or not self._thread.is_alive(), what="start"
        )
        assert self._server.started
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


class ProcessGateway(_Served):
    """A gateway as a process of its own; `module` decides which engines it has."""

    def __init__(
        self,
        data_dir: Path,
        models_dir: Path,
        *,
        module: str = "gateway",
        **settings: Any,
    ) -> None:
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        self._module = module
        self._data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = data_dir / "gateway.log"
        chosen = {
            "data_dir": data_dir,
            "models_dir": models_dir,
            "port": port,
            **settings,
        }
        self._env = {
            **os.environ,
            **{f"PRIVACY_GATEWAY_{k.upper()}": str(v) for k, v in chosen.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it is ready; the first start prints the admin key."""
        out = self._data_dir / "gateway.out"
        with out.open("ab") as stdout, self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        with httpx.Client(timeout=2) as asking:
            wait_until(
                lambda: self._is_ready(asking),
                seconds=90,
                every_s=0.1,
                what="the gateway never became ready",
            )
        self.admin_key = out.read_text().split("shown once: ")[1].split()[0]
        return self

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it cleanly."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(how)
        self.process.wait(30)

    def _is_ready(self, asking: httpx.Client) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text()[-2000:])
        try:
            return asking.get(f"{self.base_url}/readyz").is_success
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.stop()
