"""What proving does to those who wait: the gateway's answers, a cancel, verification.

In one run, with one model:
- how long the gateway takes to answer small requests, at rest and while a job proves;
- how long after `DELETE` the worker of a running proof is gone;
- how long a proof takes to verify, in a process that is kept (`Verifier`), and in a new
  one; and how long to verify one after another in a row.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.live import Live, published
from benchmarks.measure import Timing
from privacy.bundle import Bundle, standardise
from privacy.encoding import Json, sha256_hex
from privacy.zkml import Verifier, make_input, verify_proofs

_PAUSE_S = 0.01
_TOO_LONG_S = 600.0


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    bundle, (row,) = published(folder)
    asked = 100 if quick else 1000
    rows = standardise([row] * (8 if quick else 128), bundle.manifest.columns)
    with Live(folder, bundle.root.parents[1]) as live, live.http() as http:
        evidence = _finished(http, bundle, rows[:1])  # starts the worker
        found = {
            "at_rest": _answers(http, asked, lambda: True),
            "while_proving": _while_proving(http, bundle, rows, asked),
            "cancel_s": _cancel(http, bundle, rows),
        }
    return {
        "model": bundle.manifest.name,
        "logrows": bundle.manifest.modes["zkml"].params["logrows"],
        **found,
        "verify": _verification(bundle, evidence, rows[:1], 20 if quick else 200),
    }


def _submit(http: httpx.Client, bundle: Bundle, rows: Any) -> str:
    blob = make_input(rows, salt=os.urandom(32))
    digest = sha256_hex(blob)
    http.put(f"/v1/blobs/{digest}", content=blob).raise_for_status()
    body = {"model": bundle.manifest.name, "mode": "zkml", "input": digest}
    job_id: str = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
    return job_id


def _job(http: httpx.Client, job_id: str) -> Json:
    job: Json = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    return job


def _until(http: httpx.Client, job_id: str, is_so: Callable[[Json], bool]) -> Json:
    end = time.monotonic() + _TOO_LONG_S
    while not is_so(job := _job(http, job_id)):
        if time.monotonic() > end or job["problem"]:
            raise RuntimeError(f"the job is {job['status']}: {job['problem']}")
        time.sleep(_PAUSE_S)
    return job


def _is_proving(job: Json) -> bool:
    return bool((job["progress"] or {}).get("done"))


def _finished(http: httpx.Client, bundle: Bundle, rows: Any) -> bytes:
    job_id = _submit(http, bundle, rows)
    _until(http, job_id, lambda job: job["status"] == "succeeded")
    return http.get(f"/v1/jobs/{job_id}/evidence").raise_for_status().content


def _while_proving(http: httpx.Client, bundle: Bundle, rows: Any, most: int) -> Json:
    job_id = _submit(http, bundle, rows)
    _until(http, job_id, _is_proving)
    found = _answers(http, most, lambda: _job(http, job_id)["status"] == "running")
    http.delete(f"/v1/jobs/{job_id}").raise_for_status()
    return found


def _answers(http: httpx.Client, most: int, goes_on: Callable[[], bool]) -> Json:
    """Return how long small requests take, as long as something goes on."""
    seconds: list[float] = []
    paths = ("/healthz", "/v1/models", "/v1/nodes")
    while len(seconds) < most and (len(seconds) % 10 or goes_on()):
        started = time.perf_counter()
        http.get(paths[len(seconds) % len(paths)]).raise_for_status()
        seconds.append(time.perf_counter() - started)
        time.sleep(_PAUSE_S)
    return _figures(seconds)


def _figures(seconds: list[float]) -> Json:
    ordered = sorted(seconds)
    return {
        "times": len(ordered),
        "p50_s": Timing(tuple(ordered)).p50,
        "p99_s": ordered[math.ceil(0.99 * len(ordered)) - 1],
        "longest_s": ordered[-1],
    }


def _cancel(http: httpx.Client, bundle: Bundle, rows: Any) -> float:
    """Return how long after a cancel no worker is busy any more."""
    job_id = _submit(http, bundle, rows)
    _until(http, job_id, _is_proving)
    started = time.perf_counter()
    http.delete(f"/v1/jobs/{job_id}").raise_for_status()
    while _busy(http):
        time.sleep(_PAUSE_S)
    return time.perf_counter() - started


def _busy(http: httpx.Client) -> bool:
    (node,) = http.get("/v1/nodes").raise_for_status().json()["nodes"]
    return bool(node["modes"]["zkml"]["busy"])


def _verification(bundle: Bundle, evidence: bytes, rows: Any, times: int) -> Json:
    warm, cold = [], []
    with Verifier() as verifier:
        for turn in range(times + 3):
            started = time.perf_counter()
            verifier.verify(bundle, evidence, rows=rows, allow_insecure_srs=True)
            if turn > 2:  # noqa: PLR2004 - the first ones load the engine
                warm.append(time.perf_counter() - started)
    for _ in range(3):
        started = time.perf_counter()
        verify_proofs(bundle, evidence, rows=rows, allow_insecure_srs=True)
        cold.append(time.perf_counter() - started)
    return {"warm": _figures(warm), "cold_p50_s": Timing(tuple(cold)).p50}


def show(found: Json) -> None:
    """Print the figures."""
    grid = Table(title=f"{found['model']}: milliseconds")
    for column in ("what", "times", "p50", "p99", "longest"):
        grid.add_column(column, justify="right")
    for name, one in (
        ("answers at rest", found["at_rest"]),
        ("answers while proving", found["while_proving"]),
        ("verification, warm", found["verify"]["warm"]),
    ):
        figures = [f"{one[k] * 1e3:.1f}" for k in ("p50_s", "p99_s", "longest_s")]
        grid.add_row(name, str(one["times"]), *figures)
    console = Console()
    console.print(grid)
    console.print(
        f"verification in a new process: {found['verify']['cold_p50_s']:.2f} s; "
        f"worker gone after a cancel: {found['cancel_s']:.2f} s"
    )
