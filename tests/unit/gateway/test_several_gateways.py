"""Two gateways on one PostgreSQL and one folder of blobs; fake engines."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gateway.jobs import membership
from gateway.jobs.membership import Membership
from gateway.node import Gateway
from gateway.store.away import StoreAwayError
from gateway.store.database import Database
from gateway.store.gateways import Gateways
from gateway.store.jobs import Jobs, NewJob, Outcome
from gateway.store.node_states import NodeStates
from privacy.errors import ConflictError
from privacy.modes import Mode
from privacy.tee.kem import CLASSIC, KemKey
from privacy.tee.seal import Purpose, seal_input
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import FAKE_ENGINES, Api, ThreadGateway, wait_until
from tests.support.postgres import migrated
from tests.support.uploaded import uploaded

Start = Callable[..., ThreadGateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a gateway of that name."""
    write_bundle(tmp_path / "models", needs_keys=False)
    url, keys = migrated(), []
    with ExitStack() as stack:

        def start(name: str, *, lease_s: float = 1) -> ThreadGateway:
            gateway = ThreadGateway.fake(
                tmp_path,
                data_dir=tmp_path / name,
                blobs_dir=tmp_path / "blobs",
                receipt_key=tmp_path / "receipt.key",
                node_name=name,
                database_url=url,
                lease_s=lease_s,
            )
            keys.append(gateway.admin_key or keys[0])
            gateway.admin_key = keys[0]
            return stack.enter_context(gateway)

        yield start


def _membership(gateway: ThreadGateway) -> Membership:
    return gateway.app.state.gateway.membership


def _freeze(gateway: ThreadGateway, patch: pytest.MonkeyPatch) -> None:
    """Let a gateway write nothing of its own, as one that was stopped."""
    frozen = threading.Event()

    def wait(*_: object) -> NoReturn:
        frozen.wait(0.5)
        raise StoreAwayError("frozen")

    patch.setattr(_membership(gateway), "_round", wait)


def _logged(log: Path) -> int:
    return len(log.read_text().split()) if log.exists() else 0


def _events(api: Api, job: dict[str, Any]) -> list[str]:
    with api.stream("GET", job["links"]["events"]) as stream:
        return [line for line in stream.iter_lines() if line.startswith("event:")]


def test_any_gateway_shows_streams_and_gives_what_another_runs(
    start: Start, tmp_path: Path
):
    with start("one").client() as one, start("two").client() as two:
        order = {"do": "progress", "total": 4, "seconds": 0.6}
        job = one.order(order, headers={"Idempotency-Key": "k"}).json()
        events = _events(two, job)
        assert events[-1] == "event: status"
        assert "event: progress" in events
        done = two.get(job["links"]["self"]).json()
        assert (done["status"], done["attempts"]) == ("succeeded", 1)
        assert two.get(job["links"]["result"]).json()["echo"] == order
        again = two.order(order, headers={"Idempotency-Key": "k"}).json()
        assert again == done
        assert two.get(job["links"]["receipt"]).is_success


def test_a_job_is_cancelled_at_another_gateway_and_its_worker_ends(
    start: Start, tmp_path: Path
):
    log = tmp_path / "log"
    with start("one").client() as one, start("two").client() as two:
        job = one.order({"do": "sleep", "seconds": 60, "log": str(log)}).json()
        wait_until(lambda: _logged(log))
        cancelled = two.delete(job["links"]["self"]).json()
        assert cancelled["status"] == "cancelled"
        pid = Path(f"/proc/{log.read_text().split()[0]}")
        wait_until(lambda: not pid.exists(), seconds=10, what="the worker lives on")


