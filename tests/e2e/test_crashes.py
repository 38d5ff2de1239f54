"""Nothing accepted is lost: kill -9 of the gateway and of its workers, real engines."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from privacy.bundle import standardise
from privacy.client import Client
from privacy.client.context import Context
from privacy.client.sessions import session_for
from privacy.client.wire import Call, Reply, check_reply
from privacy.encoding import canonical_json, sha256_hex
from privacy.modes import Mode
from tests.support.live_gateway import ProcessGateway, wait_until


@pytest.fixture
def fragile(tmp_path, models_dir, diagnosis):
    """A gateway of one's own, to be killed."""
    with ProcessGateway(tmp_path / "gw", models_dir) as running:
        yield running


def prepare(client, home, gateway, model, mode):
    """Return the client side of a job and its request body, everything uploaded."""
    context = Context(
        home,
        gateway.base_url,
        lambda _: None,
        allow_simulated=True,
        allow_insecure_srs=True,
    )
    session = session_for(Mode(mode), context, model.bundle)
    rows = standardise(model.rows[:3].tolist(), model.bundle.manifest.columns)
    flow, answer = session.prepare(rows), None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as stop:
            prepared = stop.value
            break
        answer = run_step(client, step)
    return (
        session,
        prepared,
        {
            "model": model.name,
            "mode": mode,
            "input": client.upload(prepared.blob),
        },
    )


def run_step(client, step):
    if not isinstance(step, Call):
        return step.run()
    got = client.request(
        step.method, step.path, content=step.body, params=dict(step.params)
    )
    return check_reply(step, Reply(got.status_code, got.headers, got.content))


@pytest.mark.slow
def test_kills_lose_no_job_and_finish_each_once(fragile, diagnosis, tmp_path):
    kills = 10
    home = Client(fragile.base_url, home=tmp_path / "home").home
    rng = random.Random(3)
    accepted = []
    for turn in range(kills):
        with fragile.client() as api:
            for mode in Mode:
                session, prepared, body = prepare(api, home, fragile, diagnosis, mode)
                key = {"Idempotency-Key": f"{turn}-{mode}"}
                reply = api.post("/v1/jobs", json=body, headers=key)
                assert reply.status_code in {200, 202}, reply.text
                accepted.append((reply.json()["id"], body, key, session, prepared))
        time.sleep(rng.uniform(0, 0.8))
        fragile.kill()
        fragile.start()
    receipts = set()
    with fragile.client() as api:
        for job_id, body, key, session, prepared in accepted:
            job = api.finished(job_id)
            assert job["status"] == "succeeded", job
            again = api.post("/v1/jobs", json=body, headers=key)
            assert again.json()["id"] == job_id
            receipt = api.get(f"/v1/jobs/{job_id}/receipt").content
            assert receipt == api.get(f"/v1/jobs/{job_id}/receipt").content
            receipts.add(sha256_hex(receipt))
            check_answer(api, job, session, prepared, diagnosis)
        listed = api.get("/v1/jobs", params={"limit": 100}).json()["jobs"]
    assert len(receipts) == len(accepted) == len(listed) == len(Mode) * kills


def check_answer(api, job, session, prepared, model):
    output = api.get(f"/v1/jobs/{job['id']}/result").content
    assert sha256_hex(output) == job["output_sha256"]
    evidence = b""
    if job["evidence_sha256"]:
        evidence = api.get(f"/v1/jobs/{job['id']}/evidence").content
    flow, answer = session.finish(prepared, output, evidence), None
    while True:
        try:
            answer = run_step(api, flow.send(answer))
        except StopIteration as stop:
            raw = stop.value.raw
            break
    expected = model.model.decision_function(model.rows[:3])
    assert abs(raw[:, 0] - expected).max() < 0.1


