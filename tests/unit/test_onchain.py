"""What inputs and answers are to contracts: against EZKL, eth-hash and eth-account."""

from dataclasses import replace

import ezkl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.bundle import ModePart
from privacy.errors import FormatError, VerificationError
from privacy.fixed_point import MODULUS
from privacy.keccak import keccak
from privacy.onchain import (
    HASHED,
    SALTED,
    SHOWN,
    Question,
    Terms,
    input_blob,
    pack_words,
    terms_of,
)
from privacy.poseidon import poseidon
from privacy.salt import elements
from tests.support.hand_made_bundle import write_bundle

SALT = bytes(range(32))
QUESTION = Question(31337, b"\7" * 20, 5, b"\1" * 32, b"\2" * 32)
HASHED_TERMS = Terms(
    HASHED, 2, 1, 10, 12, (0.5, 0.0), (2.0, 1.0), is_salted=False, tolerance=0.01
)


@given(st.binary(max_size=600))
@settings(max_examples=30, deadline=None)
def test_keccak_is_the_one_of_the_evm(raw):
    from eth_hash.auto import keccak as reference

    assert keccak(raw) == reference(raw)


@pytest.mark.parametrize("size", [135, 136, 137, 272])
def test_keccak_pads_at_the_edges_of_a_block(size):
    from eth_hash.auto import keccak as reference

    assert keccak(b"\xff" * size) == reference(b"\xff" * size)


@pytest.mark.parametrize("row", [[1], [0, -1], [-(1 << 23), 5, 7], list(range(40))])
def test_poseidon_is_the_one_of_the_circuits(row):
    little = [(v % MODULUS).to_bytes(32, "little").hex() for v in row]
    (expected,) = ezkl.poseidon_hash(little)
    assert poseidon(row) == int.from_bytes(bytes.fromhex(expected), "little")


@pytest.mark.parametrize("proven", [False, True])
def test_the_digest_is_the_one_of_eip_712(proven):
    from eth_account.messages import encode_typed_data

    instances = (7, MODULUS - 3)
    message = encode_typed_data(
        {
            "name": "PrivacyCompute",
            "version": "1",
            "chainId": 31337,
            "verifyingContract": "0x" + "07" * 20,
        },
        {
            "Answer": [
                {"name": "requestId", "type": "uint256"},
                {"name": "modelId", "type": "bytes32"},
                {"name": "inputCommitment", "type": "bytes32"},
                {"name": "instancesHash", "type": "bytes32"},
                {"name": "proven", "type": "bool"},
            ]
        },
        {
            "requestId": 5,
            "modelId": QUESTION.model_id,
            "inputCommitment": QUESTION.commitment,
            "instancesHash": keccak(pack_words(instances)),
            "proven": proven,
        },
    )
    expected = keccak(b"\x19" + message.version + message.header + message.body)
    assert QUESTION.digest(instances, proven=proven) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_id": 1},
        {"coordinator": b"\6" * 20},
        {"request_id": 6},
        {"model_id": b"\6" * 32},
        {"commitment": b"\6" * 32},
    ],
)
def test_every_part_of_a_question_is_in_its_digest(changes):
    other = replace(QUESTION, **changes)
    assert other.digest([1], proven=True) != QUESTION.digest([1], proven=True)


def test_a_question_survives_json():
    assert Question.from_dict(QUESTION.as_dict()) == QUESTION


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"chain_id": "31337"},
        {"chain_id": True},
        {"coordinator": "0x12"},
        {"coordinator": "0x" + "AB" * 20},
        {"request_id": "05"},
        {"request_id": "-1"},
        {"model_id": "zz"},
        {"input_commitment": None},
    ],
)
def test_what_is_no_question_is_refused(change):
    with pytest.raises(FormatError):
        Question.from_dict({**QUESTION.as_dict(), **change})
    with pytest.raises(FormatError):
        Question.from_dict([])


