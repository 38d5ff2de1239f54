"""Requests on chain while the gateway is killed and the chain reorganises.

A real gateway process proves; it is ended with SIGKILL again and again, at random
moments, and started with the same data. anvil replaces its last blocks by empty ones.
A watcher goes on throughout. What counts: each request is fulfilled, once.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.live import Live
from gateway.chain.jobs import GatewayJobs
from gateway.chain.watcher import Terms, Watcher, bundles_in
from privacy.bundle import Bundle
from privacy.chain.abi import Reverted
from privacy.chain.account import Signer, eth_account
from privacy.chain.config import ChainConfig
from privacy.chain.contracts import OnChain, contract, deploy_all
from privacy.chain.inputs import Input, make_input
from privacy.chain.models import (
    OrderOptions,
    events,
    register_model,
    request_inference,
    served_model,
)
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Prices, Sender
from privacy.encoding import Json
from privacy.errors import UnavailableError
from privacy.modes import Mode
from privacy.publish import publish
from privacy.zkml.evm import build_verifier

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FEE, DEPTH, ROWS = 10**16, 4, 4
PUBLISHER, REQUESTER, PROVIDER = 1, 2, 3
_SEED = 5
_LONGEST_S = 600.0


def measure(*, quick: bool) -> Json:
    """Return what became of the requests, JSON-ready; see the module."""
    sys.path.insert(0, str(EXAMPLES))
    from local_chain import chain

    requests, kills, reorganisations = (12, 4, 2) if quick else (100, 20, 5)
    with tempfile.TemporaryDirectory() as scratch, chain() as url:
        folder = Path(scratch)
        bundle, rows = _published(folder)
        site = _Site(url, folder, bundle)
        with Live(folder, folder / "models", zkml_workers="1") as live:
            jobs = GatewayJobs(live.url, live.key)
            started = time.monotonic()
            ids = site.ask(jobs, rows, requests)
            with site.watched(jobs):
                site.disturb(live, kills=kills, reorganisations=reorganisations)
                site.wait_for(ids)
            with live.http() as http:
                made = http.get("/v1/jobs", params={"limit": 500}).json()["jobs"]
        found = site.found(ids)
        site.rpc.close()
    attempts = Counter(job["options"].get("request_id") for job in made)
    return {
        "requests": requests,
        "gateway_kills": kills,
        "reorganisations": reorganisations,
        "jobs": len(made),
        "most_jobs_a_request": max(attempts.values()),
        "seconds": time.monotonic() - started,
        **found,
    }


class _Site:
    """A chain with our contracts and one model, and its accounts."""

    def __init__(self, url: str, folder: Path, bundle: Bundle) -> None:
        self.rpc, self._folder, self._bundle = Rpc(url), folder, bundle
        for number in (PUBLISHER, REQUESTER, PROVIDER):  # long before any fork
            self.rpc.ask("anvil_setBalance", _signer(number).address, hex(10**21))
        verifier = folder / "verifier"
        build_verifier(
            bundle, verifier, progress=lambda _: None, allow_insecure_srs=True
        )
        publisher = self._account(PUBLISHER)
        empty = deploy_all(
            publisher,
            self.rpc,
            authority=publisher.address,
            confirmations=DEPTH,
            url=url,
        )
        made = register_model(publisher, self.rpc, empty, bundle, verifier)
        self._model_id, self._config = made
        self._coordinator: OnChain = contract(self.rpc, empty, "coordinator")

    def _account(self, number: int, rpc: Rpc | None = None) -> Sender:
        return Sender(
            rpc or self.rpc,
            _signer(number),
            chain_id=self.rpc.chain_id(),
            prices=Prices(patience_s=5.0),
        )

    def ask(self, jobs: GatewayJobs, rows: list[Input], count: int) -> list[int]:
        """Hand the inputs over at the gateway and make the requests."""
        served = served_model(self._config, self._model_id)
        for given in rows:
            jobs.hand_over(served, given.commitment, given.blob, sealed=False)
        requester = self._account(REQUESTER)
        ids = [
            request_inference(
                requester,
                self.rpc,
                self._config,
                self._model_id,
                rows[i % len(rows)],
                fee=FEE,
                options=OrderOptions(allow_insecure_srs=True, valid_s=86_400),
            )
            for i in range(count)
        ]
        self.rpc.ask("anvil_mine", hex(DEPTH + 1))
        self.rpc.ask("evm_setIntervalMining", 1)
        return ids

    @contextmanager
    def watched(self, jobs: GatewayJobs) -> Iterator[None]:
        """Have a watcher answer in a thread until the block ends."""
        done, failures = threading.Event(), []

        def watch() -> None:
            try:
                self._watch(jobs, done)
            except Exception as exc:  # noqa: BLE001 - told below, in the other thread
                failures.append(exc)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]

    def _watch(self, jobs: GatewayJobs, done: threading.Event) -> None:
        config: ChainConfig = self._config
        rpc = Rpc(config.rpc)
        watcher = Watcher(
            config,
            rpc=rpc,
            sender=self._account(PROVIDER, rpc),
            jobs=jobs,
            bundles=bundles_in(self._folder / "models"),
            terms=Terms(self._folder),
            notify=lambda _: None,
        )
        while not done.wait(0.2):
            try:
                watcher.round()
            except UnavailableError:
                continue
        watcher.close()
        rpc.close()

    def disturb(self, live: Live, *, kills: int, reorganisations: int) -> None:
        """Kill the gateway so often, and reorganise in between."""
        luck = random.Random(_SEED)  # noqa: S311 - the same moments in every run
        every = kills // reorganisations
        for life in range(kills):
            time.sleep(luck.uniform(0.5, 4.0))
            live.kill()
            if life % every == 0 and life // every < reorganisations:
                self.rpc.ask("anvil_reorg", luck.randrange(1, DEPTH), [])
            live.start()

    def wait_for(self, ids: list[int]) -> None:
        """Return once no request is open, or after a long time."""
        end = time.monotonic() + _LONGEST_S
        while time.monotonic() < end and any(self._is_open(i) for i in ids):
            time.sleep(1.0)

    def _is_open(self, request_id: int) -> bool:
        try:
            self._coordinator.view("getRequest", request_id)
        except Reverted:
            return False
        return True

    def found(self, ids: list[int]) -> Json:
        """Return what the chain says of the requests."""
        coordinator = self._coordinator
        logs = self.rpc.logs(coordinator.address, [coordinator.abi.topic("Fulfilled")])
        told = events(coordinator.abi, logs, coordinator.address)
        times = Counter(int(event.values["requestId"]) for event in told)
        credit = coordinator.view("credit", self._account(PROVIDER).address)
        return {
            "fulfilled": sum(1 for i in ids if times[i] == 1),
            "lost": sum(1 for i in ids if not times[i]),
            "doubled": sum(1 for n in times.values() if n > 1),
            "paid_wei": int(credit),
            "owed_wei": len(ids) * FEE,
        }


def _signer(number: int) -> Signer:
    return Signer(eth_account().from_key(number.to_bytes(32, "big")))


def _published(folder: Path) -> tuple[Bundle, list[Input]]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from privacy.bundle import standardise

    x, y = load_breast_cancer(return_X_y=True)
    model: Any = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    bundle = publish(
        model,
        x,
        name="campaign",
        version="1",
        store=folder / "models",
        classes=("malignant", "benign"),
        modes=[Mode.ZKML],
    )
    rows = standardise(x[:ROWS], bundle.manifest.columns).tolist()
    return bundle, [make_input(bundle, row) for row in rows]


def show(found: Json) -> None:
    """Print the outcome."""
    Console().print(
        f"{found['requests']} requests, gateway killed {found['gateway_kills']} times, "
        f"{found['reorganisations']} reorganisations: {found['fulfilled']} fulfilled "
        f"once, {found['lost']} lost, {found['doubled']} doubled; at most "
        f"{found['most_jobs_a_request']} job(s) a request; {found['seconds']:.0f} s"
    )
