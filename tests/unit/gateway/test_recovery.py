"""Rows that an earlier life of the gateway left behind, whatever state it died in."""

import asyncio
import errno
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa

from gateway.jobs.ends import Ended
from gateway.jobs.runs import Complete, Runs
from gateway.node import Gateway, _forget_finished
from gateway.opening import open_database
from gateway.signing import ReceiptKeys
from gateway.store.audit import Audit
from gateway.store.away import StoreAwayError
from gateway.store.blobs import Blobs, missing
from gateway.store.database import Database
from gateway.store.jobs import Also, Job, Jobs, NewJob, Outcome
from privacy.bundle import Bundle
from privacy.encoding import Json, sha256_hex
from privacy.errors import UnavailableError
from privacy.receipt import Receipt
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import FAKE_ENGINES, ThreadGateway, wait_until
from tests.support.uploaded import uploaded

ORDER = b'{"do":"echo"}'
SLEEP = b'{"do":"sleep","seconds":60}'


def _leave(
    folder: Path,
    job_id: str,
    bundle: Bundle,
    *,
    starts: int = 0,
    model: str = "",
    order: bytes = ORDER,
) -> None:
    """Write what a gateway that died right after accepting a job leaves behind."""
    database = open_database(folder / "data")
    blobs = Blobs(folder / "data" / "blobs")
    path = blobs.path(sha256_hex(order))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(order)
    jobs = Jobs(database)
    new = NewJob(
        id=job_id,
        tenant="default",
        idempotency_key=None,
        request_sha256="r",
        model="demo",
        version="1",
        model_sha256=model or bundle.sha256,
        mode="zkml",
        simulated=False,
        input_sha256=sha256_hex(order),
        keys_sha256="",
        options={},
    )
    uploaded(database, new.input_sha256, tenant=new.tenant)
    jobs.accept(new, max_queued=9, max_queued_by_tenant=9)
    for _ in range(starts):
        jobs.start(job_id)
    database.close()


def test_rows_that_have_not_ended_are_run_at_the_next_start(tmp_path: Path):
    bundle = write_bundle(tmp_path / "models")
    _leave(tmp_path, "queued", bundle)
    _leave(tmp_path, "running", bundle, starts=2)
    _leave(tmp_path, "poisonous", bundle, starts=10)
    _leave(tmp_path, "replaced", bundle, model="0" * 64)
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        assert api.finished("queued")["status"] == "succeeded"
        assert api.finished("running")["attempts"] == 3
        assert api.finished("poisonous")["problem"]["code"] == "worker-died"
        assert api.finished("replaced")["problem"]["code"] == "model-changed"
        for job_id in ("queued", "poisonous"):
            assert api.get(f"/v1/jobs/{job_id}/receipt").is_success


def _children() -> set[str]:
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {pid for path in found for pid in path.read_text().split()}


@pytest.mark.slow
def test_a_start_that_fails_midway_leaves_no_worker_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _leave(tmp_path, "sleeping", write_bundle(tmp_path / "models"), order=SLEEP)
    served, before = ThreadGateway.fake(tmp_path), _children()
    gateway = Gateway(served.settings, FAKE_ENGINES)

    def away(*_: object) -> NoReturn:
        wait_until(lambda: _children() - before, what="no worker was started")
        raise StoreAwayError("the database is away")

    async def start() -> None:
        gateway.open()
        with pytest.raises(StoreAwayError):
            await gateway.start()
        gateway.close()

    with monkeypatch.context() as patched:
        patched.setattr(Audit, "record", away)
        asyncio.run(start())
    assert _children() <= before
    with served, served.client() as api:
        assert api.delete("/v1/jobs/sleeping").json()["status"] == "cancelled"


class _Broken(Runs):
    def begin(self, job_id: str, complete: Complete) -> None:
        _ = complete
        raise OSError(job_id)


def test_a_row_whose_run_never_began_is_run_when_it_is_asked_again(tmp_path: Path):
    write_bundle(tmp_path / "models")
    headers = {"Idempotency-Key": "k"}
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        holder = gateway.app.state.gateway
        whole = holder.service
        holder.service = replace(whole, runs=_Broken(threads=1))
        assert api.order({"do": "echo"}, headers=headers).status_code == 500
        holder.service = whole
        job = api.order({"do": "echo"}, headers=headers, wait=20).json()
        assert (job["status"], job["attempts"]) == ("succeeded", 1)


def test_jobs_wait_for_a_database_that_is_away_and_end_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        api.order({"do": "echo"}, wait=20)  # starts the worker
        log = tmp_path / "log"
        order = {"do": "sleep", "seconds": 0.3, "log": str(log)}
        job = api.order(order).json()
        wait_until(log.exists)
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", _away)
            patch.setattr(Database, "read", _away)
            time.sleep(0.6)  # the run ends meanwhile
            refused = api.get(job["links"]["self"])
            assert (refused.status_code, refused.json()["code"]) == (
                503,
                "database-unavailable",
            )
            assert refused.headers["Retry-After"]
        assert api.finished(job["id"])["status"] == "succeeded"
        assert len(log.read_text().split()) == 1  # it was not computed again


def _away(_: Database) -> NoReturn:
    raise StoreAwayError("away")


