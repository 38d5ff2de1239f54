"""The data owner accepts an answer only from the enclave it checked."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from lying_attester import LyingTdxAttester
from tee_models import MODEL_SHA256, WEIGHTS, linear_model

from privacy.encoding import b64url, canonical_json, pack, parse_object, sha256_hex
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    VerificationError,
)
from privacy.tee.batches import Batches
from privacy.tee.chain import load_certificate
from privacy.tee.client import (
    NOTHING,
    TeeSession,
    check_evidence,
    new_nonce,
    verify_job_evidence,
)
from privacy.tee.enclave import Enclave
from privacy.tee.engine import Engine
from privacy.tee.evidence import parse_evidence
from privacy.tee.kem import CLASSIC, HYBRID, choose, supported
from privacy.tee.measure import measure_loaded
from privacy.tee.parse import parse_tdx_quote
from privacy.tee.seal import parse_sealed, seal_input
from privacy.tee.simulated_collateral import (
    Defects,
    simulated_collateral,
    tcb_info,
)
from privacy.tee.simulated_pki import known_ca, make_ca, make_leaf, make_root
from privacy.tee.simulator import SimulatedTdxAttester

MODEL = linear_model()
REFERENCE = measure_loaded(MODEL).as_dict()
ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def make_enclave(attester=None, *, model=MODEL, model_sha256=MODEL_SHA256, kems=None):
    """Return what the enclave process answers with, here, without the process."""
    measured = measure_loaded(model)
    attester = attester or SimulatedTdxAttester()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("privacy.tee.enclave.supported", lambda: kems or supported())
        return Enclave(Engine(model), attester, measured, model_sha256=model_sha256)


def make_session(
    *,
    allow_simulated=True,
    reference=REFERENCE,
    collateral=NOTHING,
    require_hybrid=False,
):
    return TeeSession(
        model_sha256=MODEL_SHA256,
        reference=reference,
        columns=3,
        collateral=collateral,
        allow_simulated=allow_simulated,
        require_hybrid=require_hybrid,
    )


@pytest.fixture
def enclave():
    return make_enclave()


@pytest.fixture
def session(enclave):
    session = make_session()
    session.check_evidence(enclave.evidence(session.nonce), now=NOW)
    return session


def changed(evidence, **members):
    value = parse_object(evidence, what="evidence")
    return canonical_json({**value, **members})


def changed_statement(evidence, **members):
    statement = parse_object(evidence, what="evidence")["statement"]
    return changed(evidence, statement={**statement, **members})


def assert_code(code, family, call, *args, **options):
    with pytest.raises(family) as caught:
        call(*args, **options)
    assert caught.value.code == code


# Evidence


def test_honest_evidence_is_accepted_and_says_what_it_is_worth(enclave):
    session = make_session()
    result = session.check_evidence(enclave.evidence(session.nonce), now=NOW)
    assert result.simulated
    assert (result.tcb_status, result.advisories) == ("UpToDate", ())
    assert result.measurements.as_dict() | {"rtmr3": "00" * 48} == REFERENCE


@dataclass(frozen=True)
class Given:
    """Collateral that also holds what is wrong, newer than the honest one."""

    defects: Defects

    def collateral(self, evidence):
        return simulated_collateral(known_ca(), now=NOW, defects=self.defects)


def serial_of(quote, which):
    certificate = parse_tdx_quote(quote).certificates[which]
    return load_certificate(certificate, "certificate").serial_number


def behind(status):
    (level,) = tcb_info()["tcbLevels"]
    levels = [{**level, "tcbStatus": status, "advisoryIDs": ["INTEL-SA-1"]}]
    return Defects(tcb_info={"tcbLevels": levels, "tcbEvaluationDataNumber": 99})


def test_a_job_shows_what_was_looked_up_of_its_platform(enclave):
    session = make_session()
    result = session.check_evidence(enclave.evidence(session.nonce), now=NOW)
    lines = {check.name: check for check in result.checks}
    for name in ("revocation", "tcb-info", "tcb-level", "tcb-status", "collateral"):
        assert lines[name].ok
    assert result.as_dict()["tcb_status"] == "UpToDate"


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "Revoked"])
def test_a_platform_that_is_not_up_to_date_gets_no_job(enclave, status):
    session = make_session(collateral=Given(behind(status)))
    evidence = enclave.evidence(session.nonce)
    with pytest.raises(AppraisalError, match="INTEL-SA-1") as caught:
        session.check_evidence(evidence, now=NOW)
    assert caught.value.code == "tcb-status"
    with pytest.raises(VerificationError) as caught:
        session.seal(ROWS)
    assert caught.value.code == "evidence-unchecked"


@pytest.mark.parametrize("which", [0, 1])
def test_a_revoked_platform_gets_no_job(enclave, which):
    evidence = enclave.evidence(new_nonce())
    quote = parse_evidence(evidence).quote
    defects = Defects(revoked=[serial_of(quote, which)])
    session = make_session(collateral=Given(defects))
    evidence = enclave.evidence(session.nonce)
    check = session.check_evidence
    assert_code("certificate-revoked", VerificationError, check, evidence, now=NOW)


def test_a_platform_whose_revocation_is_unknown_gets_no_job():
    attester = SimulatedTdxAttester()
    root, attester.ca = make_root(), make_ca(make_root())
    leaf = make_leaf(attester.ca)
    attester.certificates = (leaf.der, attester.ca.der, root.der)
    attester.pck_key = leaf.key
    session = make_session()
    evidence = make_enclave(attester=attester).evidence(session.nonce)
    check = session.check_evidence
    assert_code("collateral-missing", CannotVerifyError, check, evidence, now=NOW)


def test_simulated_evidence_is_refused_unless_allowed(enclave):
    session = make_session(allow_simulated=False)
    evidence = enclave.evidence(session.nonce)
    with pytest.raises(VerificationError) as caught:
        session.check_evidence(evidence, now=NOW)
    assert caught.value.code == "simulated-evidence"
    assert not isinstance(caught.value, AppraisalError)  # the trust store refused it


def test_evidence_for_another_nonce_is_refused(enclave):
    check = make_session().check_evidence
    evidence = enclave.evidence(new_nonce())
    assert_code("nonce-mismatch", VerificationError, check, evidence, now=NOW)


def test_evidence_for_another_nonce_under_the_right_name_is_refused(enclave):
    session = make_session()
    evidence = changed(enclave.evidence(new_nonce()), nonce=b64url(session.nonce))
    check = session.check_evidence
    assert_code("report-data-mismatch", AppraisalError, check, evidence, now=NOW)


@pytest.mark.parametrize(
    "swapped",
    [
        {"signing_public_key": b64url(bytes(32))},
        {"hpke_public_keys": {CLASSIC: b64url(bytes(32))}},
        {"hpke_public_keys": {CLASSIC: b64url(bytes(32)), HYBRID: b64url(bytes(1216))}},
    ],
)
def test_evidence_with_a_swapped_key_is_refused(enclave, swapped):
    session = make_session()
    evidence = changed(enclave.evidence(session.nonce), **swapped)
    check = session.check_evidence
    assert_code("report-data-mismatch", AppraisalError, check, evidence, now=NOW)


def test_evidence_without_the_better_of_its_keys_is_refused(enclave):
    """Who sits between cannot make the client seal with X25519 alone."""
    session = make_session()
    evidence = enclave.evidence(session.nonce)
    keys = parse_object(evidence, what="evidence")["hpke_public_keys"]
    assert set(keys) == {HYBRID, CLASSIC}
    evidence = changed(evidence, hpke_public_keys={CLASSIC: keys[CLASSIC]})
    check = session.check_evidence
    assert_code("report-data-mismatch", AppraisalError, check, evidence, now=NOW)


def test_evidence_about_another_model_is_refused():
    session = make_session()
    evidence = make_enclave(model_sha256="cd" * 32).evidence(session.nonce)
    check = session.check_evidence
    assert_code("model-mismatch", VerificationError, check, evidence, now=NOW)


def test_an_enclave_with_another_model_under_the_right_name_is_refused():
    session = make_session()
    other = make_enclave(model=linear_model(WEIGHTS * 2))
    evidence = other.evidence(session.nonce)
    check = session.check_evidence
    assert_code("measurement-mismatch", AppraisalError, check, evidence, now=NOW)


@pytest.mark.parametrize("name", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_an_enclave_with_another_register_is_refused(name):
    session = make_session()
    lying = make_enclave(LyingTdxAttester(report={name: b"\xff" * 48}))
    check = session.check_evidence
    evidence = lying.evidence(session.nonce)
    with pytest.raises(AppraisalError) as caught:
        check(evidence, now=NOW)
    assert caught.value.code == "measurement-mismatch"
    assert [c.name for c in caught.value.checks if not c.ok] == [name]


def test_an_event_log_that_does_not_replay_is_refused(enclave):
    session = make_session()
    evidence = enclave.evidence(session.nonce)
    log = parse_object(evidence, what="evidence")["event_log"]
    check = session.check_evidence
    for other in ([], log[:1], log[::-1], [*log, log[0]]):
        lying = changed(evidence, event_log=other)
        assert_code("measurement-mismatch", AppraisalError, check, lying, now=NOW)


def test_an_event_log_that_tells_of_another_start_is_refused(enclave):
    session = make_session()
    check = session.check_evidence
    honest = enclave._log.events
    for events in (
        (),
        honest[:1],
        honest[1:],
        (*honest, honest[0]),
        (replace(honest[0], detail={"sha256": "00" * 32}), honest[1]),
        (honest[0], replace(honest[1], detail={"model_sha256": MODEL_SHA256})),
    ):
        enclave._log._events = events
        lying = enclave.evidence(session.nonce)
        assert_code("event-log-mismatch", AppraisalError, check, lying, now=NOW)


def test_a_debug_enclave_is_refused():
    session = make_session()
    lying = make_enclave(LyingTdxAttester(report={"td_attributes": b"\1" + bytes(7)}))
    check = session.check_evidence
    evidence = lying.evidence(session.nonce)
    assert_code("debug-enclave", AppraisalError, check, evidence, now=NOW)


def test_evidence_in_a_format_nobody_knows_is_refused(enclave):
    session = make_session()
    evidence = changed(enclave.evidence(session.nonce), format="sgx-v3")
    check = session.check_evidence
    assert_code("unsupported-quote", FormatError, check, evidence, now=NOW)


def test_a_reference_that_lacks_a_register_is_refused(enclave):
    nonce = new_nonce()
    with pytest.raises(FormatError):
        check_evidence(
            enclave.evidence(nonce),
            nonce=nonce,
            reference={"mrtd": REFERENCE["mrtd"]},
            model_sha256=MODEL_SHA256,
            allow_simulated=True,
            now=NOW,
        )


def test_real_evidence_is_held_against_the_hardware_root(vectors, enclave):
    """Its keys are not ours, so it fails at the report data, after the signatures."""
    session = make_session(allow_simulated=False)
    quote = (vectors / "dcap-qvl" / "tdx_quote").read_bytes()
    evidence = changed(enclave.evidence(session.nonce), quote=b64url(quote))
    with pytest.raises(AppraisalError) as caught:
        session.check_evidence(evidence, now=NOW)
    by_name = {check.name: check for check in caught.value.checks}
    assert by_name["root"].ok
    assert by_name["debug"].ok
    assert not by_name["report-data"].ok


# Jobs


def test_nothing_is_sealed_before_evidence_was_checked():
    assert_code("evidence-unchecked", VerificationError, make_session().seal, ROWS)


def test_a_session_opens_the_answers_to_all_its_inputs(enclave, session):
    jobs = [(rows, session.seal(rows)) for rows in (ROWS, ROWS[:1], ROWS * 2)]
    for rows, sealed in reversed(jobs):
        output, evidence = enclave.infer(sealed)
        outputs = session.open(output, evidence, sealed=sealed, now=NOW)
        np.testing.assert_allclose(outputs, rows @ WEIGHTS, rtol=1e-6)


@pytest.mark.parametrize("kem", [HYBRID, CLASSIC])
def test_an_enclave_without_ml_kem_answers_unless_the_hybrid_is_required(kem):
    enclave = make_enclave(kems=[kem])
    session, strict = make_session(), make_session(require_hybrid=True)
    for one in (session, strict):
        one.check_evidence(enclave.evidence(one.nonce), now=NOW)
    output, evidence = enclave.infer(session.seal(ROWS))
    assert session.kem == kem
    assert session.open(output, evidence, now=NOW).shape == (2, 2)
    if kem == CLASSIC:
        assert_code("kem-refused", VerificationError, strict.seal, ROWS)
    else:
        assert enclave.infer(strict.seal(ROWS))


def test_a_job_name_used_for_another_input_is_refused(enclave, session):
    first = parse_sealed(session.seal(ROWS))
    key = choose(parse_evidence(enclave.evidence(session.nonce)).hpke_public_keys)
    enclave.infer(sealed := session.seal(ROWS))
    purpose = parse_sealed(sealed).purpose(MODEL_SHA256)
    again = seal_input(
        [[0.0] * 3], columns=3, key=key, purpose=purpose, reply_key=bytes(32)
    )
    assert_code("job-reused", FormatError, enclave.infer, again)
    enclave.infer(sealed)  # a gateway repeats it after a crash
    moved = pack([first.key_id, first.nonce, purpose.job, first.ciphertext])
    assert_code("job-reused", FormatError, enclave.infer, moved)


def test_an_answer_to_another_input_of_the_session_is_refused(enclave, session):
    first, second = session.seal(ROWS), session.seal(ROWS * 2)
    swapped = enclave.infer(second)
    for sealed in (first, None, b"never sealed"):
        refused = {"sealed": sealed, "now": NOW}
        assert_code(
            "statement-mismatch", VerificationError, session.open, *swapped, **refused
        )


def test_an_answer_of_another_session_is_refused(enclave, session):
    other = make_session()
    other.check_evidence(enclave.evidence(other.nonce), now=NOW)
    output, evidence = enclave.infer(other.seal(ROWS))
    opened = session.open
    assert_code(
        "statement-mismatch", VerificationError, opened, output, evidence, now=NOW
    )


def test_a_changed_answer_is_refused(enclave, session):
    output, evidence = enclave.infer(session.seal(ROWS))
    flipped = output[:-1] + bytes([output[-1] ^ 1])
    opened = session.open
    assert_code(
        "statement-mismatch", VerificationError, opened, flipped, evidence, now=NOW
    )


def test_an_answer_without_a_statement_is_refused(enclave, session):
    output, _ = enclave.infer(session.seal(ROWS))
    evidence = enclave.evidence(session.nonce)
    opened = session.open
    assert_code(
        "statement-mismatch", VerificationError, opened, output, evidence, now=NOW
    )


def test_an_answer_vouched_for_by_another_honest_enclave_is_refused(enclave, session):
    """The same code and model elsewhere: genuine, but not the one that was checked."""
    other = make_enclave()
    other._hpke_keys = enclave._hpke_keys
    output, evidence = other.infer(session.seal(ROWS))
    opened = session.open
    assert_code("enclave-changed", VerificationError, opened, output, evidence, now=NOW)


def test_an_answer_signed_for_another_job_is_refused(enclave, session):
    output, evidence = enclave.infer(session.seal(ROWS))
    other = replace(parse_evidence(evidence).statement, job=bytes(32))
    lie = enclave.evidence(session.nonce, other, other.sign(enclave._signing_key))
    opened = session.open
    assert_code("statement-mismatch", VerificationError, opened, output, lie, now=NOW)


def test_a_quote_serves_a_session_for_a_while_and_no_longer(enclave, monkeypatch):
    def quote():
        return parse_evidence(enclave.evidence(bytes(32))).quote

    first = quote()
    assert quote() == first
    monkeypatch.setattr("privacy.tee.enclave._QUOTE_S", 0.0)
    assert quote() != first


def test_an_answer_with_a_row_too_few_is_refused(enclave, session):
    def lazy(rows):
        return enclave._engine.run(rows) if rows[0] == ROWS[0].tolist() else []

    enclave._batches = Batches(lazy)
    output, evidence = enclave.infer(session.seal(ROWS))
    opened = session.open
    assert_code("wrong-row-count", VerificationError, opened, output, evidence, now=NOW)


# Receipts


@pytest.fixture
def job(enclave, session):
    sealed = session.seal(ROWS)
    output, evidence = enclave.infer(sealed)
    digests = {"input_sha256": sha256_hex(sealed), "output_sha256": sha256_hex(output)}
    return evidence, digests


def verify_job(evidence, digests, **options):
    given = {"allow_simulated": True, "model_sha256": MODEL_SHA256, **digests}
    return verify_job_evidence(
        evidence, reference=REFERENCE, now=NOW, **{**given, **options}
    )


def test_a_jobs_evidence_holds_for_anyone_with_the_receipt(job):
    assert verify_job(*job).simulated


@pytest.mark.parametrize("name", ["input_sha256", "output_sha256"])
def test_a_jobs_evidence_is_about_one_input_and_output(job, name):
    evidence, digests = job
    wrong = {**digests, name: "00" * 32}
    assert_code("statement-mismatch", VerificationError, verify_job, evidence, wrong)


def test_a_jobs_evidence_is_about_one_model(job):
    options = {"model_sha256": "cd" * 32}
    assert_code("model-mismatch", VerificationError, verify_job, *job, **options)


def test_a_jobs_simulated_evidence_is_refused_unless_allowed(job):
    options = {"allow_simulated": False}
    assert_code("simulated-evidence", VerificationError, verify_job, *job, **options)


@pytest.mark.parametrize(
    "members",
    [
        {"model_sha256": "cd" * 32},
        {"nonce": b64url(bytes(32))},
        {"input_sha256": "00" * 32},
        {"output_sha256": "00" * 32},
        {"simulated": False},
    ],
)
def test_a_jobs_statement_changed_in_any_field_is_refused(job, members):
    evidence, digests = job
    lie = changed_statement(evidence, **members)
    assert_code("statement-mismatch", VerificationError, verify_job, lie, digests)


def test_a_jobs_statement_changed_to_fit_a_changed_receipt_is_refused(job):
    evidence, digests = job
    members = {"output_sha256": "00" * 32}
    lie = changed_statement(evidence, **members)
    fitting = {**digests, **members}
    assert_code("statement-signature", VerificationError, verify_job, lie, fitting)


def test_evidence_without_a_statement_proves_no_job(enclave, job):
    evidence = enclave.evidence(new_nonce())
    assert_code("statement-missing", VerificationError, verify_job, evidence, job[1])