def workers_of(gateway):
    found = []
    for process in psutil.Process(gateway.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "privacy.child" in process.cmdline():
                found.append(process.pid)
    return found


def busy(api, body):
    job_id = api.post("/v1/jobs", json=body).json()["id"]
    path = f"/v1/jobs/{job_id}"
    wait_until(lambda: api.get(path).json()["status"] == "running", what="running")
    return job_id


def many_rows(model, count=40):
    columns = model.bundle.manifest.columns
    rows = standardise([model.rows[0].tolist()] * count, columns).tolist()
    return canonical_json({"rows": rows, "salt": "A" * 43})


def test_a_killed_worker_is_replaced_and_its_job_retried(fragile, diagnosis):
    with fragile.client() as api:
        body = {"model": diagnosis.name, "mode": "zkml"}
        body["input"] = api.upload(many_rows(diagnosis, 10))
        job_id = busy(api, body)
        for pid in workers_of(fragile):
            os.kill(pid, signal.SIGKILL)
        job = api.finished(job_id)
    assert job["status"] == "succeeded"
    assert job["attempts"] == 2


def rows_of(gateway, job_id):
    """Return the rows a job has done, by name, with what tells a file from a copy."""
    folder = gateway._data_dir / "work" / job_id / "rows"
    done = [p for p in folder.glob("*") if p.suffix != ".part"]
    with contextlib.suppress(FileNotFoundError):  # the job has just ended
        return {p.name: p.stat().st_ino for p in done}
    return {}


def test_rows_done_before_the_gateway_died_are_not_computed_again(fragile, diagnosis):
    with fragile.client() as api:
        body = {"model": diagnosis.name, "mode": "zkml"}
        body["input"] = api.upload(many_rows(diagnosis, 9))
        job_id = busy(api, body)
        wait_until(lambda: len(rows_of(fragile, job_id)) >= 2, what="two rows")
    fragile.kill()
    before = rows_of(fragile, job_id)
    fragile.start()
    wait_until(lambda: len(rows_of(fragile, job_id)) > len(before), what="one more")
    assert before.items() <= rows_of(fragile, job_id).items()
    with fragile.client() as api:
        job = api.finished(job_id)
        assert (job["status"], job["attempts"]) == ("succeeded", 2)
        proofs = api.get(f"/v1/jobs/{job_id}/evidence").json()["proofs"]
    assert len(proofs) == 9
    wait_until(lambda: not rows_of(fragile, job_id), what="removed")


def test_cancelling_a_running_job_frees_the_worker(fragile, diagnosis):
    with fragile.client() as api:
        body = {"model": diagnosis.name, "mode": "zkml"}
        body["input"] = api.upload(many_rows(diagnosis, 200))
        job_id = busy(api, body)
        before = workers_of(fragile)
        started = time.monotonic()
        job = api.delete(f"/v1/jobs/{job_id}").json()
        job = api.finished(job_id)
        assert time.monotonic() - started < 5
        assert job["status"] == "cancelled"
        assert api.get(f"/v1/jobs/{job_id}/receipt").is_success
        wait_until(lambda: not set(before) & set(workers_of(fragile)), what="killed")
        body["input"] = api.upload(many_rows(diagnosis, 1))
        done = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()
        assert done["status"] == "succeeded"


def enclaves_of(folder):
    """Return the enclaves that run in a test's folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "privacy.tee.enclave" in (line := " ".join(process.info["cmdline"] or []))
        and str(folder) in line
    ]


def test_an_enclave_that_died_is_attested_anew(fragile, diagnosis, tmp_path):
    """It is killed between two jobs, and then while it works on one."""
    stages, killed = [], []

    def kill_while_it_works(report):
        stages.append(report["stage"])
        if report["stage"] != "run" or killed or len(receipts) < 2:
            return
        (process,) = enclaves_of(tmp_path)
        killed.append(process.pid)
        process.suspend()  # the job reaches it and gets no further
        threading.Timer(1.0, process.kill).start()

    receipts = []
    with Client(
        fragile.base_url,
        api_key=fragile.admin_key,
        home=tmp_path / "home",
        allow_simulated=True,
        allow_insecure_srs=True,
        notify=kill_while_it_works,
    ) as client:
        for _ in range(3):
            answer = client.infer(
                diagnosis.name, diagnosis.rows[:1].tolist(), mode="tee"
            )
            receipts.append((Path(answer.receipt), answer.rows))
            if len(receipts) == 1:
                for process in enclaves_of(tmp_path):
                    process.kill()
    assert len({path for path, _ in receipts}) == 3
    assert all(rows == receipts[0][1] for _, rows in receipts)
    assert len(killed) == 1
    assert "the enclave was replaced: attest the new one" in stages
    assert stages.count("attest the enclave") >= 4
