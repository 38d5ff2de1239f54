"""Every command the README shows runs, in its order, as a newcomer would type it."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.live_gateway import free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_HERE = {"make demo", "make test"}  # what runs this test; CI runs them


def commands():
    text = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    return [line for line in lines if line not in NOT_HERE]


@pytest.fixture
def shell(tmp_path):
    """Run lines in a folder that looks like a clone, with a home of its own."""
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    bin_dir = Path(sys.executable).parent
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }
    env.pop("PRIVACY_HOME", None)

    def run(line, **more):
        return subprocess.run(
            ["/bin/bash", "-c", line],
            cwd=tmp_path,
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    run.env, run.folder = env, tmp_path
    return run


@pytest.mark.timeout(900)  # one of them publishes, and nothing is remembered
def test_every_command_of_the_readme_runs(shell):
    lines = commands()
    assert len(lines) >= 9
    port, server, key = str(free_port()), None, ""
    ran = []
    try:
        for shown in lines:
            line = shown.replace("8400", port)
            if line == "privacy serve":
                server, key = serve(shell, port)
            else:
                if "/JOB/" in line:
                    receipts = shell.folder.glob(".privacy/receipts/*/receipt.json")
                    line = f"{shlex.join(['privacy', 'verify', str(next(receipts))])}"
                    line += " --allow-simulated --allow-insecure-srs"
                done = shell(line, **({"PRIVACY_API_KEY": key} if key else {}))
                assert done.returncode == 0, f"{shown}\n{done.stdout}{done.stderr}"
            ran.append(shown)
    finally:
        if server:
            server.terminate()
            server.wait(30)
    assert ran == lines


def serve(shell, port):
    log = shell.folder / "serve.out"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "privacy", "serve", "--port", port],
            cwd=shell.folder,
            env=shell.env,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
    wait_until(lambda: re.search(r"pk_\S+", log.read_text()), seconds=40)
    wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"), seconds=40, every_s=0.2)
    return server, re.search(r"pk_\S+", log.read_text()).group()


def is_ready(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").is_success
