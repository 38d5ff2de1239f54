"""Results of finished jobs: kept for a while, deleted on request, receipts stay."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.store.database import Database
from gateway.store.jobs import Job, Jobs
from gateway.store.results import Results
from gateway.store.tables import jobs
from privacy.clock import now
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ThreadGateway, wait_until

ECHO = {"do": "echo"}


def _files(gateway: ThreadGateway, job: dict[str, Any]) -> list[bool]:
    blobs = gateway.app.state.gateway.blobs
    names = (job["output_sha256"], job["evidence_sha256"])
    return [blobs.path(sha256).exists() for sha256 in names]


def _refusals(api: Api, job: dict[str, Any]) -> set[tuple[int, str]]:
    answers = [api.get(job["links"][name]) for name in ("result", "evidence")]
    return {(a.status_code, a.json()["code"]) for a in answers}


def test_a_deleted_result_is_gone_and_its_receipt_stays(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order(ECHO, wait=20).json()
        assert _files(gateway, job) == [True, True]
        for _ in range(2):
            assert api.delete(job["links"]["result"]).status_code == 204
        assert _files(gateway, job) == [False, False]
        assert _refusals(api, job) == {(404, "result-gone")}
        left = api.get(job["links"]["self"]).json()
        assert left == {**job, "output_sha256": None, "evidence_sha256": None}
        receipt = json.loads(api.get(job["links"]["receipt"]).content)["receipt"]
        assert receipt["output_sha256"] == job["output_sha256"]


def test_a_result_that_another_job_gave_too_stays(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        first, second = (api.order(ECHO, wait=20).json() for _ in range(2))
        assert first["output_sha256"] == second["output_sha256"]
        api.delete(first["links"]["result"]).raise_for_status()
        assert _refusals(api, first) == {(404, "result-gone")}
        assert api.get(second["links"]["result"]).is_success
        assert api.get(second["links"]["evidence"]).is_success


def test_a_result_stays_that_another_jobs_deletion_meets_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both made the same bytes; the second's are there, and no row names them yet."""
    write_bundle(tmp_path / "models")
    finish = Jobs.finish
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        first = api.order(ECHO, wait=20).json()

        def late(self: Jobs, *args: Any, **more: Any) -> tuple[Job, bool]:
            with gateway.client() as other:
                other.delete(first["links"]["result"]).raise_for_status()
            return finish(self, *args, **more)

        monkeypatch.setattr(Jobs, "finish", late)
        second = api.order(ECHO, wait=20).json()
        assert second["output_sha256"] == first["output_sha256"]
        assert _files(gateway, second) == [True, True]


def test_results_of_jobs_that_run_or_are_anothers_cannot_be_deleted(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        slow = api.order({"do": "sleep", "seconds": 60}).json()
        answer = api.delete(slow["links"]["result"])
        assert (answer.status_code, answer.json()["code"]) == (409, "not-finished")
        api.delete(slow["links"]["self"])
        theirs = gateway.new_key("jobs:read", "jobs:write", tenant="b")
        reader = gateway.new_key("jobs:read")
        job = api.order(ECHO, wait=20).json()
        for key, status in ((theirs, 404), (reader, 403)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = api.delete(job["links"]["result"], headers=headers)
            assert answer.status_code == status
        assert _files(gateway, job) == [True, True]


def test_results_expire_some_time_after_their_jobs_end(tmp_path: Path):
    write_bundle(tmp_path / "models")
    ttl = {"results_ttl_s": 0.5, "sweep_every_s": 0.1}
    with ThreadGateway.fake(tmp_path, **ttl) as gateway, gateway.client() as api:
        job = api.order(ECHO, wait=20).json()
        wait_until(lambda: _files(gateway, job) == [False, False], what="the sweep")
        assert _refusals(api, job) == {(404, "result-gone")}
        assert api.get(job["links"]["receipt"]).is_success


def test_the_sweep_forgets_old_results_only(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        old = api.order({"do": "echo", "n": 1}, wait=20).json()
        new = api.order({"do": "echo", "n": 2}, wait=20).json()
        holder = gateway.app.state.gateway
        database: Database = holder.database
        with database.write() as c:
            long_ago = jobs.update().where(jobs.c.id == old["id"])
            c.execute(long_ago.values(finished_at=now(plus_s=-3600)))
        results = Results(holder.uploads, ttl_s=1800)
        assert results.sweep() == 1  # the evidence is the same for both
        assert _files(gateway, old) == [False, True]
        assert _files(gateway, new) == [True, True]
        assert results.sweep() == 0
