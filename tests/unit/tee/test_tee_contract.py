"""An enclave answers contracts: only what was sealed for them, only as asked."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tee_models import WEIGHTS, linear_model

from privacy.bundle import Column, Manifest, ModePart, list_files, write_manifest
from privacy.encoding import canonical_json, pack, parse_object, unpack
from privacy.errors import FormatError, VerificationError
from privacy.fixed_point import MODULUS
from privacy.onchain import HASHED, Question, Terms, terms_of
from privacy.tee.client import TeeSession, check_evidence, new_job, new_nonce
from privacy.tee.contract import parse_answer, seal_for_contract, with_order
from privacy.tee.enclave import Enclave
from privacy.tee.engine import Engine
from privacy.tee.evidence import parse_evidence
from privacy.tee.host import Enclave as HostedEnclave
from privacy.tee.kem import choose
from privacy.tee.measure import measure_loaded
from privacy.tee.seal import Purpose
from privacy.tee.simulator import SimulatedTdxAttester

MODEL = linear_model()
MODEL_SHA256 = "ab" * 32
ROW, SALT = [1.0, 2.0, 3.0], bytes(range(32))
OUTPUTS = (np.array(ROW) @ WEIGHTS).tolist()
CHAIN_ID, COORDINATOR = 31337, b"\7" * 20
SALTED_TERMS = Terms("salted", 3, 2, 0, 16, (), (), is_salted=False, tolerance=0.0)
HASHED_TERMS = Terms(
    HASHED, 3, 2, 10, 12, (0.0,) * 3, (1.0,) * 3, is_salted=False, tolerance=0.01
)


def make_enclave(terms):
    return Enclave(
        Engine(MODEL),
        SimulatedTdxAttester(),
        measure_loaded(MODEL),
        model_sha256=MODEL_SHA256,
        terms=terms,
    )


def question_of(terms, **changes):
    commitment = terms.commitment(terms.describe(ROW, SALT))
    question = Question(CHAIN_ID, COORDINATOR, 5, b"\1" * 32, commitment)
    return replace(question, **changes)


def seal(enclave, row=ROW, **changes):
    """Seal a row to an enclave of this process."""
    shown = parse_evidence(enclave.evidence(bytes(32)))
    options = {
        "salt": SALT,
        "key": choose(shown.hpke_public_keys),
        "purpose": Purpose(MODEL_SHA256, bytes(32), new_job()),
        "chain_id": CHAIN_ID,
        "coordinator": COORDINATOR,
        **changes,
    }
    return seal_for_contract(row, **options)


def signer_of(question, answer, *, proven=False):
    """Return the public keys that may have made a signature, 64 bytes each."""
    from eth_keys.datatypes import Signature

    digest = question.digest(answer.instances, proven=proven)
    r, s = (int.from_bytes(answer.signature[i : i + 32], "big") for i in (0, 32))
    return [
        Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(digest).to_bytes()
        for v in (0, 1)
    ]


def enclave_key(enclave):
    return parse_evidence(enclave.evidence(bytes(32))).chain_public_key


@pytest.mark.parametrize("terms", [SALTED_TERMS, HASHED_TERMS])
def test_an_answer_is_signed_by_the_attested_key(terms):
    enclave, question = make_enclave(terms), question_of(terms)
    answer, evidence = enclave.infer(with_order(seal(enclave), question))
    found, shown = parse_answer(answer), parse_evidence(evidence)
    assert shown.chain_public_key in signer_of(question, found)
    described = terms.describe(ROW, SALT)
    assert found.instances == terms.instances(described, OUTPUTS)
    half = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
    assert int.from_bytes(found.signature[32:], "big") <= half


def test_a_proof_near_the_models_own_answer_is_signed_beside():
    enclave, question = make_enclave(HASHED_TERMS), question_of(HASHED_TERMS)
    own = HASHED_TERMS.instances(HASHED_TERMS.describe(ROW, SALT), OUTPUTS)
    proven = (own[0], own[1] + 3, own[2] - 3)
    sealed = seal(enclave)
    answer, _ = enclave.infer(with_order(sealed, question, proven=proven))
    found = parse_answer(answer)
    assert found.instances == proven
    key = enclave_key(enclave)
    assert key in signer_of(question, found, proven=True)
    assert key not in signer_of(question, found)  # no answer where no proof is asked
    for forged in ((own[0], own[1] + 100, own[2]), (own[0] + 1, *own[1:])):
        with pytest.raises(VerificationError):
            enclave.infer(with_order(sealed, question, proven=forged))


def test_only_the_input_that_the_request_names_is_answered():
    enclave, question = make_enclave(SALTED_TERMS), question_of(SALTED_TERMS)
    for other in (seal(enclave, [1.0, 2.0, 4.0]), seal(enclave, salt=bytes(32))):
        with pytest.raises(VerificationError) as caught:
            enclave.infer(with_order(other, question))
        assert caught.value.code == "input-mismatch"


@pytest.mark.parametrize("change", [{"chain_id": 1}, {"coordinator": b"\6" * 20}])
def test_an_input_is_for_one_chain_and_one_coordinator(change):
    enclave, question = make_enclave(SALTED_TERMS), question_of(SALTED_TERMS)
    with pytest.raises(FormatError) as caught:
        enclave.infer(with_order(seal(enclave), replace(question, **change)))
    assert caught.value.code == "unsealable"


def test_an_input_sealed_for_a_private_answer_gets_no_public_one():
    enclave = make_enclave(SALTED_TERMS)
    session = TeeSession(
        model_sha256=MODEL_SHA256,
        reference=measure_loaded(MODEL).as_dict(),
        columns=3,
        allow_simulated=True,
    )
    session.check_evidence(enclave.evidence(session.nonce), now=datetime.now(UTC))
    private = session.seal([ROW])
    with pytest.raises(FormatError) as caught:
        enclave.infer(with_order(private, question_of(SALTED_TERMS)))
    assert caught.value.code == "unsealable"
    with pytest.raises(FormatError):
        enclave.infer(seal(enclave))  # nor the other way round


def test_an_enclave_without_a_manifest_answers_no_contract():
    enclave = make_enclave(None)
    shown = parse_evidence(enclave.evidence(bytes(32)))
    assert shown.chain_public_key == b""
    with pytest.raises(FormatError) as caught:
        enclave.infer(with_order(seal(enclave), question_of(SALTED_TERMS)))
    assert caught.value.code == "no-chain-key"


def test_malformed_orders_are_refused():
    enclave, question = make_enclave(SALTED_TERMS), question_of(SALTED_TERMS)
    sealed = seal(enclave)
    good = {"question": question.as_dict(), "proven": []}
    frames = unpack(sealed, what="sealed")
    orders = [
        {**good, "extra": 1},
        {"question": good["question"]},
        {**good, "proven": ["12"]},
        {**good, "proven": [1]},
        {**good, "proven": "no list"},
        {**good, "question": 7},
    ]
    for order in orders:
        with pytest.raises(FormatError):
            enclave.infer(pack([*frames, canonical_json(order)]))
    for odd in (b"", b"{", b"\xff"):
        with pytest.raises(FormatError):
            enclave.infer(pack([*frames, odd]))


def test_a_row_is_sealed_with_a_whole_salt():
    with pytest.raises(FormatError):
        seal(make_enclave(SALTED_TERMS), salt=b"short")
    with pytest.raises(FormatError):
        seal(make_enclave(SALTED_TERMS), [float("nan"), 0.0, 0.0])


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"signature": "00"}, {"signature": "AB" * 64}, {"instances": [1]}],
)
def test_what_is_no_answer_is_refused(change):
    good = {"instances": ["00" * 32], "signature": "ab" * 64}
    parse_answer(canonical_json(good))
    with pytest.raises(FormatError):
        parse_answer(canonical_json({**good, **change}))


def test_the_chain_key_is_vouched_for_by_the_quote():
    enclave, nonce = make_enclave(SALTED_TERMS), new_nonce()
    given = {
        "nonce": nonce,
        "reference": measure_loaded(MODEL).as_dict(),
        "model_sha256": MODEL_SHA256,
        "now": datetime.now(UTC),
        "allow_simulated": True,
    }
    honest = enclave.evidence(nonce)
    check_evidence(honest, **given)
    other = parse_object(make_enclave(SALTED_TERMS).evidence(nonce), what="evidence")
    for key in (other["chain_public_key"], ""):
        value = parse_object(honest, what="evidence")
        swapped = canonical_json({**value, "chain_public_key": key})
        with pytest.raises(VerificationError) as caught:
            check_evidence(swapped, **given)
        assert caught.value.code == "report-data-mismatch"


@pytest.fixture
def published(tmp_path):
    """A bundle folder with a manifest, and no circuit."""
    root = tmp_path / "bundle"
    (root / "tee").mkdir(parents=True)
    (root / "tee" / "model.onnx").write_bytes(MODEL)
    manifest = Manifest(
        name="linear",
        version="1",
        task="raw",
        columns=tuple(Column(f"x{i}", -1.0, 1.0) for i in range(3)),
        outputs=2,
        activation="none",
        classes=(),
        clear_accuracy={},
        modes={"tee": ModePart(available=True)},
        files=list_files(root, frozenset()),
        published_at="2026-01-01T00:00:00.000Z",
        tool="test",
    )
    return write_manifest(root, manifest)


def test_an_enclave_process_reads_its_manifest_and_answers(published, start_enclave):
    terms = terms_of(published.manifest)
    enclave = start_enclave(
        model_dir=published.root / "tee", model_sha256=published.sha256
    )
    assert isinstance(enclave, HostedEnclave)
    nonce = new_nonce()
    shown = parse_evidence(enclave.evidence(nonce))
    sealed = seal_for_contract(
        ROW,
        salt=SALT,
        key=choose(shown.hpke_public_keys),
        purpose=Purpose(published.sha256, nonce, new_job()),
        chain_id=CHAIN_ID,
        coordinator=COORDINATOR,
    )
    question = question_of(terms)
    result = enclave.infer(with_order(sealed, question), timeout_s=10)
    answer = parse_answer(result.output)
    assert shown.chain_public_key in signer_of(question, answer)
    assert answer.instances[1:] == tuple(round(y * 65536) % MODULUS for y in OUTPUTS)


def test_an_enclave_refuses_a_manifest_of_another_model(published, start_enclave):
    with pytest.raises(VerificationError) as caught:
        start_enclave(model_dir=published.root / "tee", model_sha256="cd" * 32)
    assert caught.value.code == "bundle-changed"
    (published.root / "tee" / "model.onnx").write_bytes(linear_model(2 * WEIGHTS))
    with pytest.raises(VerificationError):
        start_enclave(model_dir=published.root / "tee", model_sha256=published.sha256)