def test_a_full_disk_delays_a_job_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    keep, tried = Blobs.keep, []

    def fail_twice(self: Blobs, file: Path, sha256: str) -> None:
        if "work" in file.parts:
            tried.append(sha256)
            if len(tried) <= 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        keep(self, file, sha256)

    monkeypatch.setattr(Blobs, "keep", fail_twice)
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order({"do": "echo"}, wait=20).json()
        assert job["status"] == "succeeded"
        assert api.get(job["links"]["result"]).is_success
    assert len(tried) >= 3


def test_an_end_that_was_undone_is_written_again_though_its_files_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    write_end, undone = Jobs._write_end, []

    def undo_once(self: Jobs, job: Job, row: Json, keep: Also) -> bool:
        def keep_in_vain(c: sa.Connection) -> None:
            keep(c)
            if not undone:
                undone.append(job.id)
                raise StoreAwayError("away at the commit")

        return write_end(self, job, row, keep_in_vain)

    monkeypatch.setattr(Jobs, "_write_end", undo_once)
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order({"do": "echo"}, wait=20).json()
        assert job["status"] == "succeeded"
        assert undone == [job["id"]]
        assert api.get(job["links"]["result"]).is_success


def test_a_job_whose_files_were_removed_before_its_end_was_written_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    write_end, log = Jobs._write_end, tmp_path / "log"
    undone: list[str] = []
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        blobs = gateway.app.state.gateway.blobs

        def undo_once(self: Jobs, job: Job, row: Json, keep: Also) -> bool:
            def keep_in_vain(c: sa.Connection) -> None:
                keep(c)
                if not undone:
                    undone.append(row["output_sha256"])
                    blobs.remove(undone)  # another job of these bytes was deleted
                    raise StoreAwayError("away at the commit")

            return write_end(self, job, row, keep_in_vain)

        monkeypatch.setattr(Jobs, "_write_end", undo_once)
        job = api.order({"do": "echo", "log": str(log)}, wait=20).json()
        assert job["status"] == "succeeded"
        assert job["attempts"] == len(log.read_text().split()) == 2
        assert api.get(job["links"]["result"]).is_success


def test_what_was_brought_of_a_run_that_ends_too_late_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    brought: list[Path] = []
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        service = gateway.app.state.gateway.service
        cancelled = Ended(Outcome("cancelled"))
        seal = partial(service.ends.seal, cancelled)

        def bring(self: Blobs, file: Path, sha256: str) -> None:
            """As into a bucket; then another gateway cancels the job."""
            if "work" in file.parts:
                path = self.path(sha256)
                path.parent.mkdir(exist_ok=True)
                brought.append(Path(shutil.copyfile(file, path)))
                service.jobs.finish(file.parent.name, cancelled.outcome, seal)

        monkeypatch.setattr(Blobs, "bring", bring)
        job = api.order({"do": "echo"}, wait=20).json()
        wait_until(lambda: not service.under_way(), seconds=20)
    assert job["status"] == "cancelled"
    assert brought
    assert not [path for path in brought if path.exists()]


def test_a_job_waits_for_the_receipt_key_of_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")
    real, tried = ReceiptKeys.sign, []

    def sign(keys: ReceiptKeys, receipt: Receipt) -> bytes:
        tried.append(receipt.status)
        if len(tried) == 1:
            msg = "another gateway rotated it"
            raise UnavailableError(msg, code="receipt-key-mismatch")
        return real(keys, receipt)

    monkeypatch.setattr(ReceiptKeys, "sign", sign)
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order({"do": "echo"}, wait=20).json()
    assert job["status"] == "succeeded"
    assert tried == ["succeeded", "succeeded"]


def test_a_defect_at_the_end_of_a_job_fails_it_rather_than_leave_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(tmp_path / "models")

    keep = Blobs.keep

    def fail(self: Blobs, file: Path, sha256: str) -> None:
        if "work" in file.parts:
            raise missing(sha256)  # not found, as a job that was deleted is
        keep(self, file, sha256)

    monkeypatch.setattr(Blobs, "keep", fail)
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order({"do": "echo"}, wait=20).json()
    assert job["status"] == "failed"
    assert job["problem"]["code"] == "internal"


def test_rows_of_an_unfinished_job_outlive_the_gateway_and_no_others_do(tmp_path: Path):
    bundle = write_bundle(tmp_path / "models")
    _leave(tmp_path, "unfinished", bundle, starts=1)
    work = tmp_path / "data" / "work"
    for job_id in ("unfinished", "forgotten"):
        (work / job_id / "rows").mkdir(parents=True)
        (work / job_id / "rows" / "0").write_bytes(b"row")
    _forget_finished(work, ["unfinished"])
    assert [p.name for p in work.iterdir()] == ["unfinished"]
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        assert api.finished("unfinished")["status"] == "succeeded"
        wait_until(lambda: not list(work.iterdir()), what="the rows are still there")


def test_a_poison_job_is_not_retried_for_ever_however_often_the_gateway_dies(
    tmp_path: Path,
):
    bundle = write_bundle(tmp_path / "models")
    _leave(tmp_path, "poison", bundle)
    for _ in range(12):  # lives in which it was begun and nothing was written down
        database = open_database(tmp_path / "data")
        job = Jobs(database).start("poison")
        database.close()
    assert job.attempts == 12
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        problem = api.finished("poison")["problem"]
    assert problem["code"] == "worker-died"
    assert "12 times" in problem["detail"]
