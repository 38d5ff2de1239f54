"""Sessions with a real enclave, and a man in the middle of each."""

import json
import secrets

import numpy as np
import pytest

from privacy.bundle import open_bundle
from privacy.cli import run
from privacy.client import Client
from privacy.encoding import b64url, canonical_json, pack, unpack
from privacy.errors import PrivacyError, VerificationError
from privacy.tee.evidence import parse_evidence
from privacy.tee.kem import CLASSIC, HYBRID, KemKey
from privacy.tee.seal import Purpose, seal_input
from tests.support.live_gateway import ProcessGateway
from tests.support.tampering_proxy import TamperingProxy
from tests.support.tee_bundle import write_tee_bundle
from tests.support.tee_models import WEIGHTS

ROWS = [[0.5, -1.0, 2.0], [3.0, 0.25, -4.0]]
OURS = {kem: KemKey.generate(kem) for kem in (HYBRID, CLASSIC)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name in ("demo", "other"):
        write_tee_bundle(folder / "models", folder / "publisher", name=name)
    models, home = folder / "models", folder / "publisher"
    with ProcessGateway(folder / "data", models, home=home) as gateway:
        gateway.models_dir = models
        yield gateway


@pytest.fixture(scope="module")
def demo(site):
    """The bundle's folder, as a publisher or an operator has it."""
    return site.models_dir / "demo" / "1"


@pytest.fixture(scope="module")
def api_key(site):
    return site.new_key("models:read", "jobs:read", "jobs:write")


@pytest.fixture
def attacked(site, api_key, tmp_path):
    """Ask through a man in the middle; return the error and what the client sent."""

    def ask(**changes):
        with (
            TamperingProxy(site.base_url, **changes) as proxy,
            Client(
                proxy.url, api_key=api_key, home=tmp_path, allow_simulated=True
            ) as client,
            pytest.raises(PrivacyError) as caught,
        ):
            client.infer("demo", ROWS, mode="tee")
        assert not (tmp_path / "receipts").exists()
        return caught.value, proxy.uploads

    return ask


@pytest.fixture(scope="module")
def earlier(site, api_key):
    """Evidence of an honest session."""
    with site.client(api_key) as api:
        params = {"model": "demo", "nonce": b64url(bytes(32))}
        return api.get("/v1/attestations", params=params).content


def changed(**members):
    return lambda raw: canonical_json({**json.loads(raw), **members})


def keys(*kems):
    return {kem: b64url(OURS[kem].public.raw) for kem in kems}


def without_hybrid(raw):
    value = json.loads(raw)
    del value["hpke_public_keys"][HYBRID]
    return canonical_json(value)


def renamed(earlier):
    """An earlier session's evidence under the nonce that was asked for."""
    return lambda raw: changed(nonce=json.loads(raw)["nonce"])(earlier)


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (lambda _: changed(hpke_public_keys=keys(HYBRID)), "report-data-mismatch"),
        (lambda _: changed(hpke_public_keys=keys(CLASSIC)), "report-data-mismatch"),
        (
            lambda _: changed(hpke_public_keys=keys(HYBRID, CLASSIC)),
            "report-data-mismatch",
        ),
        (lambda _: without_hybrid, "report-data-mismatch"),
        (lambda _: changed(event_log=[]), "measurement-mismatch"),
        (lambda _: changed(version=2), "evidence-version"),
        (lambda earlier: lambda _: earlier, "nonce-mismatch"),
        (renamed, "report-data-mismatch"),
        (lambda _: lambda raw: raw[:-1], "not-json"),
    ],
    ids=[
        "hybrid-key",
        "classic-key",
        "both-keys",
        "downgrade",
        "log",
        "version",
        "replay",
        "replay-renamed",
        "truncated",
    ],
)
def test_nothing_is_sealed_when_evidence_was_rewritten(attacked, earlier, attack, code):
    error, uploads = attacked(evidence=attack(earlier))
    assert isinstance(error, VerificationError)
    assert (error.exit_code, uploads) == (6, [])
    assert error.code == code


def flipped(raw):
    return raw[:-1] + bytes([raw[-1] ^ 1])


def other_job(raw):
    key, nonce, _, ciphertext = unpack(raw, what="sealed")
    return pack([key, nonce, secrets.token_bytes(32), ciphertext])


def own_enclave(raw):
    _, *rest = unpack(raw, what="sealed")
    return pack([OURS[HYBRID].public.id, *rest])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (flipped, "unsealable"),
        (other_job, "unsealable"),
        (lambda raw: raw[:-1], "truncated"),
        (own_enclave, "enclave-gone"),
    ],
)
def test_a_changed_sealed_input_gets_no_answer(attacked, change, code):
    error, uploads = attacked(sealed=change)
    assert error.code == code
    assert uploads
    assert b"rows" not in b"".join(uploads)


