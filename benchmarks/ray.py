"""What a Ray cluster costs and brings: jobs through it, and more nodes.

1. FHE and proofs: the same input computed by the mode's runner alone and as a job at a
   node of the cluster, in turns (see `gateway_cost`), all on this machine. A forest of
   50 trees computes for about a second; a logistic regression shows what a job costs.
2. Jobs that wait for half a second instead of computing, at 1, 2 and 4 nodes of 4
   places each: a node has 8 such jobs a second at most.
3. A node is killed while every place is taken: how long until all its jobs are done.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.gateway_cost import of_mode
from benchmarks.live import NAME, Live, published
from benchmarks.ray_cluster import RayCluster
from privacy.bundle import Bundle, open_bundle
from privacy.encoding import Json, sha256_hex
from privacy.modes import Mode
from privacy.publish import is_current, publish

WAIT_S = 0.5
PLACES = 4
NODES = (1, 2, 4)
_MOST_AT_ONCE = 128


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    bundle, rows = published(folder)
    models = bundle.root.parents[1]
    forest = _forest(models)
    with tempfile.TemporaryDirectory() as scratch:
        with _live(Path(scratch) / "1", models, 1, places=1) as (live, _):
            times = 5 if quick else 50
            modes = {
                "fhe, a forest": of_mode(live, forest, rows, Mode.FHE, times),
                "fhe, linear": of_mode(live, bundle, rows, Mode.FHE, times),
                "zkml": of_mode(live, bundle, rows, Mode.ZKML, times),
            }
        with _live(
            Path(scratch) / "2", models, NODES[0], module="benchmarks.waiting"
        ) as (live, cluster):
            waiting = {}
            for count in NODES:
                _grow(live, cluster, count)
                waiting[count] = asyncio.run(_throughput(live, count, quick=quick))
            taken = asyncio.run(_node_killed(live, cluster))
    return {"modes": modes, "waiting": waiting, "killed": taken}


def show(found: Json) -> None:
    """Print the figures."""
    console = Console()
    for mode, of in found["modes"].items():
        console.print(
            f"{mode} at a Ray node: {of['bare']['p50_s'] * 1e3:.0f} ms alone, "
            f"{of['job']['p50_s'] * 1e3:.0f} ms as a job "
            f"({(of['added_ratio'] - 1) * 100:+.1f} %)"
        )
    grid = Table(title=f"jobs that wait {WAIT_S} s, {PLACES} places a node")
    for column in ("nodes", "jobs/s", "of what is possible", "p50 s"):
        grid.add_column(column, justify="right")
    for nodes, of in found["waiting"].items():
        share = f"{of['jobs_per_s'] / of['most_per_s']:.0%}"
        grid.add_row(str(nodes), f"{of['jobs_per_s']:.1f}", share, f"{of['p50_s']:.2f}")
    console.print(grid)
    console.print(
        f"jobs of a killed node were done after {found['killed']['most_s']:.1f} s"
    )


def _forest(models: Path) -> Bundle:
    """Return a model that computes long enough under FHE, published once."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    root = models / "forest" / "1"
    if not (root.is_dir() and is_current(open_bundle(root))):
        shutil.rmtree(root, ignore_errors=True)
        rows, labels = load_breast_cancer(return_X_y=True)
        model = RandomForestClassifier(50, max_depth=4, random_state=0)
        model.fit(rows, labels)
        publish(model, rows, name="forest", version="1", store=models, modes=[Mode.FHE])
    return open_bundle(root)


@contextmanager
def _live(
    folder: Path,
    models: Path,
    nodes: int,
    *,
    places: int = PLACES,
    module: str = "gateway",
) -> Iterator[tuple[Live, RayCluster]]:
    """Give a gateway that has a cluster of so many nodes and runs no job itself."""
    folder.mkdir()
    with RayCluster(folder) as cluster:
        for number in range(nodes):
            _add(cluster, number, places)
        settings = {name: str(value) for name, value in cluster.settings.items()}
        with Live(folder, models, module=module, **settings) as live:
            yield live, cluster


def _add(cluster: RayCluster, number: int, places: int = PLACES) -> None:
    cluster.add(f"node-{number}", "fhe,zkml", zkml_workers=places)


def _grow(live: Live, cluster: RayCluster, count: int) -> None:
    """Wait until the cluster has so many nodes at work, and start what it lacks."""
    for number in range(len(cluster.pids) - 1, count):
        _add(cluster, number)
    with live.http() as http:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            nodes = http.get("/v1/nodes").json()["nodes"]
            begun = [n for n in nodes if n["modes"].get("zkml", {}).get("time_limit_s")]
            if len(begun) == count:
                return
            time.sleep(0.5)
    raise RuntimeError(f"the cluster has not {count} nodes")


async def _throughput(live: Live, nodes: int, *, quick: bool) -> Json:
    """Keep every place busy for some rounds; the first one starts the workers."""
    jobs = nodes * PLACES * (6 if quick else 20)
    async with _client(live) as http:
        await _many(http, nodes * PLACES * 2)
        began = time.monotonic()
        took = await _many(http, jobs)
        passed = time.monotonic() - began
    return {
        "jobs": jobs,
        "jobs_per_s": jobs / passed,
        "most_per_s": nodes * PLACES / WAIT_S,
        "p50_s": sorted(took)[jobs // 2],
    }


async def _node_killed(live: Live, cluster: RayCluster) -> Json:
    """Kill one of four nodes while all are busy, and wait for every job."""
    async with _client(live) as http:
        running = asyncio.create_task(_many(http, NODES[-1] * PLACES, wait_s=5.0))
        await asyncio.sleep(2)
        began = time.monotonic()
        await asyncio.to_thread(cluster.kill, "node-0")
        took = await running
        return {"jobs": len(took), "most_s": time.monotonic() - began}


async def _many(
    http: httpx.AsyncClient, count: int, *, wait_s: float = WAIT_S
) -> list[float]:
    """Run jobs, as many at once as may wait; return how long each took."""
    gate = asyncio.Semaphore(_MOST_AT_ONCE)

    async def one(number: int) -> float:
        async with gate:
            began = time.monotonic()
            blob = f"{wait_s} {number}".encode()
            digest = sha256_hex(blob)
            put = await http.put(f"/v1/blobs/{digest}", content=blob)
            put.raise_for_status()
            body = {"model": NAME, "mode": "zkml", "input": digest}
            wait = {"Prefer": "wait=60"}
            reply = await http.post("/v1/jobs", json=body, headers=wait)
            job = reply.raise_for_status().json()
            if job["status"] != "succeeded":
                raise RuntimeError(str(job["problem"]))
            return time.monotonic() - began

    return await asyncio.gather(*(one(number) for number in range(count)))


def _client(live: Live) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {live.key}"}
    return httpx.AsyncClient(
        base_url=live.url,
        headers=headers,
        timeout=120,
        limits=httpx.Limits(max_connections=_MOST_AT_ONCE + 8),
    )
