import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.jobs import Job, Jobs, NewJob, Outcome
from privacy.errors import ConflictError, LimitError, NotFoundError
from tests.support.uploaded import uploaded


@pytest.fixture
def jobs(database: Database):
    for tenant in ("a", "b"):
        uploaded(database, "i", tenant=tenant)
    return Jobs(database)


def _new(
    job_id: str,
    *,
    tenant: str = "a",
    key: str | None = None,
    body: str = "b",
    mode: str = "zkml",
):
    return NewJob(
        id=job_id,
        tenant=tenant,
        idempotency_key=key,
        request_sha256=body,
        model="m",
        version="1",
        model_sha256="d",
        mode=mode,
        simulated=False,
        input_sha256="i",
        keys_sha256="",
        options={"x": 1},
    )


def _seal(job: Job, outcome: Outcome, finished_at: str) -> bytes:
    return f"{job.id} {outcome.status} {finished_at}".encode()


@pytest.mark.parametrize(
    ("column", "code"),
    [("input_sha256", "unknown-blob"), ("keys_sha256", "unknown-keys")],
)
def test_a_job_whose_upload_was_deleted_meanwhile_is_not_taken(
    jobs: Jobs, database: Database, column: str, code: str
):
    uploaded(database, "k", kind="keys")
    uploaded(database, "gone", tenant="b", kind=code.removeprefix("unknown-"))
    new = replace(_new("1"), keys_sha256="k")
    with pytest.raises(NotFoundError) as refusal:
        jobs.accept(
            replace(new, **{column: "gone"}), max_queued=9, max_queued_by_tenant=9
        )
    assert refusal.value.code == code
    assert jobs.unfinished() == []
    assert jobs.accept(new, max_queued=9, max_queued_by_tenant=9)[1]


def test_a_terminal_state_is_written_once_whoever_comes_first(jobs: Jobs):
    jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=9)
    ended: list[bool] = []

    def end(status: str) -> None:
        ended.append(jobs.finish("1", Outcome(status), _seal)[1])

    threads = [
        threading.Thread(target=end, args=(s,))
        for s in ("succeeded", "cancelled", "failed") * 5
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ended) == 1
    job = jobs.find("1")
    receipt = jobs.receipt("1")
    assert receipt == f"1 {job.status} {job.finished_at}".encode()


def test_a_finished_job_cannot_start_again(jobs: Jobs):
    jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=9)
    jobs.finish("1", Outcome("cancelled"), _seal)
    assert jobs.start("1").status == "cancelled"
    assert jobs.find("1").attempts == 0


def test_a_job_that_changed_since_it_was_read_ends_as_it_is_now(jobs: Jobs):
    accepted, _ = jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=9)
    started = jobs.start("1")
    sealed: list[Job] = []

    def seal(job: Job, *_: object) -> bytes:
        sealed.append(job)
        return b"receipt"

    ended, ours = jobs.finish("1", Outcome("failed"), seal, known=accepted)
    assert ours
    assert sealed == [accepted, started]
    assert ended == jobs.find("1")


def test_an_end_whose_files_cannot_be_kept_is_not_written(jobs: Jobs):
    accepted, _ = jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=9)

    def fail(_c: sa.Connection) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        jobs.finish("1", Outcome("succeeded"), _seal, keep=fail, known=accepted)
    assert jobs.find("1") == accepted
    assert jobs.receipt("1") is None


def test_attempts_count_and_the_first_start_is_kept(jobs: Jobs):
    jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=9)
    first = jobs.start("1")
    second = jobs.start("1")
    assert (first.attempts, second.attempts) == (1, 2)
    assert first.started_at == second.started_at > ""


def test_the_same_idempotency_key_gives_the_same_job(jobs: Jobs):
    first, new = jobs.accept(_new("1", key="k"), max_queued=9, max_queued_by_tenant=9)
    again, new_again = jobs.accept(
        _new("2", key="k"), max_queued=9, max_queued_by_tenant=9
    )
    assert (new, new_again) == (True, False)
    assert again == first
    with pytest.raises(ConflictError) as refusal:
        jobs.accept(
            _new("3", key="k", body="other"), max_queued=9, max_queued_by_tenant=9
        )
    assert refusal.value.code == "idempotency-conflict"


def test_idempotency_keys_of_tenants_are_apart(jobs: Jobs):
    jobs.accept(_new("1", key="k"), max_queued=9, max_queued_by_tenant=9)
    other, new = jobs.accept(
        _new("2", tenant="b", key="k"), max_queued=9, max_queued_by_tenant=9
    )
    assert new
    assert other.id == "2"


def test_a_full_queue_refuses(jobs: Jobs):
    jobs.accept(_new("1"), max_queued=1, max_queued_by_tenant=9)
    with pytest.raises(LimitError) as refusal:
        jobs.accept(_new("2"), max_queued=1, max_queued_by_tenant=9)
    assert refusal.value.code == "queue-full"
    jobs.accept(_new("3", mode="tee"), max_queued=1, max_queued_by_tenant=9)
    jobs.start("1")
    jobs.accept(_new("2"), max_queued=1, max_queued_by_tenant=9)


def test_a_tenant_cannot_fill_the_queue_alone(jobs: Jobs):
    jobs.accept(_new("1"), max_queued=9, max_queued_by_tenant=1)
    with pytest.raises(LimitError) as refusal:
        jobs.accept(_new("2"), max_queued=9, max_queued_by_tenant=1)
    assert refusal.value.code == "queue-full"
    jobs.accept(_new("3", tenant="b"), max_queued=9, max_queued_by_tenant=1)


def test_a_tenant_sees_its_own_jobs_only_newest_first(jobs: Jobs):
    for job_id in ("1", "2", "3"):
        jobs.accept(_new(job_id), max_queued=9, max_queued_by_tenant=9)
    jobs.accept(_new("4", tenant="b"), max_queued=9, max_queued_by_tenant=9)
    jobs.finish("2", Outcome("failed"), _seal)
    found = jobs.newest(tenant="a", limit=2, status=None)
    assert [j.id for j in found] == ["3", "2"]
    assert [j.id for j in jobs.newest(tenant="a", limit=9, status="failed")] == ["2"]
    assert jobs.unfinished() == ["1", "3", "4"]
    with pytest.raises(NotFoundError):
        jobs.get("4", tenant="a")
