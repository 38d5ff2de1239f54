"""A gateway without nodes of its own has jobs of every mode run by its peer."""

import json

import pytest

from privacy.client import Client, verify_saved
from tests.support.live_gateway import ProcessGateway

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def near(gateway, models_dir, diagnosis, tmp_path_factory):
    folder = tmp_path_factory.mktemp("near")
    with gateway.client() as api:
        shown = api.get("/.well-known/jwks.json").json()["keys"]
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="near")
    (folder / "far.key").write_text(key)
    (folder / "peers.toml").write_text(
        f"""
        [[peer]]
        name = "far"
        url = "{gateway.base_url}"
        api_key_file = "far.key"
        receipt_keys = {json.dumps([k["kid"] for k in shown])}
        modes = ["fhe", "zkml", "tee"]
        allow_clear_inputs = true
        """
    )
    with ProcessGateway(
        folder,
        models_dir,
        node_name="near",
        local_modes="[]",
        peers_file=folder / "peers.toml",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def owner_of_near(near, tmp_path_factory):
    with Client(
        near.base_url,
        api_key=near.new_key("models:read", "jobs:read", "jobs:write"),
        home=tmp_path_factory.mktemp("home"),
        allow_simulated=True,
        allow_insecure_srs=True,
    ) as client:
        yield client


@pytest.mark.parametrize("mode", ["fhe", "zkml", "tee"])
def test_a_peer_answers_and_the_client_checks_both_receipts(
    owner_of_near, diagnosis, mode
):
    rows = diagnosis.rows[:3].tolist()
    answer = owner_of_near.infer(diagnosis.name, rows, mode=mode)
    expected = diagnosis.model.predict(diagnosis.rows[:3])
    labels = [diagnosis.bundle.manifest.classes.index(r.label) for r in answer.rows]
    assert labels == list(expected)
    assert answer.node == "peer:far"
    assert any("far, another operator's gateway, ran" in c for c in answer.caveats)
    assert "far, another operator's gateway" in answer.who_sees_what.others_see
    assert (answer.receipt.parent / "peer-receipt.json").is_file()
    verdict = verify_saved(
        answer.receipt,
        home=owner_of_near.home,
        allow_simulated=True,
        allow_insecure_srs=True,
    )
    assert verdict.exit_code == 0, verdict.steps
    assert "peer receipt" in {step.name for step in verdict.steps}
