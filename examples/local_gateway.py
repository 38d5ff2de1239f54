"""A gateway on this machine, for the examples: `privacy serve` as its own process."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from privacy.errors import UnavailableError


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve `folder/models`, signed by `folder/publisher`; give address and API key.

    What an earlier run left of the gateway is removed: it has a new first key.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.rmtree(folder / "gateway", ignore_errors=True)
    (folder / "gateway").mkdir(parents=True)
    log = folder / "gateway.log"
    command = [sys.executable, "-m", "privacy", "serve", "--json"]
    command += ["--data", str(folder / "gateway"), "--store", str(folder / "models")]
    command += ["--port", str(port), "--home", str(folder / "publisher")]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            msg = f"the gateway did not start: see {log}"
            raise UnavailableError(msg)
        ready = json.loads(line)
        wait_until_ready(ready["gateway"], process, log)
        yield ready["gateway"], ready["admin_key"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_until_ready(
    url: str, process: "subprocess.Popen[bytes]", log: Path, *, limit_s: float = 60.0
) -> None:
    """Return once the gateway answers that it is ready.

    Raises:
        UnavailableError: It ended, or is not ready in time.
    """
    import httpx

    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    msg = f"the gateway did not become ready: see {log}"
    raise UnavailableError(msg)
