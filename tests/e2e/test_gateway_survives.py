"""A gateway process that is killed while it works loses no job and ends none twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privacy.jws import key_from_jwk, key_id
from privacy.receipt import verify_receipt
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ProcessGateway, wait_until

FAKES = "tests.support.gateway_with_fakes"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ProcessGateway]:
    write_bundle(tmp_path / "models", needs_keys=False)
    process = ProcessGateway(
        tmp_path / "data", tmp_path / "models", module=FAKES, zkml_workers=2
    )
    with process:
        yield process


def _receipt(api: Api, job_id: str) -> bytes:
    (jwk,) = api.get("/.well-known/jwks.json").json()["keys"]
    key = key_from_jwk(jwk)
    raw = api.get(f"/v1/jobs/{job_id}/receipt").raise_for_status().content
    assert verify_receipt(raw, {key_id(key): key}).job_id == job_id
    return raw


def _logged(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def _finished(api: Api) -> list[str]:
    jobs = api.get("/v1/jobs", params={"status": "succeeded"}).json()["jobs"]
    return [job["id"] for job in jobs]


def test_jobs_survive_three_kills_and_end_exactly_once(
    process: ProcessGateway, tmp_path: Path
):
    logs = {}
    with process.client() as api:
        for i in range(12):
            order = {"do": "sleep", "seconds": 0.3, "log": str(tmp_path / f"log{i}")}
            mode = ("zkml", "fhe")[i % 2]
            headers = {"Idempotency-Key": f"job {i}"}
            answer = api.order(order, mode=mode, headers=headers)
            logs[answer.json()["id"]] = (i, order, mode, Path(order["log"]))
    receipts: dict[str, bytes] = {}
    for finished in (0, 2, 6):  # then kill, with the others under way
        with process.client() as api:
            wait_until(lambda: len(_finished(api)) >= finished)  # noqa: B023
            receipts.update(
                {job_id: _receipt(api, job_id) for job_id in _finished(api)}
            )
        process.kill()
        process.start()
    assert 6 <= len(receipts) < 12
    with process.client() as api:
        for job_id, (i, order, mode, log) in logs.items():
            job = api.finished(job_id)
            assert job["status"] == "succeeded", job
            assert api.get(job["links"]["result"]).json()["echo"] == order
            assert job["attempts"] >= len(_logged(log)) >= 1  # killed before it ran
            raw = _receipt(api, job_id)
            assert receipts.setdefault(job_id, raw) == raw
            headers = {"Idempotency-Key": f"job {i}"}
            again = api.order(order, mode=mode, headers=headers, wait=5)
            assert again.json() == job
        assert len(api.get("/v1/jobs").json()["jobs"]) == 12


def test_jobs_killed_at_their_beginning_are_run_again(
    process: ProcessGateway, tmp_path: Path
):
    with process.client() as api:
        api.order({"do": "echo"}, wait=20)  # the workers are warm now
        accepted = {}
        for i in range(8):
            log = tmp_path / f"log{i}"
            order = {"do": "sleep", "seconds": 0.02, "log": str(log)}
            accepted[api.order(order).json()["id"]] = log
    process.kill()
    process.start()
    with process.client() as api:
        for job_id, log in accepted.items():
            job = api.finished(job_id)
            assert job["status"] == "succeeded"
            assert job["attempts"] >= len(_logged(log)) >= 1
            _receipt(api, job_id)


@pytest.mark.slow
def test_workers_of_a_killed_gateway_end_with_it(
    process: ProcessGateway, tmp_path: Path
):
    log = tmp_path / "log"
    with process.client() as api:
        job_id = api.order({"do": "sleep", "seconds": 60, "log": str(log)}).json()["id"]
        wait_until(lambda: _logged(log))
    process.kill()
    (pid,) = _logged(log)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the worker lives on")
    process.start()
    with process.client() as api:
        wait_until(lambda: len(_logged(log)) == 2)
        cancelled = api.delete(f"/v1/jobs/{job_id}").json()
        assert (cancelled["status"], cancelled["attempts"]) == ("cancelled", 2)
    process.kill()
    process.start()
    with process.client() as api:
        assert api.get(f"/v1/jobs/{job_id}").json() == cancelled


def test_a_clean_stop_leaves_running_jobs_to_the_next_start(
    process: ProcessGateway, tmp_path: Path
):
    log = tmp_path / "log"
    order: dict[str, Any] = {"do": "sleep", "seconds": 2, "log": str(log)}
    with process.client() as api:
        job_id = api.order(order).json()["id"]
        wait_until(lambda: _logged(log))
        key = api.get("/.well-known/jwks.json").json()
    process.stop()
    assert '"stopped"' in process.log.read_text()
    process.start()
    with process.client() as api:
        assert api.finished(job_id)["status"] == "succeeded"
        assert api.get("/.well-known/jwks.json").json() == key
    for line in process.log.read_text().splitlines():
        assert json.loads(line)["level"] in {"info", "warning"}, line
