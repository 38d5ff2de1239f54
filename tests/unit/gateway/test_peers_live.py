"""Two gateways, each with all that it has, of which one is the other's peer."""

import json
from dataclasses import asdict

import pytest

from privacy.cli.app import run
from privacy.client.home import Home
from privacy.client.offline import verify_saved
from privacy.encoding import sha256_hex
from privacy.key_history import public_keys, read_history
from privacy.modes import Mode, who_sees_what
from privacy.receipt import verify_receipt
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway, wait_until


def _peers_file(folder, far, name="acme", **more):
    with far.client() as api:
        shown = api.get("/.well-known/jwks.json").json()["keys"]
    key = far.new_key("models:read", "jobs:read", "jobs:write", tenant="us")
    (folder / "acme.key").write_text(key + "\n")
    entry = {
        "name": name,
        "url": far.base_url,
        "api_key_file": "acme.key",
        "receipt_keys": [k["kid"] for k in shown],
        "modes": ["fhe", "zkml", "tee"],
        "allow_clear_inputs": True,
        **more,
    }
    lines = [f"{word} = {json.dumps(value)}" for word, value in entry.items()]
    path = folder / "peers.toml"
    path.write_text("[[peer]]\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def far(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("far")
    with ThreadGateway.fake(folder, models_dir=models, node_name="theirs") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def near(far, models, tmp_path_factory):
    """A gateway without a node of its own."""
    folder = tmp_path_factory.mktemp("near")
    with ThreadGateway.fake(
        folder,
        models_dir=models,
        local_modes=(),
        peers_file=_peers_file(folder, far),
    ) as gateway:
        yield gateway


@pytest.fixture
def api(near):
    with near.client() as client:
        yield client


def _keys(gateway):
    with gateway.client() as client:
        return read_history(client.get("/.well-known/jwks.json").json())


def test_a_peer_runs_the_job_and_its_receipt_is_chained_into_ours(near, far, api):
    job = api.order({"do": "echo"}, wait=20, options={"note": 1}).json()
    assert (job["status"], job["peer"]) == ("succeeded", "peer:acme")
    ours = verify_receipt(
        api.get(job["links"]["receipt"]).content, public_keys(_keys(near))
    )
    raw = api.get(job["links"]["peer-receipt"]).content
    theirs = verify_receipt(raw, public_keys(_keys(far)))
    assert ours.peer_receipt_sha256 == sha256_hex(raw)
    assert (ours.node, theirs.node) == ("peer:acme", "theirs")
    for name in ("model_sha256", "input_sha256", "output_sha256", "evidence_sha256"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.options == {"note": 1}
    own_id = next(iter(_keys(near)))
    assert theirs.options["via"] == [{"gateway": own_id, "job": job["id"]}]
    assert sha256_hex(api.get(job["links"]["result"]).content) == job["output_sha256"]


def test_who_sees_what_names_the_peer(api):
    job = api.order({"do": "echo"}, wait=20).json()
    told = who_sees_what(Mode.ZKML, peer="peer:acme").as_dict()
    assert job["who_sees_what"] == told
    assert "acme, another operator's gateway" in told["others_see"]
    assert "in the clear" in told["others_see"]


def test_keys_reach_the_peer(api):
    keys = api.upload(b"k" * 3000, to="keys")
    job = api.order({"do": "echo"}, mode="fhe", keys=keys, wait=20).json()
    assert api.get(job["links"]["result"]).json()["keys_bytes"] == 3000


def test_progress_and_cancelling_reach_through(api, far):
    order = {"do": "progress", "total": 50, "seconds": 0.5}
    job_id = api.order(order).json()["id"]
    here = f"/v1/jobs/{job_id}"
    wait_until(lambda: "done" in (api.get(here).json()["progress"] or {}), seconds=20)
    assert api.delete(here).json()["status"] == "cancelled"

    def there():
        with far.client(far.new_key("jobs:read", tenant="us")) as client:
            found = client.get("/v1/jobs").json()["jobs"]
        by_us = [j for j in found if j["options"]["via"][0]["job"] == job_id]
        return by_us[0]["status"] == "cancelled"

    wait_until(there, seconds=10)


def test_a_bad_input_is_the_clients_fault_here_too(api):
    job = api.order({"do": "refuse"}, wait=20).json()
    assert job["problem"]["code"] == "fake-refusal"
    assert job["problem"]["status"] == 422


def test_the_node_list_shows_the_peer(api):
    found = api.get("/v1/nodes").json()["nodes"]
    assert [(n["name"], n["kind"], n["state"]) for n in found] == [
        ("peer:acme", "peer", "ready")
    ]
    assert found[0]["modes"].keys() == {"fhe", "zkml", "tee"}
    assert "pk_" not in json.dumps(found)


@pytest.mark.parametrize(
    "options",
    [
        {"peers": "never"},
        {"via": [{"gateway": "another", "job": "job_1"}]},
    ],
)
def test_jobs_that_must_stay_or_came_from_a_peer_are_not_passed_on(api, options):
    job = api.order({"do": "echo"}, wait=20, options=options).json()
    assert job["problem"]["code"] == "no-node"


def test_a_sealed_job_that_must_stay_is_refused_where_only_a_peer_has_enclaves(api):
    must_stay = {"peers": "never"}
    refused = api.order({"do": "echo"}, mode="tee", options=must_stay)
    assert (refused.status_code, refused.json()["code"]) == (503, "no-node")
    assert "peer:acme" in refused.json()["detail"]


def test_odd_options_about_peers_are_refused(api):
    for options in (
        {"via": "somebody"},
        {"via": [{"gateway": "x"}]},
        {"via": [{"gateway": "x", "job": "y"}] * 9},
        {"peers": "sometimes"},
    ):
        answer = api.order({"do": "echo"}, options=options)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad-options")


def test_only_an_admin_reads_lies_and_forgives_them(near, api):
    peers = near.app.state.gateway.peers
    node = peers.nodes["acme"]
    lie = node._link.lied("it said two and two is five", "answer")
    node._lied(lie, {"job": "job_1", "receipt": "{}"})
    node.distrusted = "it lied"
    reader = near.new_key("models:read", "jobs:read", "jobs:write")
    with near.client(reader) as user:
        assert user.get("/v1/peers/acme/lies").status_code == 403
        assert user.post("/v1/peers/acme/trust").status_code == 403
    lies = api.get("/v1/peers/acme/lies").json()["lies"]
    assert (lies[0]["code"], lies[0]["job_id"]) == ("peer-answer", "job_1")
    assert peers.store.distrusted().keys() == {"acme"}
    assert api.get("/v1/nodes").json()["nodes"][0]["state"] == "distrusted"
    assert api.order({"do": "echo"}, wait=5).json()["problem"]["code"] == "no-node"
    assert api.post("/v1/peers/acme/trust").status_code == 204
    assert api.order({"do": "echo"}, wait=20).json()["status"] == "succeeded"
    assert api.post("/v1/peers/acme/trust").status_code == 404
    assert api.get("/v1/peers/nobody/lies").status_code == 404


def test_the_commands_show_the_key_and_forgive(near, far, tmp_path, capsys):
    home = ["--home", str(tmp_path), "--json"]
    assert run(["peers", "key", far.base_url, *home]) == 0
    assert list(_keys(far))[-1] in capsys.readouterr().out
    here = ["--gateway", near.base_url, "--api-key", near.admin_key, *home]
    assert run(["peers", "lies", "acme", *here]) == 0
    assert run(["peers", "trust", "acme", *here]) == 4
    assert run(["nodes", *here]) == 0
    assert '"peer:acme"' in capsys.readouterr().out


def test_a_job_that_no_peer_ran_has_no_peer_receipt(far):
    with far.client() as client:
        job = client.order({"do": "echo"}, wait=20).json()
        assert job["peer"] is None
        assert "peer-receipt" not in job["links"]
        gone = client.get(f"/v1/jobs/{job['id']}/peer-receipt")
        assert (gone.status_code, gone.json()["code"]) == (404, "no-peer-receipt")


def test_a_saved_answer_is_checked_with_the_peers_receipt(near, far, api, tmp_path):
    job = api.order({"do": "echo"}, wait=20).json()
    names = {"receipt": "receipt.json", "peer-receipt": "peer-receipt.json"}
    for part, name in {**names, "result": "output.bin"}.items():
        (tmp_path / name).write_bytes(api.get(job["links"][part]).content)

    def steps(trusted):
        verdict = verify_saved(
            tmp_path / "receipt.json", home=Home(tmp_path), trusted=trusted
        )
        assert "acme" in asdict(verdict.who_sees_what)["others_see"]
        return {s.name: s for s in verdict.steps}, verdict

    found, _ = steps([_keys(near), _keys(far)])
    assert found["peer receipt"].verdict == "ok"
    assert "signed by a key that you trust" in found["peer receipt"].detail
    # In one key set with the gateway's own, the peer's is a key of the gateway's.
    for trusted in ([_keys(near)], [_keys(near) | _keys(far)]):
        found, verdict = steps(trusted)
        assert found["peer receipt"].verdict == "ok"
        assert any("a key that is not known here" in c for c in verdict.caveats)
    raw = (tmp_path / "peer-receipt.json").read_bytes()
    (tmp_path / "peer-receipt.json").write_bytes(raw.replace(b"theirs", b"others"))
    found, verdict = steps([_keys(near)])
    assert found["peer receipt"].verdict == "failed"
    assert verdict.exit_code == 6
    (tmp_path / "peer-receipt.json").unlink()
    found, _ = steps([_keys(near)])
    assert found["peer receipt"].verdict == "could not check"
