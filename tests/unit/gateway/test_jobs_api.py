import json
import threading
import time
from typing import Any

import pytest

from gateway.jobs.intake import _marked
from privacy.bundle import ModePart
from privacy.encoding import sha256_hex
from privacy.jws import key_from_jwk, key_id
from privacy.modes import Mode, who_sees_what
from privacy.receipt import verify_receipt
from tests.support.live_gateway import Api, ThreadGateway, wait_until

ECHO = {"do": "echo"}
SLEEP = {"do": "sleep", "seconds": 30}


def _problem(response: Any, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:privacy-compute:problem:{code}"
    assert problem["status"] == status
    return problem


def _running(api: Api, order: dict[str, Any]) -> str:
    job_id: str = api.order(order).json()["id"]
    wait_until(lambda: api.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
    return job_id


def _receipt(api: Api, job_id: str) -> Any:
    keys = [key_from_jwk(k) for k in api.get("/.well-known/jwks.json").json()["keys"]]
    raw = api.get(f"/v1/jobs/{job_id}/receipt").raise_for_status().content
    return verify_receipt(raw, {key_id(k): k for k in keys})


def test_a_job_is_accepted_run_and_answered(api: Api):
    accepted = api.order(ECHO)
    assert accepted.status_code == 202
    job = api.finished(accepted.json()["id"])
    assert accepted.headers["location"] == job["links"]["self"]
    assert (job["status"], job["attempts"], job["problem"]) == ("succeeded", 1, None)
    assert job["submitted_at"] <= job["started_at"] <= job["finished_at"]
    result = api.get(job["links"]["result"])
    assert result.headers["content-type"] == "application/octet-stream"
    assert sha256_hex(result.content) == job["output_sha256"]
    assert json.loads(result.content)["echo"] == ECHO
    evidence = api.get(job["links"]["evidence"])
    assert sha256_hex(evidence.content) == job["evidence_sha256"]
    assert job["evidence_kind"] == "proof"


def test_waiting_for_a_quick_job_answers_200_with_the_finished_job(api: Api):
    answer = api.order(ECHO, wait=20)
    assert answer.status_code == 200
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=20"


def test_waiting_for_a_slow_job_answers_202_when_the_time_is_over(api: Api):
    began = time.monotonic()
    answer = api.order(SLEEP, wait=1)
    assert 0.9 < time.monotonic() - began < 5
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    api.delete(answer.headers["location"])


def test_a_receipt_binds_what_was_uploaded_and_downloaded(api: Api):
    job = api.order(ECHO, wait=20, options={"note": "x"}).json()
    receipt = _receipt(api, job["id"])
    for name in (
        "model",
        "version",
        "model_sha256",
        "mode",
        "status",
        "input_sha256",
        "output_sha256",
        "evidence_sha256",
        "evidence_kind",
        "simulated",
        "options",
        "submitted_at",
        "started_at",
        "finished_at",
    ):
        assert getattr(receipt, name) == job[name], name
    assert receipt.job_id == job["id"]
    assert receipt.options == {"note": "x"}
    assert receipt.node == "local"


def test_a_receipt_says_what_its_models_publisher_relaxed():
    def part(**params):
        return ModePart(available=True, params=params)

    assert _marked({"note": "x"}, part(p_error=2.0**-40)) == {"note": "x"}
    marked = _marked({"p_error": 0.0}, part(p_error=2.0**-14, insecure_srs=True))
    assert marked == {"p_error": 2.0**-14, "insecure_srs": True}


def test_evaluation_keys_reach_the_worker_and_the_receipt(api: Api):
    keys = api.upload(b"k" * 5000, to="keys")
    job = api.order(ECHO, mode="fhe", keys=keys, wait=20).json()
    answer = api.get(job["links"]["result"]).json()
    assert answer["keys_bytes"] == 5000
    assert _receipt(api, job["id"]).keys_sha256 == keys == job["keys_sha256"]
    _problem(api.get(job["links"]["evidence"]), 404, "no-evidence")


def test_the_contract_of_the_mode_comes_with_the_job(api: Api):
    job = api.order(ECHO, mode="tee", wait=20).json()
    assert job["simulated"] is True
    expected = who_sees_what(Mode.TEE, simulated=True).as_dict()
    assert job["who_sees_what"] == expected
    assert _receipt(api, job["id"]).simulated is True
    assert api.get(job["links"]["result"]).content == b"sealed answer"


def test_a_failed_job_answers_with_its_problem_everywhere(api: Api):
    job = api.order({"do": "refuse"}, wait=20).json()
    assert job["status"] == "failed"
    assert job["problem"]["code"] == "fake-refusal"
    assert job["problem"]["family"] == "FormatError"
    for link in ("result", "evidence"):
        assert _problem(api.get(job["links"][link]), 422, "fake-refusal")
    receipt = _receipt(api, job["id"])
    assert (receipt.status, receipt.problem) == ("failed", "fake-refusal")
    assert receipt.output_sha256 == ""


def test_a_defect_of_an_engine_is_reported_without_its_message(api: Api):
    job = api.order({"do": "fail"}, wait=20).json()
    assert job["problem"]["family"] == "BackendError"
    assert "secret" not in json.dumps(job)


def test_an_input_that_crashes_the_engine_fails_the_job_and_nothing_else(api: Api):
    job = api.order({"do": "segfault"}, wait=20).json()
    assert job["problem"]["code"] == "input-crashes-engine"
    assert job["attempts"] == 2
    assert api.order(ECHO, wait=20).json()["status"] == "succeeded"


def test_results_are_not_there_before_the_job_has_finished(api: Api):
    job_id = _running(api, SLEEP)
    for link in ("result", "evidence", "receipt"):
        _problem(api.get(f"/v1/jobs/{job_id}/{link}"), 409, "not-finished")
    api.delete(f"/v1/jobs/{job_id}")


def test_cancelling_ends_the_job_frees_the_worker_and_signs_a_receipt(api: Api):
    job_id = _running(api, SLEEP)
    cancelled = api.delete(f"/v1/jobs/{job_id}")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    _problem(api.get(f"/v1/jobs/{job_id}/result"), 409, "cancelled")
    assert _receipt(api, job_id).status == "cancelled"
    wait_until(lambda: not _busy(api))
    assert api.get(f"/v1/jobs/{job_id}").json() == cancelled.json()


def _busy(api: Api) -> int:
    busy: int = api.get("/v1/nodes").json()["nodes"][0]["modes"]["zkml"]["busy"]
    return busy


def test_a_job_cancelled_while_it_waits_never_runs(api: Api, tmp_path):
    running = [_running(api, SLEEP) for _ in range(2)]  # both workers
    log = tmp_path / "log"
    waiting = api.order({**ECHO, "log": str(log)}).json()["id"]
    assert api.delete(f"/v1/jobs/{waiting}").json()["attempts"] == 0
    for job_id in running:
        api.delete(f"/v1/jobs/{job_id}")
    assert api.order(ECHO, wait=20).json()["status"] == "succeeded"
    assert not log.exists()
    assert _receipt(api, waiting).started_at == ""


def test_cancelling_a_finished_job_changes_nothing(api: Api):
    job = api.order(ECHO, wait=20).json()
    assert api.delete(job["links"]["self"]).json() == job


def test_cancelling_a_waiting_tee_job_does_not_stop_the_enclave(api: Api):
    job_id = api.order({"do": "sleep", "seconds": 1.5}, mode="tee").json()["id"]
    wait_until(lambda: api.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
    assert api.delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
    assert api.order(ECHO, mode="tee", wait=20).json()["status"] == "succeeded"


def test_an_idempotency_key_gives_the_same_job_again(api: Api, stranger: Api):
    headers = {"Idempotency-Key": "once"}
    first = api.order(ECHO, headers=headers)
    again = api.order(ECHO, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    other = api.order(ECHO, headers=headers, options={"other": True})
    _problem(other, 409, "idempotency-conflict")
    assert stranger.order(ECHO, headers=headers).json()["id"] != first.json()["id"]


def test_many_requests_with_one_idempotency_key_make_one_job(
    gateway: ThreadGateway, tmp_path
):
    log, ids = tmp_path / "log", set()
    order = {**ECHO, "log": str(log)}

    def submit() -> None:
        with gateway.client() as api:
            headers = {"Idempotency-Key": "crowd"}
            ids.add(api.order(order, headers=headers, wait=20).json()["id"])

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1
    assert len(log.read_text().split()) == 1


def _events(api: Api, job_id: str) -> list[tuple[str, Any]]:
    found, name = [], ""
    with api.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_events_come_in_order_and_end_with_the_job(api: Api):
    job_id = api.order({"do": "progress", "total": 4, "seconds": 0.15}).json()["id"]
    found = _events(api, job_id)
    statuses = [data["status"] for name, data in found if name == "status"]
    assert statuses[-2:] == ["running", "succeeded"]
    assert statuses == sorted(statuses, key=["queued", "running", "succeeded"].index)
    done = [data["done"] for name, data in found if name == "progress"]
    assert done
    assert done == sorted(done)
    assert done[-1] == 4
    assert found[-1][0] == "status"


def test_events_of_a_finished_job_are_its_status_once(api: Api):
    job = api.order(ECHO, wait=20).json()
    assert _events(api, job["id"]) == [("status", job)]


def test_progress_is_seen_in_the_job_while_it_runs(api: Api):
    job_id = _running(api, {"do": "progress", "total": 3, "seconds": 0.3})
    seen = wait_until(lambda: api.get(f"/v1/jobs/{job_id}").json()["progress"])
    assert seen["total"] == 3
    assert api.finished(job_id)["progress"] is None


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "none"}, 404, "unknown-model"),
        ({"version": "9"}, 404, "unknown-model"),
        ({"mode": "magic"}, 404, "unknown-mode"),
        ({"model": "no-fhe", "mode": "fhe"}, 404, "mode-not-offered"),
        ({"model_sha256": "0" * 64}, 409, "model-changed"),
        ({"mode": "fhe"}, 422, "keys-missing"),
        ({"mode": "fhe", "keys": "0" * 64}, 404, "unknown-keys"),
        ({"mode": "zkml", "keys": "0" * 64}, 422, "keys-not-wanted"),
        ({"options": {"long": "x" * 5000}}, 422, "options-too-long"),
        ({"model": 5}, 422, "invalid-request"),
        ({"model": "../etc"}, 422, "invalid-request"),
        ({"unknown": 1}, 422, "invalid-request"),
        ({"options": []}, 422, "invalid-request"),
        ({"options": {"big": 10**30}}, 422, "not-json"),
        ({"model": "x" * 70000}, 413, "too-large"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_a_typed_problem(
    api: Api, changes, status, code
):
    _problem(api.order(ECHO, **changes), status, code)


def test_half_a_surrogate_in_options_is_refused(api: Api):
    body = {"model": "demo", "mode": "zkml", "input": api.upload(b"{}")}
    for options in ({"\ud800": 1}, {"a": "\ud800"}):
        sent = json.dumps({**body, "options": options})  # escaped
        is_json = {"Content-Type": "application/json"}
        answer = api.post("/v1/jobs", content=sent, headers=is_json)
        _problem(answer, 422, "not-json")


def test_an_input_that_was_not_uploaded_is_refused(api: Api):
    body = {"model": "demo", "mode": "zkml", "input": "0" * 64}
    _problem(api.post("/v1/jobs", json=body), 404, "unknown-blob")


def test_a_model_without_evaluation_keys_needs_none(api: Api):
    job = api.order(ECHO, model="keyless", mode="fhe", wait=20).json()
    assert job["status"] == "succeeded"


def test_a_refusal_never_repeats_what_was_sent(api: Api):
    secret = "patient-4711"
    for body in ({"model": secret.upper()}, {secret: 1}, {"input": [secret]}):
        answer = api.post("/v1/jobs", json={"mode": 1, **body})
        assert answer.status_code == 422
        assert secret.upper() not in answer.text
    answer = api.post("/v1/jobs", content=b'{"' + secret.encode())
    _problem(answer, 422, "invalid-request")
    assert secret not in answer.text


def test_the_list_is_newest_first_and_can_be_filtered(api: Api):
    ids = [api.order(ECHO, wait=20).json()["id"] for _ in range(3)]
    listed = api.get("/v1/jobs", params={"limit": 2}).json()["jobs"]
    assert [j["id"] for j in listed] == [ids[2], ids[1]]
    for job in api.get("/v1/jobs", params={"status": "failed"}).json()["jobs"]:
        assert job["status"] == "failed"
    _problem(api.get("/v1/jobs", params={"limit": 0}), 422, "invalid-request")
    _problem(api.get("/v1/jobs", params={"status": "odd"}), 422, "invalid-request")
