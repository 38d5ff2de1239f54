import dataclasses
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.encoding import (
    b64url_decode,
    canonical_json,
    parse_object,
    sha256_hex,
)
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import key_from_jwk, key_id, public_jwk
from privacy.receipt import (
    Receipt,
    parse_receipt,
    sign_receipt,
    verify_receipt,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}
RECEIPT = Receipt(
    job_id="j1",
    model="breast-cancer",
    version="1",
    model_sha256="a" * 64,
    mode="zkml",
    status="succeeded",
    problem="",
    input_sha256="b" * 64,
    keys_sha256="",
    output_sha256="c" * 64,
    evidence_kind="proof",
    evidence_sha256="d" * 64,
    node="local",
    simulated=False,
    options={},
    submitted_at="2026-01-01T00:00:00.000Z",
    started_at="2026-01-01T00:00:01.000Z",
    finished_at="2026-01-01T00:00:02.000Z",
)
# What the first version of this module wrote for it.
BEFORE_PEERS = "51616ebd5630842939f29f25a3dd30f603c8fd61f37c5d08fe08c304ae96dd50"


def test_a_signed_receipt_verifies():
    assert verify_receipt(sign_receipt(RECEIPT, KEY), TRUSTED) == RECEIPT


def test_any_changed_byte_is_a_failed_verification():
    raw = sign_receipt(RECEIPT, KEY)
    for at in range(len(raw)):
        for value in random.Random(at).sample(range(256), 8):
            if value == raw[at]:
                continue
            changed = raw[:at] + bytes([value]) + raw[at + 1 :]
            with pytest.raises(VerificationError):
                verify_receipt(changed, TRUSTED)


def test_only_a_receipt_of_a_peers_job_is_of_the_second_format():
    chained = dataclasses.replace(RECEIPT, peer_receipt_sha256="e" * 64)
    raw = sign_receipt(chained, KEY)
    assert verify_receipt(raw, TRUSTED) == chained
    assert b"peer_receipt_sha256" not in sign_receipt(RECEIPT, KEY)
    assert _kind(raw) == "privacy-compute/receipt/2"
    assert _kind(sign_receipt(RECEIPT, KEY)) == "privacy-compute/receipt/1"


def test_a_receipt_signed_before_there_were_peers_verifies_still():
    assert sha256_hex(sign_receipt(RECEIPT, KEY)) == BEFORE_PEERS


@pytest.mark.parametrize("value", ["", None])
def test_a_receipt_that_chains_nothing_has_no_such_member(value):
    body = parse_object(sign_receipt(RECEIPT, KEY), what="receipt")
    body["receipt"]["peer_receipt_sha256"] = value
    with pytest.raises(VerificationError):
        verify_receipt(canonical_json(body), TRUSTED)


def _kind(raw):
    header = parse_object(raw, what="receipt")["jws"].split(".")[0]
    return parse_object(b64url_decode(header, what="header"), what="header")["typ"]


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_truncated_receipt_is_refused(cut):
    with pytest.raises(VerificationError):
        verify_receipt(sign_receipt(RECEIPT, KEY)[:cut], TRUSTED)


def test_an_unknown_signer_cannot_be_verified():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(CannotVerifyError) as caught:
        verify_receipt(sign_receipt(RECEIPT, other), TRUSTED)
    assert caught.value.code == "unknown-receipt-key"


def test_a_key_that_claims_anothers_id_is_refused():
    thief = Ed25519PrivateKey.generate()
    raw = sign_receipt(RECEIPT, thief)
    forged = {key_id(thief.public_key()): KEY.public_key()}
    with pytest.raises(VerificationError):
        verify_receipt(raw, forged)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Receipt)])
def test_every_field_is_signed(field):
    chained = dataclasses.replace(RECEIPT, peer_receipt_sha256="e" * 64)
    value = parse_object(sign_receipt(chained, KEY), what="receipt")
    old = value["receipt"][field]
    new = {bool: True, dict: {"x": 1}}.get(type(old), f"{old}x")
    value["receipt"][field] = new
    with pytest.raises(VerificationError):
        verify_receipt(canonical_json(value), TRUSTED)


def test_missing_and_added_members_are_refused():
    value = parse_object(sign_receipt(RECEIPT, KEY), what="receipt")
    for body in (
        {k: v for k, v in value["receipt"].items() if k != "node"},
        {**value["receipt"], "more": ""},
    ):
        with pytest.raises(FormatError):
            parse_receipt(canonical_json({**value, "receipt": body}))


def test_a_public_key_survives_its_jwk():
    jwk = public_jwk(KEY.public_key())
    assert key_id(key_from_jwk(jwk)) == jwk["kid"]


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "EC"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
    ],
)
def test_other_keys_are_refused(jwk):
    with pytest.raises(FormatError):
        key_from_jwk(jwk)
