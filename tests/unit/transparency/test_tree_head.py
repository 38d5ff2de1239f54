import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import key_id
from privacy.transparency.inclusion import (
    Inclusion,
    parse_inclusion,
    verify_inclusion,
)
from privacy.transparency.merkle import leaf_hash, node_hash
from privacy.transparency.tree_head import (
    TreeHead,
    parse_head,
    sign_head,
    verifier_key,
    verify_head,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KID = key_id(KEY.public_key())
TRUSTED = {KID: KEY.public_key()}
RECEIPTS = [b"receipt 0", b"receipt 1", b"receipt 2"]
LEAVES = [leaf_hash(r) for r in RECEIPTS]
HEAD = TreeHead(
    origin="privacy-compute/receipts/abc",
    size=3,
    root=node_hash(node_hash(*LEAVES[:2]), LEAVES[2]),
    time="2026-11-21T15:00:00.000Z",
    audit_size=2,
    audit_sha256="ab" * 32,
)
NOTE = sign_head(HEAD, KEY)
PROOF = Inclusion(1, (LEAVES[0], LEAVES[2]), NOTE).encode()


def test_a_tree_head_is_read_back_as_it_was_signed():
    assert verify_head(NOTE, TRUSTED) == (HEAD, KID)
    assert parse_head(NOTE) == HEAD


def test_a_tree_head_is_a_signed_note_as_c2sp_writes_it():
    """By hand, from the specification: key hash, then Ed25519 over the text."""
    text, _, line = NOTE.decode().rpartition("\n\n")
    dash, name, encoded = line.removesuffix("\n").split(" ")
    raw = base64.b64decode(encoded)
    public = KEY.public_key().public_bytes_raw()
    known_by = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    assert (dash, name, raw[:4]) == ("\N{EM DASH}", HEAD.origin, known_by)
    KEY.public_key().verify(raw[4:], f"{text}\n".encode())
    assert text.split("\n")[:3] == [
        HEAD.origin,
        "3",
        base64.b64encode(HEAD.root).decode(),
    ]
    named, hashed, key = verifier_key(HEAD.origin, KEY.public_key()).split("+", 2)
    assert (named, hashed) == (name, known_by.hex())
    assert base64.b64decode(key) == b"\x01" + public


def test_lines_of_witnesses_are_let_stand():
    cosigned = (
        NOTE + f"— witness.example/1 {base64.b64encode(bytes(76)).decode()}\n".encode()
    )
    assert verify_head(cosigned, TRUSTED) == (HEAD, KID)


def test_a_tree_head_of_another_key_cannot_be_verified():
    with pytest.raises(CannotVerifyError, match="no trusted key signed"):
        verify_head(sign_head(HEAD, OTHER), TRUSTED)


@given(st.integers(0, len(NOTE) * 8 - 1))
def test_any_flipped_bit_of_a_tree_head_is_noticed(bit):
    changed = bytearray(NOTE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, CannotVerifyError)):
        verify_head(bytes(changed), TRUSTED)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_tree_head_or_a_format_error(raw):
    for parse in (parse_head, parse_inclusion):
        with pytest.raises(FormatError):
            parse(raw)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n3\n", b"\n03\n"),
        (b"\n3\n", b"\n-3\n"),
        (b"time ", b"time  "),
        (b"audit 2 ", b"audit 2.0 "),
        (b"\ntime", b"\nmore\ntime"),
        (b"privacy-compute/", b"privacy compute/"),
        (b"\n\n", b"\n\n\n"),
        (b"=\n\xe2", b"=\n\n\xe2"),
    ],
)
def test_a_tree_head_written_in_another_way_is_refused(old, new):
    changed = NOTE.replace(old, new, 1)
    if changed != NOTE:
        with pytest.raises(FormatError):
            parse_head(changed)
    too_long = NOTE + NOTE.rpartition(b"\n\n")[2] * 200
    with pytest.raises(FormatError):
        parse_head(too_long)


def test_a_receipt_is_found_at_its_place():
    assert verify_inclusion(RECEIPTS[1], PROOF, TRUSTED) == (1, HEAD, KID)


def test_another_receipt_is_not_in_the_log():
    with pytest.raises(VerificationError) as caught:
        verify_inclusion(RECEIPTS[0], PROOF, TRUSTED)
    assert caught.value.code == "not-in-log"


@given(st.integers(0, len(PROOF) * 8 - 1))
def test_any_flipped_bit_of_a_log_entry_is_noticed(bit):
    changed = bytearray(PROOF)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, CannotVerifyError)):
        verify_inclusion(RECEIPTS[1], bytes(changed), TRUSTED)


def test_a_truncated_log_entry_is_refused():
    for cut in (0, 10, len(PROOF) - 1):
        with pytest.raises((VerificationError, CannotVerifyError)):
            verify_inclusion(RECEIPTS[1], PROOF[:cut], TRUSTED)
