"""A lying node among honest ones is found by its owner's comparison, and no other."""

import pytest

from gateway.executors.base import Engines
from gateway.executors.node import LocalNode
from gateway.settings import Settings
from privacy.cli.app import run
from privacy.client import Client, verify_saved
from privacy.errors import VerificationError
from privacy.modes import Mode
from tests.support.live_gateway import ThreadGateway, printed_json, wait_until

pytestmark = pytest.mark.slow  # three nodes with engines of their own

LIES = "tests.support.lying_worker:handler"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, models_dir, diagnosis):
    folder = tmp_path_factory.mktemp("three")
    settings = Settings(
        data_dir=folder, models_dir=models_dir, node_name="honest", verify_share=0.0
    )
    with ThreadGateway(settings, Engines()) as running:
        scheduler = running.app.state.gateway.scheduler
        for name, engines in (("also-honest", Engines()), ("liar", Engines(LIES))):
            named = settings.model_copy(update={"node_name": name})
            modes = (Mode.FHE, Mode.ZKML)
            scheduler.add(LocalNode(named, engines, folder / name, modes=modes))
        yield running


@pytest.fixture
def owner(gateway, tmp_path):
    with Client(
        gateway.base_url,
        api_key=gateway.admin_key,
        home=tmp_path,
        allow_insecure_srs=True,
    ) as client:
        yield client


def states(gateway):
    held = gateway.app.state.gateway.node_states
    held.refresh()
    return {name: state.state for name, state in held.all().items()}


def release(gateway):
    held = gateway.app.state.gateway
    for node in held.node_states.all():
        held.node_states.release(node)


def test_honest_nodes_agree_and_nobody_is_accused(gateway, owner, diagnosis):
    held = gateway.app.state.gateway
    held.node_states.quarantine("liar", "for this test")
    for _ in range(3):
        rows = diagnosis.rows[:4].tolist()
        answer = owner.infer(diagnosis.name, rows, mode="fhe", verify="always")
        found = owner.compare(answer.job_id)
        assert (found.state, found.rows, found.differing_rows) == ("agreed", 4, 0)
        assert set(found.nodes) == {"honest", "also-honest"}
    assert states(gateway) == {"liar": "quarantined"}
    release(gateway)


def test_a_liar_is_outvoted_quarantined_and_its_receipts_are_kept(
    gateway, owner, diagnosis
):
    held = gateway.app.state.gateway
    rows = diagnosis.rows[:4].tolist()
    held.node_states.quarantine("also-honest", "for this test")
    answer = owner.infer(diagnosis.name, rows, mode="fhe", verify="always")
    wait_until(lambda: owner.waiting_jobs() == [answer.job_id], seconds=60)
    held.node_states.release("also-honest")
    if answer.node == "liar":
        with pytest.raises(VerificationError, match="do not believe"):
            owner.compare(answer.job_id)
    else:
        found = owner.compare(answer.job_id)
        assert found.state == "disputed"
        assert found.differing_rows >= 1
    assert states(gateway) == {"liar": "quarantined"}
    with gateway.client() as api:
        (dispute,) = api.get("/v1/disputes").json()["disputes"]
    assert (dispute["verdict"], dispute["at_fault"]) == ("majority", "liar")
    assert {run["node"] for run in dispute["runs"]} == {"honest", "also-honest", "liar"}
    kept = owner.home.receipt_folder(dispute["job_id"]) / "receipt.json"
    assert verify_saved(kept, home=owner.home).exit_code == 0
    for _ in range(3):
        answer = owner.infer(diagnosis.name, rows, mode="fhe")
        assert answer.node != "liar"
    release(gateway)


def test_proofs_and_outputs_that_were_changed_are_the_nodes_fault(
    gateway, owner, diagnosis
):
    held = gateway.app.state.gateway
    for name in ("honest", "also-honest"):
        held.node_states.quarantine(name, "for this test")
    with pytest.raises(VerificationError):
        owner.infer(
            diagnosis.name, diagnosis.rows[:2].tolist(), mode="zkml", verify="always"
        )
    (job, *_) = owner.jobs()
    with gateway.client() as api:

        def ended():
            told = api.get(f"/v1/jobs/{job['id']}/comparison").json()
            return told if told["state"] not in {"planned", "running"} else None

        told = wait_until(ended, seconds=60)
    assert told["state"] == "disputed", told
    assert states(gateway)["liar"] == "quarantined"
    for name in ("honest", "also-honest"):
        held.node_states.release(name)
    answer = owner.infer(
        diagnosis.name, diagnosis.rows[:1].tolist(), mode="zkml", verify="always"
    )
    done = owner.compare(answer.job_id)
    assert done.state == "checked"
    release(gateway)


def test_the_first_answer_waits_for_nothing_and_the_owner_compares_later(
    gateway, owner, diagnosis, monkeypatch, capsys
):
    held = gateway.app.state.gateway
    held.node_states.quarantine("liar", "for this test")
    rows = diagnosis.rows[:1].tolist()
    answer = owner.infer(diagnosis.name, rows, mode="fhe", verify="always")
    wait_until(lambda: owner.waiting_jobs() == [answer.job_id], seconds=60)
    at = ("--gateway", gateway.base_url, "--home", str(owner.home.root), "--json")
    monkeypatch.setenv("PRIVACY_API_KEY", gateway.admin_key)
    assert run(["compare", *at]) == 0
    (told,) = printed_json(capsys.readouterr().out)["compared"]
    assert (told["job_id"], told["state"]) == (answer.job_id, "agreed")
    assert owner.waiting_jobs() == []
    release(gateway)


def test_runs_of_a_model_with_keys_are_compared_under_the_same_keys(
    gateway, owner, published
):
    held = gateway.app.state.gateway
    held.node_states.quarantine("liar", "for this test")
    credit = published("credit")
    rows = credit.rows[:2].tolist()
    answer = owner.infer(credit.name, rows, mode="fhe", verify="always")
    found = owner.compare(answer.job_id, wait_s=200)
    assert (found.state, found.rows, found.differing_rows) == ("agreed", 2, 0)
    release(gateway)
