"""What the gateway itself does: durable jobs that compute nothing, on each database.

A job is what a tenant sends: one request that waits for its end, in mode zkml with the
tests' worker, which writes a hundred bytes. It is written down when it is taken, when
it starts and when it ends, with a signed receipt.

- `jobs_per_s`: that many clients, each sending the next job when its last has ended.
- `jobs_per_s_of_two`: the same with two gateways on one PostgreSQL, half of the clients
  at each.
- `added`: one client; a job's time less the median of the same call of the worker.
- `upload`: 80 MB of evaluation keys in one request, and what that adds to the memory.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.live import Live
from benchmarks.measure import Timing
from benchmarks.postgres import Postgres, PostgresMissingError
from privacy.child import Child
from privacy.encoding import Json, sha256_hex
from tests.support.hand_made_bundle import write_bundle

ORDER = json.dumps({"do": "echo"}).encode()
CLIENTS = 8
_UPLOAD_BYTES = 80_000_000
_CHUNK = 1 << 20


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    found: Json = {"clients": CLIENTS, "databases": {}}
    for name in ("sqlite", "postgresql"):
        try:
            with _gateways(name, count=1) as lives:
                one = found["databases"][name] = _measure(lives[0], quick=quick)
            if name == "postgresql":
                with _gateways(name, count=2) as lives:
                    one["jobs_per_s_of_two"] = _jobs_per_s(lives, one["jobs"])
        except PostgresMissingError as exc:
            found["databases"][name] = {"left_out": str(exc)}
    return found


@contextmanager
def _gateways(name: str, *, count: int) -> Iterator[list[Live]]:
    """Give gateways with the tests' workers, all of one database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bundle(folder / "models", needs_keys=False)
        settings = {
            "database_url": "",
            "blobs_dir": str(folder / "blobs"),
            "receipt_key": str(folder / "receipt.key"),
            "zkml_workers": "2",
        }
        if name == "postgresql":
            server = stack.enter_context(Postgres(durable=True))
            settings["database_url"] = server.database("gateway")
        for kind in ("submits", "uploads", "reads"):
            settings[f"{kind}_per_minute"] = "10000000"
        lives = []
        for number in range(count):
            live = Live(
                folder / str(number),
                folder / "models",
                module="tests.support.gateway_with_fakes",
                node_name=f"node-{number}",
                **settings,
            )
            lives.append(stack.enter_context(live))
            live.key = lives[0].key  # shown once, by the first
            _warm(live)
        yield lives


def _warm(live: Live) -> None:
    digest = sha256_hex(ORDER)
    with live.http() as http:
        http.put(f"/v1/blobs/{digest}", content=ORDER).raise_for_status()
        for _ in range(5):  # workers start
            _job(http, digest)


def _measure(live: Live, *, quick: bool) -> Json:
    with live.http() as http:
        digest = sha256_hex(ORDER)
        bare = _bare(50 if quick else 300)
        alone = [_timed(http, digest) for _ in range(50 if quick else 500)]
        jobs = 200 if quick else 2000
        jobs_per_s = _jobs_per_s([live], jobs)
        upload = _upload(http, live.pid)
    added = Timing(tuple(seconds - bare for seconds in alone))
    return {
        "jobs": jobs,
        "jobs_per_s": jobs_per_s,
        "bare_p50_s": bare,
        "added_p50_s": added.p50,
        "added_p95_s": added.p95,
        "upload": upload,
    }


def _body(digest: str) -> Json:
    return {"model": "demo", "mode": "zkml", "input": digest}


def _job(http: httpx.Client, digest: str) -> None:
    headers = {"Prefer": "wait=60"}
    reply = http.post("/v1/jobs", json=_body(digest), headers=headers)
    status = reply.raise_for_status().json()["status"]
    if status != "succeeded":
        raise RuntimeError(f"a job has {status}")


def _timed(http: httpx.Client, digest: str) -> float:
    began = time.perf_counter()
    _job(http, digest)
    return time.perf_counter() - began


def _bare(times: int) -> float:
    """Return the median seconds of the worker's own call."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("tests.support.fake_worker:handler") as child,
    ):
        folder, seconds = Path(scratch), []
        (folder / "input").write_bytes(ORDER)
        request: dict[str, Any] = {"mode": "zkml", "keys": None}
        for name in ("input", "output", "evidence"):
            request[name] = str(folder / name)
        for _ in range(times + 5):
            began = time.perf_counter()
            child.call(request)
            seconds.append(time.perf_counter() - began)
    return Timing(tuple(seconds[5:])).p50


def _jobs_per_s(lives: list[Live], jobs: int) -> float:
    return jobs / asyncio.run(_many(lives, sha256_hex(ORDER), jobs))


async def _many(lives: list[Live], digest: str, jobs: int) -> float:
    """Return the seconds that so many jobs take by several clients at once."""
    left = iter(range(jobs))
    body = json.dumps(_body(digest)).encode()
    key = lives[0].key
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nPrefer: wait=60\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def client(live: Live) -> None:
        port = int(live.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(head + body)
            answer = await _answer(reader)
            if b'"status":"succeeded"' not in answer:
                raise RuntimeError(answer[:500].decode())
        writer.close()

    began = time.perf_counter()
    chosen = (lives[i % len(lives)] for i in range(CLIENTS))
    await asyncio.gather(*(client(live) for live in chosen))
    return time.perf_counter() - began


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Return the body of one response; a client that costs the machine little."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(length))


def _upload(http: httpx.Client, pid: int) -> Json:
    content = os.urandom(_UPLOAD_BYTES)
    digest = sha256_hex(content)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak
    before = _peak_bytes(pid)
    chunks = (content[i : i + _CHUNK] for i in range(0, len(content), _CHUNK))
    began = time.perf_counter()
    http.put(f"/v1/keys/{digest}", content=chunks).raise_for_status()
    seconds = time.perf_counter() - began
    more = _peak_bytes(pid) - before
    return {"bytes": _UPLOAD_BYTES, "seconds": seconds, "memory_bytes": more}


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def show(found: Json) -> None:
    """Print the figures as a table."""
    grid = Table(title=f"jobs that compute nothing, {found['clients']} clients")
    columns = ("database", "jobs/s", "added p50 ms", "p95 ms", "80 MB up s", "more MB")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, one in found["databases"].items():
        if "left_out" in one:
            grid.add_row(name, one["left_out"])
            continue
        grid.add_row(
            name,
            f"{one['jobs_per_s']:.0f}",
            f"{one['added_p50_s'] * 1e3:.1f}",
            f"{one['added_p95_s'] * 1e3:.1f}",
            f"{one['upload']['seconds']:.2f}",
            f"{one['upload']['memory_bytes'] / 1e6:.1f}",
        )
        if "jobs_per_s_of_two" in one:
            grid.add_row("two gateways", f"{one['jobs_per_s_of_two']:.0f}")
    Console().print(grid)
