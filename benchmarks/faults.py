"""`python -m benchmarks.faults [--jobs 500] [--gateway-kills 200] [--node-kills 50]`.

Two gateways on one PostgreSQL, and a Ray cluster of two nodes (one states a GPU), on
this machine. Jobs of modes fhe and zkml come in all the while; gateways and nodes are
killed with SIGKILL, a gateway with all its processes, a node with all of Ray's. The
worker is the tests': it waits as long as a job says, and notes each run in a file.

What is counted:

- never taken: ordered, and no gateway accepted it, however often it was asked;
- lost: accepted, and not ended, or not known any more;
- failed: ended otherwise than with an answer;
- duplicate effects: a second job of one idempotency key, a receipt that changed, or a
  receipt that is not of the job;
- wrong in the logs: a receipt that is not in the log of receipts, or twice; a submitted
  job that is not in the audit log; a chain, a root or a head that does not hold;
- runs again: runs beyond a job's first; they cost time, and have no effect;
- takeover: from the death of a gateway that had jobs until none was open in its name,
  when it stayed dead; restart: until it answered, when it was started again at once;
- node: from a node's death until every job that ran anywhere had ended or begun again.

With `--node-kills 0` there is no Ray: each gateway runs jobs itself.
"""

import argparse
import contextlib
import json
import os
import queue
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.fault_logs import check_logs
from benchmarks.live import Live
from benchmarks.postgres import Postgres
from benchmarks.ray_cluster import RayCluster
from privacy.encoding import Json, sha256_hex
from privacy.jws import key_from_jwk, key_id
from privacy.receipt import verify_receipt
from tests.support.hand_made_bundle import write_bundle

_ROOT = Path(__file__).resolve().parents[1]
_CLIENTS = 6
_GIVE_UP_S = 300.0
_BUSY_S = 5.0  # a gateway that has no job by then is killed without
_OPEN = "status IN ('queued', 'running')"
_FAKES = "tests.support.gateway_with_fakes"


@dataclass(slots=True)
class Tally:
    """What happened."""

    accepted: dict[str, str] = field(default_factory=dict)  # job by idempotency key
    duplicates: list[str] = field(default_factory=list)
    receipts: dict[str, bytes] = field(default_factory=dict)
    gateway_kills: int = 0
    node_kills: int = 0
    takeover_s: list[float] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    node_s: list[float] = field(default_factory=list)