def test_a_hashed_input_is_its_quantised_rows_hash():
    (described,) = HASHED_TERMS.describe([1.5, -2.0], SALT)
    assert described == poseidon([512, -2048])
    assert HASHED_TERMS.commitment([described]) == described.to_bytes(32, "big")


def test_a_salted_circuit_hashes_the_salt_as_well():
    terms = replace(HASHED_TERMS, is_salted=True)
    (described,) = terms.describe([1.5, -2.0], SALT)
    assert described == poseidon([512, -2048, *elements(SALT, 0)])


def test_a_shown_input_is_the_quantised_row_itself():
    terms = replace(HASHED_TERMS, kind=SHOWN)
    described = terms.describe([1.5, -2.0], SALT)
    assert described == [512, MODULUS - 2048]
    assert terms.commitment(described) == keccak(pack_words(described))
    assert (terms.inputs, terms.input_kind) == (2, 1)


def test_a_salted_input_depends_on_row_and_salt():
    terms = replace(HASHED_TERMS, kind=SALTED)
    seen = {
        terms.commitment(terms.describe(row, salt))
        for row in ([1.0, 2.0], [1.0, 2.5])
        for salt in (SALT, bytes(32))
    }
    assert len(seen) == 4


def test_outputs_become_fixed_point():
    assert HASHED_TERMS.instances([9], [-1.5]) == (9, MODULUS - 6144)
    with pytest.raises(FormatError):
        HASHED_TERMS.instances([9], [1.0, 2.0])
    with pytest.raises(FormatError):
        HASHED_TERMS.instances([9], [1e80])
    with pytest.raises(FormatError):
        HASHED_TERMS.describe([1.0], SALT)


def test_a_proven_answer_must_be_near_the_models_own():
    near, far = round(1.005 * 4096), round(1.02 * 4096)
    HASHED_TERMS.check_proven([9, near], [9], [1.0])
    refused = {"output-mismatch": [9, far], "input-mismatch": [8, near]}
    for code, proven in refused.items():
        with pytest.raises(VerificationError) as caught:
            HASHED_TERMS.check_proven(proven, [9], [1.0])
        assert caught.value.code == code
    with pytest.raises(VerificationError):
        HASHED_TERMS.check_proven([9, near, 1], [9], [1.0])


def _manifest(tmp_path, **params):
    manifest = write_bundle(tmp_path).manifest
    circuit = {
        "visibility": {"input": "hashed", "params": "fixed"},
        "input_scale_bits": 9,
        "output_scale_bits": 12,
        "input_offset": [0, 0],
        "input_scale": [1, 1],
        **params,
    }
    part = ModePart(available=True, accuracy={"max_error": 0.002}, params=circuit)
    return replace(manifest, modes={**manifest.modes, "zkml": part})


def test_terms_follow_from_the_manifest(tmp_path):
    terms = terms_of(_manifest(tmp_path))
    assert (terms.kind, terms.input_bits, terms.output_bits) == (HASHED, 9, 12)
    assert terms.tolerance == pytest.approx(0.008 + 8 / 4096)


@pytest.mark.parametrize(
    ("visibility", "kind"),
    [
        ({"input": "public", "params": "fixed"}, SHOWN),
        ({"input": "private", "params": "fixed"}, SALTED),
        ({"input": "committed", "params": "fixed"}, SALTED),
        ({"input": "public", "params": "fixed", "salted": True}, SALTED),
        ({"input": "hashed", "params": "hashed"}, SALTED),
    ],
)
def test_a_circuit_that_does_not_fit_contracts_is_not_used(tmp_path, visibility, kind):
    assert terms_of(_manifest(tmp_path, visibility=visibility)).kind == kind


def test_a_manifest_that_says_too_little_of_its_circuit_is_refused(tmp_path):
    with pytest.raises(FormatError):
        terms_of(_manifest(tmp_path, input_scale_bits="nine"))


def test_an_input_in_the_clear_is_the_one_that_nodes_prove_from():
    from privacy.zkml.blobs import make_input

    assert input_blob([[1.0, 2.5]], SALT) == make_input([[1.0, 2.5]], salt=SALT)
