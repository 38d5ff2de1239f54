"""A key goes to the enclave that the publisher's policy accepts, and to no other."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.broker import Broker, Decisions, Deposits, KeyPolicy
from privacy.client.passphrase import Unlock
from privacy.errors import (
    AppraisalError,
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.tee.client import TeeSession, check_evidence
from privacy.tee.ear import check_result
from privacy.tee.evidence import parse_evidence
from privacy.tee.runtime_log import RuntimeEvent, register_of
from privacy.tee.sealed_engine import SealedEngine
from privacy.tee.sealed_model import SealedFile
from privacy.tee.simulated_attesters import SimulatedNitroAttester, SimulatedSnpAttester
from privacy.tee.simulator import SimulatedTdxAttester
from tests.support.lying_attester import LyingTdxAttester
from tests.support.sealed_bundle import unloaded
from tests.support.tee_models import WEIGHTS

VERIFIER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DEBUG = bytes([1]) + bytes(7)
REGISTERS = {"mrtd": bytes(48)}


@pytest.fixture
def ask(broker, made, now):
    """Ask for the key as a node does; return the release and the token."""

    def ask(enclave, *, at=now):
        nonce = broker.challenge(made.bundle.sha256, now=now)
        return broker.release(enclave.evidence(nonce), now=at)

    return ask


def refused(function, *arguments, **options):
    with pytest.raises(PrivacyError) as caught:
        function(*arguments, **options)
    return caught.value.code


def test_an_enclave_that_the_policy_accepts_serves_the_model(
    ask, enclave_of, made, now
):
    enclave = enclave_of(made)
    enclave.unseal(ask(enclave)[0])
    params = made.bundle.manifest.modes["tee"].params
    session = TeeSession(
        model_sha256=made.bundle.sha256,
        reference=params["measurements"],
        columns=3,
        allow_simulated=True,
    )
    session.check_evidence(enclave.evidence(session.nonce), now=now)
    sealed = session.seal([[1.0, 2.0, 3.0]])
    outputs = session.open(*enclave.infer(sealed), now=now)
    assert outputs == pytest.approx([[1.0, 2.0, 3.0]] @ WEIGHTS)


def test_without_its_key_an_enclave_answers_nothing_and_shows_no_model(
    enclave_of, made, now
):
    enclave = enclave_of(made)
    nonce = bytes(32)
    with pytest.raises(AppraisalError) as caught:
        check_evidence(
            enclave.evidence(nonce),
            nonce=nonce,
            reference=made.bundle.manifest.modes["tee"].params["measurements"],
            model_sha256=made.bundle.sha256,
            now=now,
            allow_simulated=True,
        )
    assert caught.value.code == "measurement-mismatch"
    engine = SealedEngine(SealedFile(b"", "ab" * 32))
    with pytest.raises(UnavailableError) as caught:
        engine.run([[1.0, 2.0, 3.0]])
    assert caught.value.code == "model-sealed"


def test_a_release_opens_in_the_enclave_that_asked_only(ask, enclave_of, made):
    release, _ = ask(enclave_of(made))
    assert made.content_key not in release
    assert refused(enclave_of(made).unseal, release) == "enclave-gone"


def test_a_release_says_nothing_if_it_was_changed(ask, enclave_of, made):
    enclave = enclave_of(made)
    release, _ = ask(enclave)
    for at in range(0, len(release), 7):
        changed = release[:at] + bytes([release[at] ^ 1]) + release[at + 1 :]
        with pytest.raises((FormatError, VerificationError)):
            enclave.unseal(changed)
    enclave.unseal(release)


@pytest.mark.parametrize("register", ["mrtd", "rtmr0", "rtmr1", "rtmr2"])
def test_an_enclave_that_measures_otherwise_gets_no_key(
    ask, enclave_of, made, home, register
):
    honest = unloaded()
    value = getattr(honest, register)
    other = replace(honest, **{register: value[:-1] + bytes([value[-1] ^ 1])})
    enclave = enclave_of(made, measurements=other)
    assert refused(ask, enclave) == "measurement-mismatch"
    (decision,) = Decisions(home).all()
    assert not decision.released
    assert register in decision.message


@pytest.mark.parametrize("kind", [SimulatedSnpAttester, SimulatedNitroAttester])
def test_every_vendors_evidence_counts_with_its_model_missing(
    ask, enclave_of, made, kind
):
    enclave = enclave_of(made, attester=kind())
    enclave.unseal(ask(enclave)[0])
    other = replace(unloaded(), rtmr2=hashlib.sha384(made.model).digest())
    loaded = enclave_of(made, attester=kind(), measurements=other)
    assert refused(ask, loaded) == "measurement-mismatch"


def test_a_log_that_was_changed_on_the_way_is_not_vouched_for(
    broker, enclave_of, made, now
):
    nonce = broker.challenge(made.bundle.sha256, now=now)
    shown = parse_evidence(enclave_of(made).evidence(nonce))
    shorter = replace(shown, event_log=shown.event_log[:-1]).to_bytes()
    assert refused(broker.release, shorter, now=now) == "measurement-mismatch"


@pytest.mark.parametrize("told", ["measured", "keys", "model"])
def test_a_log_that_tells_of_another_start_gets_no_key(
    broker, enclave_of, made, now, told
):
    nonce = broker.challenge(made.bundle.sha256, now=now)
    shown = parse_evidence(enclave_of(made).evidence(nonce))
    other = RuntimeEvent(told, {"sha256": "00" * 32})
    kept = tuple(event for event in shown.event_log if event.name != told)
    shown = replace(shown, event_log=(*kept, other))
    registers = replace(unloaded(), rtmr3=register_of(shown.event_log))
    quote = SimulatedTdxAttester().quote(shown.report_data, registers)
    evidence = replace(shown, quote=quote).to_bytes()
    assert refused(broker.release, evidence, now=now) == "event-log-mismatch"


def test_a_debug_enclave_gets_no_key(ask, enclave_of, made):
    attester = LyingTdxAttester(report={"td_attributes": DEBUG})
    assert refused(ask, enclave_of(made, attester=attester)) == "debug-enclave"


def test_a_simulated_enclave_gets_no_key_unless_the_policy_allows_it(
    home, made, enclave_of, now
):
    deposits = Deposits(home, Unlock("correct horse"))
    table = {name: value.hex() for name, value in REGISTERS.items()}
    policy = KeyPolicy({"measurements": {"tdx-v4": table}})
    deposits.add(made.bundle, made.content_key, policy)
    broker = Broker(deposits, Decisions(home), VERIFIER)
    nonce = broker.challenge(made.bundle.sha256, now=now)
    evidence = enclave_of(made).evidence(nonce)
    assert refused(broker.release, evidence, now=now) == "simulated-evidence"


def test_a_nonce_counts_once_for_one_model_and_one_minute(
    broker, enclave_of, made, now
):
    enclave, sha256 = enclave_of(made), made.bundle.sha256
    used = enclave.evidence(broker.challenge(sha256, now=now))
    broker.release(used, now=now)
    assert refused(broker.release, used, now=now) == "nonce-refused"
    never = enclave.evidence(bytes(32))
    assert refused(broker.release, never, now=now) == "nonce-refused"
    late = enclave.evidence(broker.challenge(sha256, now=now))
    after = now + timedelta(seconds=61)
    assert refused(broker.release, late, now=after) == "nonce-refused"


def test_evidence_of_another_model_does_not_answer_the_nonce(
    broker, enclave_of, made, now
):
    bundle = replace(made.bundle, sha256="ab" * 32)
    other = enclave_of(replace(made, bundle=bundle))
    nonce = broker.challenge(made.bundle.sha256, now=now)
    assert refused(broker.release, other.evidence(nonce), now=now) == "nonce-refused"


def test_a_key_that_was_swapped_on_the_way_is_not_vouched_for(
    broker, enclave_of, made, now
):
    nonce = broker.challenge(made.bundle.sha256, now=now)
    shown = parse_evidence(enclave_of(made).evidence(nonce))
    mine = parse_evidence(enclave_of(made).evidence(nonce))
    swapped = replace(shown, hpke_public_keys=mine.hpke_public_keys).to_bytes()
    assert refused(broker.release, swapped, now=now) == "report-data-mismatch"


def test_many_nonces_that_nobody_uses_make_the_oldest_go(
    broker, made, now, enclave_of, monkeypatch
):
    sha256 = made.bundle.sha256
    first = broker.challenge(sha256, now=now)
    monkeypatch.setattr("privacy.broker.broker._MAX_NONCES", 8)
    for _ in range(8):
        last = broker.challenge(sha256, now=now)
    enclave = enclave_of(made)
    assert refused(broker.release, enclave.evidence(first), now=now) == "nonce-refused"
    broker.release(enclave.evidence(last), now=now)


def test_a_revoked_key_is_not_released(broker, deposits, enclave_of, made, now):
    nonce = broker.challenge(made.bundle.sha256, now=now)
    deposits.revoke("demo/1")
    evidence = enclave_of(made).evidence(nonce)
    with pytest.raises(NotFoundError) as caught:
        broker.release(evidence, now=now)
    assert caught.value.code == "key-revoked"
    assert refused(broker.challenge, made.bundle.sha256, now=now) == "key-revoked"
    assert refused(broker.challenge, "ab" * 32, now=now) == "unknown-key"


def test_decisions_are_attestation_results_that_anyone_can_check(
    ask, enclave_of, made, home, now
):
    _, token = ask(enclave_of(made))
    other = replace(unloaded(), rtmr1=bytes(48))
    refused(ask, enclave_of(made, measurements=other))
    yes, no = Decisions(home).all()
    assert (yes.released, no.released) == (True, False)
    assert yes.ear == token
    public = [VERIFIER.public_key()]
    result = check_result(token.encode(), public, now=now, allow_simulated=True)
    assert result.claims["key_released"] is True
    assert result.claims["model_sha256"] == made.bundle.sha256
    vouched = result.claims["submods"]["0:tdx-v4"]["ear_attester_claims"]
    assert vouched["measurements"]["mrtd"] == unloaded().mrtd.hex()
    code = refused(check_result, no.ear.encode(), public, now=now, allow_simulated=True)
    assert code == "result-status"


def test_nothing_that_is_written_down_holds_the_key(ask, enclave_of, made, home):
    ask(enclave_of(made))
    for path in home.rglob("*"):
        if path.is_file():
            assert made.content_key not in path.read_bytes()
            assert made.content_key.hex().encode() not in path.read_bytes()


def test_a_changed_sealed_model_does_not_open(ask, enclave_of, made):
    content = made.bundle.path("tee/model.sealed").read_bytes()
    for at in (0, len(content) // 2, len(content) - 1):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        file = SealedFile(
            changed, made.bundle.manifest.modes["tee"].params["sealed"]["onnx_sha256"]
        )
        enclave = enclave_of(made, sealed=file)
        assert refused(enclave.unseal, ask(enclave)[0]) == "model-unsealable"
        assert enclave.describe()["sealed"] is True


def test_another_model_under_the_same_key_is_not_the_manifests(ask, enclave_of, made):
    content = made.bundle.path("tee/model.sealed").read_bytes()
    enclave = enclave_of(made, sealed=SealedFile(content, "ab" * 32))
    assert refused(enclave.unseal, ask(enclave)[0]) == "model-changed"
