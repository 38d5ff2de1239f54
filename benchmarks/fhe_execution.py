"""Latency mode against throughput mode: one job alone, and many at once.

Jobs of one tree and one key set through a live gateway. `latency` has one worker with a
thread on each core, `throughput` a worker on each core with one thread each.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.fhe_malformed import first_answer, published_alone
from benchmarks.live import Live
from benchmarks.malformed_inputs import Honest
from privacy.encoding import Json


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    store = folder / "malformed"
    root = published_alone(store, "tree")
    found: Json = {}
    for mode in ("latency", "throughput"):
        with Live(folder, store, fhe_execution=mode) as live, live.http() as api:
            honest = Honest.of(root, lambda one, api=api: first_answer(api, one))

            def ask(_turn: int, one: Honest = honest, live: Live = live) -> float:
                started = time.perf_counter()
                with live.http() as own:
                    first_answer(own, one)
                return time.perf_counter() - started

            jobs = 8 if quick else 32
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(8)))  # every worker unpacks the keys
                alone = [ask(i) for i in range(5 if quick else 15)]
                started = time.perf_counter()
                list(pool.map(ask, range(jobs)))
                took = time.perf_counter() - started
        found[mode] = {
            "one_job_s": statistics.median(alone),
            "jobs_per_s": jobs / took,
        }
    return found