def test_jobs_of_a_gateway_that_beats_no_more_are_taken_over_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slow, heir = start("slow"), start("heir")
    log, second = tmp_path / "log", tmp_path / "second"
    with slow.client() as one, heir.client() as two:
        order = {"do": "sleep", "seconds": 2.5, "log": str(log)}
        job = one.order(order).json()
        queued = one.order({"do": "echo", "log": str(second)}).json()
        wait_until(lambda: _logged(log))
        with monkeypatch.context() as patch:
            _freeze(slow, patch)
            wait_until(lambda: _logged(log) == 2, seconds=30)
            # The slow one ends its run meanwhile; its end is not taken.
            taken = two.finished(job["id"])
            assert (taken["status"], taken["attempts"]) == ("succeeded", 2)
            assert two.finished(queued["id"])["status"] == "succeeded"
        before = _membership(slow).id
        wait_until(lambda: _membership(slow).id != before, what="it noticed nothing")
        assert one.get(job["links"]["self"]).json() == taken
        receipts = [api.get(job["links"]["receipt"]).content for api in (one, two)]
        assert receipts[0] == receipts[1]
        assert one.order({"do": "echo"}, wait=20).json()["status"] == "succeeded"


def test_a_gateway_that_stops_leaves_its_jobs_to_others_at_once(
    start: Start, tmp_path: Path
):
    log = tmp_path / "log"
    with start("stays").client() as api:
        leaving = start("leaves")
        with leaving.client() as other:
            job = other.order({"do": "sleep", "seconds": 1, "log": str(log)}).json()
            wait_until(lambda: _logged(log))
        leaving.__exit__()
        assert api.finished(job["id"])["status"] == "succeeded"


@pytest.mark.slow
def test_nobody_is_taken_for_dead_because_the_database_was_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    gateways = [start("one"), start("two")]
    ids = [_membership(gateway).id for gateway in gateways]
    with monkeypatch.context() as patch:
        for name in ("beat", "all"):
            patch.setattr(Gateways, name, _away)
        time.sleep(2.5)
    time.sleep(1.5)
    assert [_membership(gateway).id for gateway in gateways] == ids


def _away(*_: object) -> NoReturn:
    raise StoreAwayError("away")


@pytest.mark.slow
def test_a_key_revoked_at_one_gateway_is_soon_refused_by_the_other(start: Start):
    one, two = start("one"), start("two")
    with one.client() as admin:
        made = admin.post(
            "/v1/api-keys", json={"tenant": "default", "scopes": ["jobs:read"]}
        ).json()
        with two.client(made["key"]) as tenant:
            wait_until(lambda: tenant.get("/v1/jobs").is_success, seconds=5)
            admin.delete(f"/v1/api-keys/{made['id']}").raise_for_status()
            # Two seconds, on a machine that is not busy.
            wait_until(lambda: tenant.get("/v1/jobs").status_code == 401, seconds=20)


@pytest.fixture
def shared() -> Iterator[Database]:
    database = Database(migrated())
    yield database
    database.close()


def _namesake(gateways: Gateways, folder: Path, jobs: Jobs) -> Membership:
    return Membership(gateways, jobs, folder, name="one", lease_s=0.5)