class Site:
    """The database, the gateways and the nodes."""

    def __init__(self, folder: Path, *, nodes: bool, lease_s: float) -> None:
        """Describe them."""
        self._folder, self._nodes = folder, nodes
        self._lease_s = lease_s
        self._stack = ExitStack()
        self.gateways: list[Live] = []
        self.cluster: RayCluster | None = None

    def __enter__(self) -> Self:
        """Start everything."""
        with self._stack as stack:
            write_bundle(self._folder / "models", needs_keys=False)
            server = stack.enter_context(Postgres(durable=True))
            url = server.database("gateway")
            self.rows = stack.enter_context(
                psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
            )
            settings = {"zkml_workers": "2", "fhe_workers": "2"}
            if self._nodes:
                settings = {k: str(v) for k, v in self._start_nodes(stack).items()}
            for name in ("one", "two"):
                live = Live(
                    self._folder / name,
                    self._folder / "models",
                    module=_FAKES,
                    database_url=url,
                    blobs_dir=str(self._folder / "blobs"),
                    receipt_key=str(self._folder / "receipt.key"),
                    lease_s=str(self._lease_s),
                    node_name=name,
                    **{f"{k}_per_minute": "1000000" for k in _LIMITED},
                    **settings,
                )
                live.start()
                stack.callback(self.kill, live)
                self.gateways.append(live)
            text = (self.gateways[0].data / "out").read_text()
            self.key = text.split("shown once: ")[1].split()[0]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def _start_nodes(self, stack: ExitStack) -> Json:
        known = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), known])  # the worker's
        self.cluster = stack.enter_context(RayCluster(self._folder / "ray"))
        self.cluster.add("first", "fhe,zkml", zkml_workers=2, fhe_workers=2)
        self.cluster.add("second", "fhe,zkml", "--gpu", zkml_workers=2, fhe_workers=2)
        settings: Json = self.cluster.settings
        return settings

    def kill(self, live: Live) -> None:
        """End a gateway and its processes at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(live.pid)
            for process in [main, *main.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        live.kill()

    def open_jobs(self, gateway: str = "") -> dict[str, int]:
        """Return open jobs, of one gateway or all, and how often each was begun."""
        query = f"SELECT id, attempts FROM jobs WHERE {_OPEN}"  # noqa: S608 - ours
        query += " AND gateway = %s" if gateway else " AND status = 'running'"
        found = self.rows.execute(query.encode(), [gateway] if gateway else None)
        return dict(found.fetchall())

    def http(self, number: int) -> httpx.Client:
        """Return a client of a gateway."""
        headers = {"Authorization": f"Bearer {self.key}"}
        url = self.gateways[number % len(self.gateways)].url
        return httpx.Client(base_url=url, headers=headers, timeout=20)


_LIMITED = ("submits", "uploads", "reads")


def campaign(
    *, jobs: int, gateway_kills: int, node_kills: int, lease_s: float = 10.0
) -> Json:
    """Return what came of it, JSON-ready; see the module."""
    tally, orders = Tally(), queue.Queue[int | None]()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Site(Path(scratch), nodes=node_kills > 0, lease_s=lease_s) as site,
    ):
        log, began = Path(scratch) / "runs", time.monotonic()
        log.mkdir()
        clients = [
            threading.Thread(target=_client, args=(site, orders, tally, log, n))
            for n in range(_CLIENTS)
        ]
        for thread in clients:
            thread.start()
        each = max(1, gateway_kills // node_kills) if node_kills else 0
        for turn in range(gateway_kills):
            given = (jobs * (turn + n) // gateway_kills for n in (0, 1))
            for number in range(*given):
                orders.put(number)
            _kill_gateway(site, tally, turn)
            if each and turn % each == 0:
                _kill_node(site, tally, turn // each)
            _look(site, tally)
            done = f"{turn + 1} of {gateway_kills}"
            print(f"{done}: {len(tally.accepted)} jobs", flush=True)
        for _ in clients:
            orders.put(None)
        for thread in clients:
            thread.join()
        ended = _ends(site, tally)
        runs = [len(path.read_text().split()) for path in log.iterdir()]
        lasted_s = time.monotonic() - began
        _check_receipts(site, tally)
        with site.http(0) as http:
            logs = check_logs(
                http, [tally.receipts[j] for j in tally.accepted.values()]
            )
        keys = site.rows.execute(b"SELECT count(*) FROM jobs").fetchone()
    assert keys
    if keys[0] != len(tally.accepted):
        tally.duplicates.append(f"{keys[0]} rows of {len(tally.accepted)} jobs")
    return {
        "jobs": len(tally.accepted),
        "never_taken": jobs - len(tally.accepted),
        "gateway_kills": tally.gateway_kills,
        "node_kills": tally.node_kills,
        "lost": [job for job, status in ended.items() if status == "lost"],
        "ends": dict(Counter(ended.values())),
        "duplicates": tally.duplicates,
        "logs": logs,
        "runs_again": sum(runs) - len(runs),
        "seconds": lasted_s,
        **{
            f"{name}_s": _summary(getattr(tally, f"{name}_s"))
            for name in ("takeover", "restart", "node")
        },
    }


def _summary(seconds: list[float]) -> Json | None:
    if not seconds:
        return None
    return {"p50": statistics.median(seconds), "most": max(seconds)}


def _client(
    site: Site,
    orders: "queue.Queue[int | None]",
    tally: Tally,
    log: Path,
    seed: int,
) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    while (number := orders.get()) is not None:
        order = {
            "do": "sleep",
            "seconds": rng.choice((0.05, 0.5, 2.0, 4.0)),
            "log": str(log / str(number)),
        }
        content = json.dumps(order).encode()
        mode = rng.choice(("fhe", "zkml"))
        body = {"model": "demo", "mode": mode, "input": sha256_hex(content)}
        key = f"job {number}"
        tally.accepted[key] = _accepted(site, rng, key, content, body)
        if rng.random() < 0.1:  # noqa: PLR2004 - a client that did not see the answer
            again = _accepted(site, rng, key, content, body)
            if again != tally.accepted[key]:
                tally.duplicates.append(f"{key}: {again}")


def _accepted(
    site: Site, rng: random.Random, key: str, content: bytes, body: Json
) -> str:
    """Return the job that a gateway took, however often it has to be asked."""
    until = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < until:
        with (
            contextlib.suppress(httpx.TransportError),
            site.http(rng.randrange(2)) as h,
        ):
            put = h.put(f"/v1/blobs/{body['input']}", content=content)
            headers = {"Idempotency-Key": key}
            reply = h.post("/v1/jobs", json=body, headers=headers)
            if put.is_success and reply.is_success:
                return str(reply.json()["id"])
            if reply.status_code not in {404, 429, 500, 503}:
                raise RuntimeError(reply.text)
        time.sleep(rng.uniform(0.05, 0.3))
    raise TimeoutError(key)


def _kill_gateway(site: Site, tally: Tally, turn: int) -> None:
    """Kill one; every second time it stays dead until the other has its jobs."""
    live = site.gateways[turn % 2]
    mine = (live.data / "gateway-id").read_text()
    time.sleep(random.uniform(0, 0.5))  # noqa: S311
    until = time.monotonic() + _BUSY_S
    while not site.open_jobs(mine) and time.monotonic() < until:
        time.sleep(0.05)
    site.kill(live)
    tally.gateway_kills += 1
    began, had = time.monotonic(), site.open_jobs(mine)
    if turn % 4 < 2:  # noqa: PLR2004
        _wait(lambda: not site.open_jobs(mine), what="nobody took over")
        if had:
            tally.takeover_s.append(time.monotonic() - began)
        live.start()
    else:
        live.start()
        tally.restart_s.append(time.monotonic() - began)


def _kill_node(site: Site, tally: Tally, turn: int) -> None:
    assert site.cluster
    name = ("first", "second")[turn % 2]
    running = site.open_jobs()
    site.cluster.kill(name)
    tally.node_kills += 1
    began = time.monotonic()

    def all_go_on() -> bool:
        now = site.open_jobs()
        return all(now.get(job, -1) != attempts for job, attempts in running.items())

    _wait(all_go_on, what="jobs of a dead node do not go on")
    if running:
        tally.node_s.append(time.monotonic() - began)
    site.cluster.restart(name)


def _wait(true: Callable[[], bool], *, what: str) -> None:
    until = time.monotonic() + _GIVE_UP_S
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.1)


def _look(site: Site, tally: Tally) -> None:
    """Keep the receipts of jobs that have ended, to see whether they ever change."""
    found = site.rows.execute(b"SELECT id, receipt FROM jobs WHERE receipt IS NOT NULL")
    for job, receipt in found.fetchall():
        if tally.receipts.setdefault(job, receipt) != receipt:
            tally.duplicates.append(f"{job}: another receipt")


def _ends(site: Site, tally: Tally) -> dict[str, str]:
    """Return how each accepted job ended, as gateways tell; "lost" if it did not."""
    ended, until = {}, time.monotonic() + _GIVE_UP_S
    for number, job in enumerate(tally.accepted.values()):
        ended[job] = "lost"
        while ended[job] == "lost" and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError), site.http(number) as http:
                found = http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=10"})
                view = found.json() if found.is_success else {}
                if view.get("finished_at"):
                    problem = view["problem"] or {"code": ""}
                    ended[job] = f"{view['status']} {problem['code']}".strip()
    return ended


def _check_receipts(site: Site, tally: Tally) -> None:
    with site.http(0) as http:
        keys = http.get("/.well-known/jwks.json").json()["keys"]
        known = {key_id(key): key for key in map(key_from_jwk, keys)}
        for number, job in enumerate(tally.accepted.values()):
            with site.http(number) as other:
                raw = other.get(f"/v1/jobs/{job}/receipt").content
            if verify_receipt(raw, known).job_id != job:
                tally.duplicates.append(f"{job}: the receipt of another job")
            if tally.receipts.setdefault(job, raw) != raw:
                tally.duplicates.append(f"{job}: another receipt")


def show(found: Json) -> None:
    """Print the table."""
    grid = Table(title=f"{found['jobs']} jobs in {found['seconds']:.0f} s")
    grid.add_column("what")
    grid.add_column("found", justify="right")
    grid.add_row("gateways killed", str(found["gateway_kills"]))
    grid.add_row("nodes killed", str(found["node_kills"]))
    grid.add_row("jobs never taken", str(found["never_taken"]))
    grid.add_row("jobs lost", str(len(found["lost"])))
    for end, count in sorted(found["ends"].items()):
        grid.add_row(f"jobs {end}", str(count))
    grid.add_row("duplicate effects", str(len(found["duplicates"])))
    grid.add_row("receipts in the log", str(found["logs"]["receipts"]))
    grid.add_row("entries of the audit log", str(found["logs"]["audit_entries"]))
    grid.add_row("wrong in the logs", str(len(found["logs"]["wrong"])))
    grid.add_row("runs again", str(found["runs_again"]))
    for name in ("takeover", "restart", "node"):
        if times := found[f"{name}_s"]:
            text = f"{times['p50']:.1f} / {times['most']:.1f}"
            grid.add_row(f"{name}: seconds, median / most", text)
    Console().print(grid)


def wrong(found: Json) -> list[str]:
    """Return what went wrong, in words; nothing if every job ended well, once."""
    ends = {end: n for end, n in found["ends"].items() if end != "succeeded"}
    counts = {
        "never taken": found["never_taken"],
        "lost": len(found["lost"]),
        **ends,
        "duplicate effects": len(found["duplicates"]),
        "wrong in the logs": len(found["logs"]["wrong"]),
    }
    return [f"{what}: {count}" for what, count in counts.items() if count]


def main() -> None:
    """Run the campaign and print what came of it; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--gateway-kills", type=int, default=200)
    parser.add_argument("--node-kills", type=int, default=50)
    parser.add_argument("--lease-s", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = campaign(
        jobs=args.jobs,
        gateway_kills=args.gateway_kills,
        node_kills=args.node_kills,
        lease_s=args.lease_s,
    )
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if wrong(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