def test_an_input_of_the_man_in_the_middle_gives_an_answer_that_is_refused(
    site, api_key, demo, attacked
):
    """He seals rows of his own to the honest enclave: it is another input."""

    def own_rows(raw):
        with site.client(api_key) as api:
            params = {"model": "demo", "nonce": b64url(bytes(32))}
            evidence = api.get("/v1/attestations", params=params).content
        key = parse_evidence(evidence).hpke_public_keys[0]
        purpose = Purpose(open_bundle(demo).sha256, bytes(32), secrets.token_bytes(32))
        rows = [[1.0, 1.0, 1.0]] * 2
        return seal_input(
            rows, columns=3, key=key, purpose=purpose, reply_key=bytes(32)
        )

    error, _ = attacked(sealed=own_rows)
    assert (error.code, error.exit_code) == ("receipt-mismatch", 6)


def test_an_input_for_one_model_is_not_answered_by_another(site, api_key, tmp_path):
    uploads = []
    with (
        TamperingProxy(site.base_url) as proxy,
        Client(
            proxy.url, api_key=api_key, home=tmp_path, allow_simulated=True
        ) as client,
    ):
        client.infer("demo", ROWS, mode="tee")
        client.connect("other")  # its enclave runs
        uploads = proxy.uploads
    with site.client(api_key) as api:
        digest = api.upload(uploads[0])
        body = {"model": "other", "mode": "tee", "input": digest}
        job = api.post("/v1/jobs", json=body).json()
        assert api.finished(job["id"])["problem"]["code"] == "enclave-gone"


# By hand


def connect(site, api_key, tmp_path, *options):
    home = ["--home", str(tmp_path), "--api-key", api_key, "--gateway", site.base_url]
    return run(["tee", "connect", "demo", *home, *options])


def test_connect_shows_a_session_step_by_step(site, api_key, tmp_path, capsys):
    rows, saved = tmp_path / "rows.json", tmp_path / "evidence.json"
    rows.write_text(json.dumps(ROWS))
    options = ["--allow-simulated", "--input", str(rows), "--save", str(saved)]
    assert connect(site, api_key, tmp_path, *options, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    names = [step["step"] for step in shown["steps"]]
    assert names[:2] == ["nonce", "evidence"]
    assert names[-3:] == ["attested", "seal", "answer"]
    assert set(names[2:-3]) == {"check"}
    checks = [step for step in shown["steps"] if step["step"] == "check"]
    assert all(check["ok"] for check in checks)
    assert {"report-data", "mrtd", "rtmr3", "event-log"} <= {c["name"] for c in checks}
    by_name = {step["step"]: step for step in shown["steps"]}
    assert by_name["evidence"]["offers"] == [HYBRID, CLASSIC]
    assert by_name["seal"]["kem"] == HYBRID
    assert by_name["answer"]["simulated"] is True
    outputs = [row["outputs"] for row in shown["answer"]["rows"]]
    np.testing.assert_allclose(outputs, np.array(ROWS) @ WEIGHTS, rtol=1e-5)
    assert parse_evidence(saved.read_bytes()).nonce.hex() == by_name["nonce"]["nonce"]


def test_connect_without_rows_only_attests_and_says_simulated(
    site, api_key, tmp_path, capsys
):
    assert connect(site, api_key, tmp_path, "--allow-simulated") == 0
    out = capsys.readouterr().out
    assert "fresh nonce" in out
    assert "\nsealed" not in out
    assert "SIMULATED" in out


def test_connect_refuses_what_infer_refuses(site, api_key, tmp_path, capsys):
    assert connect(site, api_key, tmp_path, "--json") == 6
    shown = json.loads(capsys.readouterr().out)
    assert shown["error"]["code"] == "simulated-evidence"
    assert [step["step"] for step in shown["steps"]] == ["nonce", "evidence"]
    missing = ["--input", str(tmp_path / "none.csv"), "--json"]
    assert connect(site, api_key, tmp_path, *missing) == 2


def test_measure_prints_the_published_values_without_running_the_model(
    demo, tmp_path, capsys
):
    assert run(["tee", "measure", str(demo), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["equal"]
    assert shown["measurements"] == shown["published"]
    assert set(shown["formats"]) == {"tdx-v4", "snp-v3", "nitro"}
    assert run(["tee", "measure", str(demo)]) == 0
    assert shown["measurements"]["mrtd"][:16] in capsys.readouterr().out
    assert run(["tee", "measure", str(tmp_path), "--json"]) == 4


def test_measure_names_the_register_that_differs(demo, capsys, monkeypatch):
    monkeypatch.setattr("privacy.tee.measure.interpreter", lambda: {"version": "9"})
    assert run(["tee", "measure", str(demo)]) == 6
    told = capsys.readouterr()
    assert "mrtd here are not" in " ".join(told.err.split())
    assert run(["tee", "measure", str(demo), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["equal"] is False