def test_two_gateways_that_live_cannot_have_one_name(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(membership, "_BEATS", 100)  # it may miss most of its beats
    first = start("one", lease_s=20)
    settings = first.settings.model_copy(update={"data_dir": tmp_path / "other"})
    second = Gateway(settings, FAKE_ENGINES)
    second.open()
    try:
        with pytest.raises(ConflictError, match="PRIVACY_GATEWAY_NODE_NAME") as refusal:
            asyncio.run(second.start())
    finally:
        second.close()
    assert refusal.value.code == "node-name-taken"


def test_of_two_namesakes_that_start_at_once_one_goes_on(
    shared: Database, tmp_path: Path
):
    gateways, jobs = Gateways(shared), Jobs(shared)
    both = [_namesake(gateways, tmp_path / name, jobs) for name in "ab"]
    for one in both:
        one.outlive_namesake()  # neither is written down yet
    with ThreadPoolExecutor() as threads:
        joined = [threads.submit(one.join) for one in both]
    refusals = [error for call in joined if (error := call.exception())]
    assert [getattr(error, "code", "") for error in refusals] == ["node-name-taken"]
    assert len(gateways.all()) == 1


def test_the_name_of_a_gateway_that_died_is_free(shared: Database, tmp_path: Path):
    gateways, jobs = Gateways(shared), Jobs(shared)
    _namesake(gateways, tmp_path / "a", jobs).join()
    again = _namesake(gateways, tmp_path / "a", jobs)  # the same one, started again
    again.outlive_namesake()
    assert len(gateways.all()) == 1
    heir = _namesake(gateways, tmp_path / "b", jobs)  # the first one's folder is gone
    heir.outlive_namesake()
    assert gateways.all() == []


def test_two_gateways_may_doubt_a_node_at_once(shared: Database):
    states = NodeStates(shared)
    with ThreadPoolExecutor() as threads:
        with shared.write() as c:
            states.mark(c, "far", "quarantined", "it lied")
            other = threads.submit(_suspect, shared)
            time.sleep(0.2)
            assert not other.done()  # it waits for what we write
        other.result(10)
    states.refresh()
    assert [(s.node, s.state) for s in states.all().values()] == [
        ("far", "quarantined")
    ]


def _suspect(database: Database) -> None:
    with database.write() as c:
        NodeStates(database).mark(c, "far", "suspect", "it differs")


class _Runner:
    """Notes what a membership asks of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def under_way(self) -> set[str]:
        return {"moved", "ended", "mine"}

    def begin(self, job_id: str) -> None:
        self.asked.append(("begin", job_id))

    def abandon(self, job_id: str) -> None:
        self.asked.append(("abandon", job_id))

    def let_go(self, job_id: str) -> None:
        self.asked.append(("let go", job_id))


def test_only_a_job_that_has_ended_is_cancelled_at_a_node_that_others_may_have(
    shared: Database, tmp_path: Path
):
    gateways, jobs = Gateways(shared), Jobs(shared)
    one, heir = (
        Membership(gateways, jobs, tmp_path / name, name=name, lease_s=10)
        for name in ("one", "heir")
    )
    for member in (one, heir):
        member.join()
    uploaded(shared, "i")
    for job_id, gateway in (("moved", heir), ("ended", one), ("mine", one)):
        new = NewJob(
            id=job_id,
            tenant="a",
            idempotency_key=None,
            request_sha256="b",
            model="m",
            version="1",
            model_sha256="d",
            mode="zkml",
            simulated=False,
            input_sha256="i",
            keys_sha256="",
            options={},
            gateway=gateway.id,
        )
        jobs.accept(new, max_queued=9, max_queued_by_tenant=9)
    jobs.finish("ended", Outcome("cancelled"), lambda *_: b"receipt")
    runner = _Runner()
    here = runner.under_way()
    one._act(one._round(here, set(), {}), here, runner, lambda *_: None)
    assert sorted(runner.asked) == [("abandon", "ended"), ("let go", "moved")]
    assert one.names() == {"one", "heir"}
    gateways.bury(next(m for m in gateways.all() if m.id == one.id))
    heir._gateways.claim(heir.id)
    one._beat_at = 0.0
    runner.asked.clear()
    one._act(one._round(here, set(), {}), here, runner, lambda *_: None)
    assert sorted(runner.asked) == [
        ("abandon", "ended"),
        ("let go", "mine"),
        ("let go", "moved"),
    ]
    for member in (one, heir):
        member.leave()


def test_a_sealed_job_is_run_by_the_gateway_that_has_its_enclave(
    shared: Database, tmp_path: Path
):
    gateways, jobs = Gateways(shared), Jobs(shared)
    one, two = (
        Membership(gateways, jobs, tmp_path / name, name=name, lease_s=10)
        for name in ("one", "two")
    )
    purpose = Purpose("0" * 64, bytes(32), bytes(32))
    key = KemKey.generate(CLASSIC)
    sealed = tmp_path / "sealed"
    sealed.write_bytes(
        seal_input(
            [[1.0]], columns=1, key=key.public, purpose=purpose, reply_key=bytes(32)
        )
    )
    for member in (one, two):
        member.join()
    assert two.gateway_for(Mode.TEE, lambda: sealed) == two.id  # nobody has it
    gateways.keep_enclave(key.public.id.hex(), one.id)
    assert two.gateway_for(Mode.TEE, lambda: sealed) == one.id
    assert two.gateway_for(Mode.ZKML, lambda: sealed) == two.id
    one.leave()
    assert two.gateway_for(Mode.TEE, lambda: sealed) == two.id
    sealed.write_bytes(b"no sealed input")
    assert two.gateway_for(Mode.TEE, lambda: sealed) == two.id
    two.leave()
