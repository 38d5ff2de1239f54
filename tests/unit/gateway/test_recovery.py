"""Rows that an earlier life of the gateway left behind, whatever state it died in."""

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.jobs.runs import LASTING_S, Complete, Runs
from gateway.jobs.workflow import start_workflow
from gateway.node import _forget_finished, open_database
from gateway.settings import Settings
from gateway.store.blobs import Blobs
from gateway.store.jobs import Jobs, NewJob
from privacy.bundle import Bundle
from privacy.encoding import sha256_hex
from privacy.errors import UnavailableError
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway, wait_until

ORDER = b'{"do":"echo"}'


def _leave(
    folder: Path, job_id: str, bundle: Bundle, *, starts: int = 0, model: str = ""
) -> None:
    """Write what a gateway that died right after accepting a job leaves behind."""
    database = open_database(folder / "data")
    blobs = Blobs(folder / "data" / "blobs")
    path = blobs.path(sha256_hex(ORDER))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ORDER)
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
        input_sha256=sha256_hex(ORDER),
        keys_sha256="",
        options={},
    )
    jobs.accept(new, max_queued=9, max_queued_by_tenant=9)
    for _ in range(starts):
        jobs.start(job_id)
    database.close()


def test_rows_without_a_workflow_are_run_at_the_next_start(tmp_path: Path):
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
        holder.service = replace(whole, runs=_Broken(start_workflow))
        assert api.order({"do": "echo"}, headers=headers).status_code == 500
        holder.service = whole
        job = api.order({"do": "echo"}, headers=headers, wait=20).json()
        assert (job["status"], job["attempts"]) == ("succeeded", 1)


def test_a_job_whose_workflow_cannot_be_written_down_runs_all_the_same(tmp_path: Path):
    write_bundle(tmp_path / "models")
    tried = []

    async def fail(job_id: str) -> None:
        tried.append(job_id)
        raise OSError(job_id)

    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        holder = gateway.app.state.gateway
        holder.service = replace(holder.service, runs=Runs(fail))
        job = api.order({"do": "sleep", "seconds": 4 * LASTING_S}, wait=20).json()
        assert (job["status"], tried) == ("succeeded", [job["id"]])


def _workflows(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "data" / "workflows.sqlite")) as connection:
        rows = connection.execute("SELECT status FROM workflow_status")
        return [status for (status,) in rows]


def test_a_job_that_ends_at_once_needs_no_workflow(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        api.order({"do": "echo"}, wait=20)  # starts the worker, which takes longer
        wait_until(lambda: "PENDING" not in _workflows(tmp_path))
        before = _workflows(tmp_path)
        assert api.order({"do": "echo"}, wait=20).json()["status"] == "succeeded"
        time.sleep(2 * LASTING_S)
        assert _workflows(tmp_path) == before


def test_a_job_whose_workflow_gave_up_is_failed_at_the_next_start(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        order = {"do": "sleep", "seconds": 4 * LASTING_S}
        done = api.order(order, wait=20).json()["id"]
        wait_until(lambda: _workflows(tmp_path) == ["SUCCESS"])
    # Its workflow has ended, yet the row says it runs: as after a lost write.
    database = open_database(tmp_path / "data")
    with database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE jobs SET status='running', finished_at='', receipt=NULL"
        )
    database.close()
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        key = gateway.app.state.gateway.api_keys.create(
            tenant="default", scopes=["admin"]
        )[1]
        api.headers["Authorization"] = f"Bearer {key}"
        assert api.finished(done)["problem"]["code"] == "internal"


def test_one_process_runs_one_gateway(tmp_path: Path):
    async def start_second() -> None:
        app = create_app(Settings(data_dir=tmp_path / "second"))
        async with app.router.lifespan_context(app):
            pytest.fail("a second gateway started")

    with ThreadGateway.fake(tmp_path):
        with pytest.raises(UnavailableError) as refusal:
            asyncio.run(start_second())
        assert refusal.value.code == "already-running"
    with ThreadGateway.fake(tmp_path / "third"):
        pass


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
