"""Jobs that are run again elsewhere, disputes, and nodes in quarantine."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from gateway.executors.node import LocalNode
from gateway.quality.service import draw
from gateway.store.tenants import Own
from privacy.errors import VerificationError
from privacy.receipt import parse_receipt
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import FAKE_ENGINES, Api, ThreadGateway, wait_until

ECHO = {"do": "echo"}
ALWAYS = {"mode": "fhe", "model": "keyless", "wait": 20, "verify": "always"}
DIGEST = "0" * 64


def _add(gateway: ThreadGateway, name: str) -> LocalNode:
    held = gateway.app.state.gateway
    settings = gateway.settings.model_copy(update={"node_name": name})
    node = LocalNode(settings, FAKE_ENGINES, gateway.settings.data_dir / name)
    held.scheduler.add(node)
    return node


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("looks")
    write_bundle(folder / "models")
    write_bundle(folder / "models", name="keyless", needs_keys=False)
    with ThreadGateway.fake(folder, quarantine_accusers=2) as gateway:
        _add(gateway, "far")
        yield gateway


@pytest.fixture
def third(gateway: ThreadGateway):
    node = _add(gateway, "third")
    yield
    gateway.app.state.gateway.scheduler.remove("third")
    asyncio.run(node.close())


@pytest.fixture(autouse=True)
def _trusted_again(gateway: ThreadGateway):
    yield
    states = gateway.app.state.gateway.node_states
    for node in list(states.all()):
        states.release(node)


def compared(api: Api, job_id: str, *, runs: int = 2) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = api.get(f"/v1/jobs/{job_id}/comparison").json()
        ready = found["state"] not in {"planned", "running"}
        return found if ready and len(found["runs"]) >= runs else None

    found: dict[str, Any] = wait_until(look, seconds=20)
    return found


def report(api: Api, job_id: str, groups: list[list[str]], rows: int = 4) -> Any:
    body = {
        "groups": groups,
        "digests": {job: DIGEST for group in groups for job in group},
        "rows": rows,
        "differing_rows": int(len(groups) > 1),
    }
    return api.post(f"/v1/jobs/{job_id}/comparison", json=body)


def runs_of(found: dict[str, Any]) -> list[str]:
    return [run["job_id"] for run in found["runs"]]


def doubts(gateway: ThreadGateway) -> dict[str, str]:
    known = gateway.app.state.gateway.node_states.all()
    return {name: state.state for name, state in known.items()}


def test_a_second_run_is_a_job_of_its_own_on_another_node(gateway, api):
    job = api.order(ECHO, **ALWAYS).json()
    found = compared(api, job["id"])
    first, second = found["runs"]
    assert found["state"] == "compare"
    assert first["job_id"] == job["id"]
    assert first["node"] != second["node"]
    again = api.get(f"/v1/jobs/{second['job_id']}").json()
    assert again["input_sha256"] == job["input_sha256"]
    assert again["options"] == {"second_run_of": job["id"]}
    for run in found["runs"]:
        raw = api.get(f"/v1/jobs/{run['job_id']}/receipt").content
        assert parse_receipt(raw)[0].node == run["node"]
    done = report(api, job["id"], [runs_of(found)]).json()
    assert (done["state"], done["dispute_id"]) == ("agreed", None)
    assert report(api, job["id"], [runs_of(found)]).json()["code"] == "not-comparing"
    assert doubts(gateway) == {}


def test_two_that_differ_are_suspects_and_an_operator_decides(gateway, api, stranger):
    job = api.order(ECHO, **ALWAYS).json()
    found = compared(api, job["id"])
    a, b = runs_of(found)
    done = report(api, job["id"], [[a], [b]]).json()
    assert done["state"] == "disputed"
    assert doubts(gateway) == {"local": "suspect", "far": "suspect"}
    path = f"/v1/disputes/{done['dispute_id']}"
    dispute = api.get(path).json()
    assert (dispute["state"], dispute["verdict"], dispute["at_fault"]) == (
        "open",
        "",
        "",
    )
    assert [run["job_id"] for run in dispute["runs"]] == [a, b]
    assert all(parse_receipt(run["receipt"].encode()) for run in dispute["runs"])
    assert dispute["claims"][0]["groups"] == [[a], [b]]
    assert stranger.get(path).status_code == 404
    assert stranger.get("/v1/disputes").json() == {"disputes": []}
    assert stranger.get(f"/v1/jobs/{job['id']}/comparison").status_code == 404
    resolution = f"{path}/resolution"
    unknown = api.post(resolution, json={"at_fault": "elsewhere"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-node")
    closed = api.post(resolution, json={"at_fault": "far", "note": "seen"}).json()
    assert (closed["state"], closed["verdict"]) == ("resolved", "operator")
    assert doubts(gateway)["far"] == "quarantined"
    assert api.post(resolution, json={}).json()["code"] == "resolved"
    states = {n["name"]: n["state"] for n in api.get("/v1/nodes").json()["nodes"]}
    assert states == {"local": "ready", "far": "quarantined"}


def test_what_a_dispute_shows_stays_until_it_is_resolved(gateway, api):
    held = gateway.app.state.gateway
    job = api.order({"do": "echo", "only": "here"}, **ALWAYS).json()
    found = compared(api, job["id"])
    a, b = runs_of(found)
    done = report(api, job["id"], [[a], [b]]).json()
    for run in (a, b):
        api.delete(f"/v1/jobs/{run}/result").raise_for_status()
    api.delete(f"/v1/blobs/{job['input_sha256']}").raise_for_status()
    files = [held.blobs.path(job[n]) for n in ("input_sha256", "output_sha256")]
    assert all(file.exists() for file in files)
    path = f"/v1/disputes/{done['dispute_id']}/resolution"
    api.post(path, json={"note": "nobody"}).raise_for_status()
    held.uploads.remove_lost_files(older_than_s=-1)
    assert not any(file.exists() for file in files)


def test_a_third_node_decides_and_two_accusers_quarantine(gateway, api, third):
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="other")
    with gateway.client(key) as other:
        for client, after in ((api, "suspect"), (other, "quarantined")):
            job = client.order(ECHO, **ALWAYS).json()
            found = compared(client, job["id"])
            nodes = {run["job_id"]: run["node"] for run in found["runs"]}
            liar = "far" if "far" in nodes.values() else "third"
            if liar not in nodes.values():
                liar = found["runs"][1]["node"]
            bad = next(j for j, n in nodes.items() if n == liar)
            good = next(j for j in nodes if j != bad)
            begun = report(client, job["id"], [[bad], [good]]).json()
            assert begun["state"] == "running"
            found = compared(client, job["id"], runs=3)
            assert len({run["node"] for run in found["runs"]}) == 3
            extra = runs_of(found)[2]
            done = report(client, job["id"], [[good, extra], [bad]]).json()
            assert done["state"] == "disputed"
            dispute = client.get(f"/v1/disputes/{done['dispute_id']}").json()
            assert (dispute["verdict"], dispute["at_fault"]) == ("majority", liar)
            assert (len(dispute["runs"]), len(dispute["claims"])) == (3, 2)
            assert doubts(gateway)[liar] == after


def test_a_node_in_quarantine_gets_no_jobs_until_it_is_released(gateway, api):
    path = "/v1/nodes/far/quarantine"
    assert api.put("/v1/nodes/nowhere/quarantine", json={}).status_code == 404
    assert api.put(path, json={"why": "odd"}).json()["state"] == "quarantined"
    nodes = Counter(_node(api, api.order(ECHO, wait=20).json()) for _ in range(4))
    assert nodes == {"local": 4}
    job = api.order(ECHO, **ALWAYS).json()
    found = compared(api, job["id"], runs=1)
    assert (found["state"], found["runs"][1:]) == ("impossible", [])
    assert "no other node" in found["detail"]
    assert api.delete(path).status_code == 204
    assert api.delete(path).status_code == 404


def _node(api: Api, job: dict[str, Any]) -> str:
    receipt = api.get(job["links"]["receipt"]).content
    return parse_receipt(receipt)[0].node


def test_false_evidence_is_the_nodes_fault_at_once(gateway, api, monkeypatch):
    from gateway.quality import service

    def refuse(target, request, **_):
        assert (target, request["mode"]) == (service.TARGET, "zkml")
        raise VerificationError("the proof does not verify", code="proof-false")

    monkeypatch.setattr(service, "run_in_child", refuse)
    job = api.order(ECHO, wait=20, verify="always").json()
    found = compared(api, job["id"], runs=1)
    assert (found["state"], found["detail"]) == (
        "disputed",
        "the proof does not verify",
    )
    node = _node(api, job)
    assert doubts(gateway)[node] == "quarantined"
    dispute = api.get(f"/v1/disputes/{found['dispute_id']}").json()
    assert (dispute["verdict"], dispute["at_fault"]) == ("evidence", node)


def test_evidence_that_cannot_be_checked_accuses_nobody(gateway, api):
    job = api.order(ECHO, wait=20, verify="always").json()  # this bundle has no circuit
    found = compared(api, job["id"], runs=1)
    assert found["state"] == "impossible"
    assert doubts(gateway) == {}


def test_a_job_that_fails_is_not_looked_at_again(api):
    job = api.order({"do": "refuse"}, **ALWAYS).json()
    found = compared(api, job["id"], runs=1)
    assert (found["state"], len(found["runs"])) == ("impossible", 1)


def test_never_means_never_and_the_gateways_option_is_its_own(api):
    job = api.order(ECHO, **{**ALWAYS, "verify": "never"}).json()
    answer = api.get(f"/v1/jobs/{job['id']}/comparison")
    assert (answer.status_code, answer.json()["code"]) == (404, "no-comparison")
    forged = {"second_run_of": job["id"]}
    refused = api.order(ECHO, **ALWAYS, options=forged)
    assert refused.json()["code"] == "reserved-option"
    assert api.order(ECHO, **{**ALWAYS, "verify": "perhaps"}).status_code == 422


def test_a_report_must_be_about_the_runs(api):
    job = api.order(ECHO, **ALWAYS).json()
    a, b = runs_of(compared(api, job["id"]))
    for groups in ([[a]], [[a, b], [b]], [[a], ["job_" + "0" * 32]]):
        assert report(api, job["id"], groups).json()["code"] == "bad-report"
    assert job["id"] in json.dumps(api.get("/v1/comparisons?state=compare").json())


def test_a_share_of_jobs_is_drawn_and_nobody_can_foretell_which(gateway):
    drawn = [draw("sampled", share=0.3) == "sampled" for _ in range(4000)]
    assert 0.25 < sum(drawn) / len(drawn) < 0.35
    assert draw("always", share=0.0) == "always"
    assert draw("never", share=1.0) == ""
    assert drawn != [draw("sampled", share=0.3) == "sampled" for _ in range(4000)]


def test_a_tenant_may_have_a_share_of_its_own(gateway, api):
    gateway.app.state.gateway.tenants.create("watched", own=Own(verify_share=1.0))
    key = gateway.new_key("jobs:read", "jobs:write", tenant="watched")
    with gateway.client(key) as watched:
        wanted = {**ALWAYS, "verify": "sampled"}
        job = watched.order(ECHO, **wanted).json()
        assert compared(watched, job["id"])["why"] == "sampled"
        other = api.order(ECHO, **wanted).json()
        answer = api.get(f"/v1/jobs/{other['id']}/comparison")
        assert answer.json()["code"] == "no-comparison"


def test_steps_are_taken_once_by_whoever_comes_first(gateway, api):
    held = gateway.app.state.gateway
    job = api.order(ECHO, **ALWAYS).json()
    found = held.comparisons.get(job["id"], tenant="default")
    compared(api, job["id"])
    assert not held.comparisons.step(found, "agreed")
    assert asyncio.run(asyncio.to_thread(held.quality.advance)) == []


def test_an_operator_decides_by_command(gateway, api, privacy):
    job = api.order(ECHO, **ALWAYS).json()
    a, b = runs_of(compared(api, job["id"]))
    made = report(api, job["id"], [[a], [b]]).json()["dispute_id"]
    code, listed = privacy("disputes", "list", "--state", "open")
    assert (code, made in {d["id"] for d in listed["disputes"]}) == (0, True)
    code, shown = privacy("disputes", "show", made)
    assert (code, [run["job_id"] for run in shown["runs"]]) == (0, [a, b])
    resolve = ("disputes", "resolve", made, "--at-fault", "far", "--note", "seen")
    code, closed = privacy(*resolve)
    assert (code, closed["state"], closed["note"]) == (0, "resolved", "seen")
    nodes = {n["name"]: n for n in api.get("/v1/nodes").json()["nodes"]}
    assert nodes["far"]["doubt"].startswith("quarantined: dispute dis_")
    wanted = {"tenant": "default", "scopes": ["models:read"]}
    with gateway.client(api.post("/v1/api-keys", json=wanted).json()["key"]) as reader:
        seen = {n["name"]: n for n in reader.get("/v1/nodes").json()["nodes"]}
    assert seen["far"]["doubt"] == "quarantined"  # why, is for operators
    assert privacy("node", "release", "far")[0] == 0
    code, held = privacy("node", "quarantine", "far", "--why", "a test")
    assert (code, held["why"]) == (0, "a test")
    assert doubts(gateway)["far"] == "quarantined"
    assert privacy("node", "release", "far")[0] == 0
    assert privacy("node", "release", "far")[0] == 4
    assert privacy("disputes", "show", "../x")[0] == 2
    assert privacy("compare") == (0, {"compared": []})
