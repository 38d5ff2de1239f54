"""Comparisons, disputes and doubtful nodes, in either database."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.store.comparisons import Comparisons, plan
from gateway.store.database import Database
from gateway.store.disputes import Dispute, Disputes
from gateway.store.jobs import Jobs, NewJob, Outcome
from gateway.store.node_states import NodeStates
from gateway.store.tables import comparisons
from privacy.clock import now
from privacy.errors import ConflictError, NotFoundError
from tests.support.uploaded import uploaded


def new(job_id: str, **more: str) -> NewJob:
    given = {
        "id": job_id,
        "tenant": "a",
        "idempotency_key": None,
        "request_sha256": "r",
        "model": "m",
        "version": "1",
        "model_sha256": "d",
        "mode": "fhe",
        "simulated": False,
        "input_sha256": "i",
        "keys_sha256": "",
        "options": {},
    }
    return NewJob(**{**given, **more})


def dispute(**more: object) -> Dispute:
    given = {
        "id": "dis_1",
        "job_id": "1",
        "tenant": "a",
        "model": "m",
        "version": "1",
        "model_sha256": "d",
        "mode": "fhe",
        "state": "open",
        "verdict": "",
        "at_fault": "",
        "runs": [{"job_id": "1", "node": "x", "receipt": "{}"}],
        "claims": [{"groups": [["1"]]}],
        "note": "",
        "opened_at": "2026-01-01T00:00:00.000Z",
        "resolved_at": "",
        "resolved_by": "",
    }
    return Dispute(**{**given, **more})


def accept(database: Database, job: NewJob, why: str = "always") -> None:
    uploaded(database, job.input_sha256, tenant=job.tenant)
    Jobs(database).accept(
        job,
        max_queued=9,
        max_queued_by_tenant=9,
        also=lambda c: plan(c, job, why),
    )


def end(database: Database, job_id: str) -> None:
    Jobs(database).finish(job_id, Outcome("succeeded"), lambda *_: b"receipt")


def test_a_step_is_due_when_its_run_has_ended_and_one_gateway_takes_it(database):
    mine, other = Comparisons(database), Comparisons(database)
    accept(database, new("1"))
    assert mine.due() == []
    end(database, "1")
    (due,) = mine.due()
    assert (due.job_id, due.state, due.why) == ("1", "planned", "always")
    (seen,) = other.due()
    assert mine.run_again(due, new("2"))
    assert not other.run_again(seen, new("3"))
    with pytest.raises(NotFoundError):
        Jobs(database).find("3")
    assert (mine.due(), mine.running()) == ([], 1)
    end(database, "2")
    (due,) = other.due()
    assert (due.state, due.job_ids) == ("running", ["1", "2"])
    assert other.step(due, "compare")
    assert not mine.step(due, "agreed")
    (found,) = mine.of_tenant("a", state="compare", limit=5)
    assert mine.run_again(found, new("3"), dispute_id="dis_1")
    assert mine.get("1", tenant="a").job_ids == ["1", "2", "3"]
    assert mine.of_tenant("b", state=None, limit=5) == []
    with pytest.raises(NotFoundError):
        mine.get("1", tenant="b")


def test_a_job_that_is_not_accepted_is_not_planned(database):
    accept(database, new("1", idempotency_key="k"))
    accept(database, new("2", idempotency_key="k"))  # the same request again
    assert Comparisons(database).find("2") is None


def test_a_dispute_changes_as_a_whole_and_is_closed_once(database):
    disputes = Disputes(database)
    with database.write() as c:
        disputes.save(c, dispute(), {"f1", "f2"})
    decided = dispute(state="decided", at_fault="x", verdict="majority")
    with database.write() as c:
        disputes.save(c, decided, {"f2", "f3"})
        assert disputes.accusers(c, "x") == {"a"}
    assert disputes.get("dis_1", tenant="a") == decided
    assert disputes.newest(tenant=None, state="decided", limit=5) == [decided]
    assert disputes.newest(tenant="b", state=None, limit=5) == []
    with pytest.raises(NotFoundError):
        disputes.get("dis_1", tenant="b")
    with pytest.raises(NotFoundError, match="took no part"):
        disputes.resolve("dis_1", at_fault="y", note="", by="op")
    closed = disputes.resolve("dis_1", at_fault="", note="a bad disk", by="op")
    assert closed == replace(
        decided,
        state="resolved",
        verdict="operator",
        at_fault="",
        note="a bad disk",
        resolved_at=closed.resolved_at,
        resolved_by="op",
    )
    with pytest.raises(ConflictError, match="resolved by op"):
        disputes.resolve("dis_1", at_fault="", note="", by="op")


def test_every_gateway_sees_a_quarantine_and_its_end(database):
    mine, other = NodeStates(database), NodeStates(database)
    mine.quarantine("x", "odd")
    assert mine.quarantined() == {"x"}
    assert other.quarantined() == set()
    assert other.refresh()
    assert other.quarantined() == {"x"}
    assert not other.refresh()
    with database.write() as c:
        other.mark(c, "x", "suspect", "a dispute")  # does not end the quarantine
        other.mark(c, "y", "suspect", "a dispute")
    mine.refresh()
    assert {n: s.state for n, s in mine.all().items()} == {
        "x": "quarantined",
        "y": "suspect",
    }
    assert other.release("x")
    assert not other.release("x")
    assert mine.refresh()
    assert mine.quarantined() == set()


def test_what_ended_long_ago_is_forgotten_and_an_owner_may_be_late(database):
    table, found = comparisons, Comparisons(database)
    for job_id, state, at in (
        ("1", "agreed", "2020"),
        ("2", "compare", "2020"),
        ("3", "compare", now()),
        ("4", "disputed", "2020"),
    ):
        accept(database, new(job_id))
        with database.write() as c:
            ours = sa.update(table).where(table.c.job_id == job_id)
            c.execute(ours.values(state=state, changed_at=at))
    found.sweep()
    assert found.find("1") is None
    states = {i: found.get(i, tenant="a").state for i in "234"}
    assert states == {"2": "impossible", "3": "compare", "4": "disputed"}


def test_ids_that_no_database_takes_are_unknown(database):
    with pytest.raises(NotFoundError):
        Disputes(database).get("dis\0", tenant=None)
    with pytest.raises(NotFoundError):
        Comparisons(database).get("job\0", tenant="a")
    assert not NodeStates(database).release("x\0")
