"""What is sealed opens for one enclave, one model, one nonce, one job."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.encoding import b64url, canonical_json, pack, unpack
from privacy.errors import FormatError, VerificationError
from privacy.runs import MAX_ROWS
from privacy.tee import seal
from privacy.tee.seal import (
    open_answer,
    open_input,
    parse_sealed,
    seal_answer,
    seal_input,
)

MODEL = "ab" * 32
NONCE = bytes(range(32))
ROWS = [[1.5, -2.0], [0.0, 3.25]]
OUTPUTS = [[0.125], [-7.0]]

ENCLAVE = X25519PrivateKey.generate()
CLIENT = X25519PrivateKey.generate()


def raw_public(key):
    return key.public_key().public_bytes_raw()


def sealed_bytes(rows=ROWS, *, model=MODEL, nonce=NONCE, enclave=ENCLAVE):
    return seal_input(
        rows,
        columns=2,
        enclave_key=raw_public(enclave),
        nonce=nonce,
        model_sha256=model,
        reply_key=CLIENT.public_key(),
    )


def opened(raw, *, key=ENCLAVE, model=MODEL):
    return open_input(parse_sealed(raw), key, model_sha256=model, columns=2)


def assert_refused(raw, code, **options):
    with pytest.raises(FormatError) as caught:
        opened(raw, **options)
    assert caught.value.code == code
    return caught.value.message


def test_the_enclave_opens_what_was_sealed_to_it_again_and_again():
    raw = sealed_bytes()
    for _ in range(2):
        assert opened(raw) == (ROWS, raw_public(CLIENT))


def test_the_largest_honest_input_opens_and_a_larger_one_is_not_parsed():
    longest = -0.0000012345678901234567  # no canonical number is longer
    rows = [[longest, longest]] * MAX_ROWS
    assert opened(sealed_bytes(rows))[0] == rows
    key, nonce, ciphertext = unpack(sealed_bytes(rows), what="sealed input")
    padded = pack([key, nonce, ciphertext + bytes(2000)])
    assert "more bytes than" in assert_refused(padded, "malformed-input")


def test_sealing_twice_gives_different_bytes():
    assert sealed_bytes() != sealed_bytes()


def test_sealed_bytes_do_not_hold_the_rows():
    assert b"rows" not in sealed_bytes()


def test_an_input_for_another_enclave_says_that_one_is_gone():
    raw = sealed_bytes(enclave=X25519PrivateKey.generate())
    assert "ask for new evidence" in assert_refused(raw, "enclave-gone")


def test_an_input_for_another_model_nonce_or_changed_gives_one_message():
    raw = sealed_bytes()
    key, nonce, ciphertext = unpack(raw, what="sealed")
    flipped = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    messages = {
        assert_refused(raw, "unsealable", model="cd" * 32),
        assert_refused(pack([key, bytes(32), ciphertext]), "unsealable"),
        assert_refused(pack([key, nonce, flipped]), "unsealable"),
        assert_refused(pack([key, nonce, b""]), "unsealable"),
    }
    assert len(messages) == 1


def test_every_flipped_byte_of_a_sealed_input_is_refused():
    raw = sealed_bytes()
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(FormatError):
            opened(changed)


@pytest.mark.parametrize(
    "raw",
    [b"", b"junk", pack([b"one"]), pack([bytes(31), NONCE, b"x"]), pack([b""] * 4)],
)
def test_what_is_not_a_sealed_input_is_refused(raw):
    with pytest.raises(FormatError):
        parse_sealed(raw)


def test_a_sealed_input_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(seal, "MAX_SEALED_BYTES", 100)
    with pytest.raises(FormatError) as caught:
        parse_sealed(sealed_bytes())
    assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], "no-rows"),
        ([[1.0]], "wrong-feature-count"),
        ([[1.0, float("nan")]], "not-finite"),
        ([[1.0, 1e39]], "not-finite"),
        ([[1.0, "2"]], "not-a-number"),
        ([[0.0, 0.0]] * (MAX_ROWS + 1), "too-many-rows"),
        (None, "no-rows"),
    ],
)
def test_the_client_seals_no_rows_that_the_model_cannot_take(rows, code):
    with pytest.raises(FormatError) as caught:
        sealed_bytes(rows)
    assert caught.value.code == code


def test_the_client_seals_to_no_key_that_is_not_one():
    with pytest.raises(FormatError):
        seal_input(
            ROWS,
            columns=2,
            enclave_key=bytes(32),  # a point of low order: the secret would be known
            nonce=NONCE,
            model_sha256=MODEL,
            reply_key=CLIENT.public_key(),
        )


SECRET = 1234.5678


@pytest.mark.parametrize(
    "inside",
    [
        b"not json",
        canonical_json({"rows": [[SECRET, 1.0]]}),
        canonical_json({"reply_key": b64url(bytes(31)), "rows": [[SECRET, 1.0]]}),
        canonical_json({"reply_key": b64url(bytes(32)), "rows": [[SECRET]]}),
        canonical_json({"reply_key": b64url(bytes(32)), "rows": [[SECRET, 1e39]]}),
        canonical_json({"reply_key": b64url(bytes(32)), "rows": [], "more": 1}),
        b'{"reply_key":"AAAA","rows":[[1234.5678,NaN]]}',
    ],
)
def test_the_enclave_says_nothing_about_a_malformed_inside(inside):
    info = seal._input_info(MODEL, NONCE)
    ciphertext = seal.encrypt(inside, raw_public(ENCLAVE), info)
    raw = pack([raw_public(ENCLAVE), NONCE, ciphertext])
    message = assert_refused(raw, "malformed-input")
    assert "1234" not in message


def answer_for(raw, *, outputs=OUTPUTS, model=MODEL):
    return seal_answer(
        outputs,
        reply_key=raw_public(CLIENT),
        model_sha256=model,
        sealed=parse_sealed(raw),
    )


def open_with(answer, raw, *, key=CLIENT, nonce=NONCE, model=MODEL):
    return open_answer(
        answer,
        key,
        nonce=nonce,
        model_sha256=model,
        input_sha256=parse_sealed(raw).sha256,
    )


def test_the_client_opens_its_answer():
    raw = sealed_bytes()
    assert open_with(answer_for(raw), raw) == OUTPUTS


def test_an_answer_opens_only_with_what_it_answers():
    raw, other = sealed_bytes(), sealed_bytes()
    answer = answer_for(raw)
    wrong = [
        {"raw": other},
        {"raw": raw, "key": X25519PrivateKey.generate()},
        {"raw": raw, "nonce": bytes(32)},
        {"raw": raw, "model": "cd" * 32},
    ]
    for options in wrong:
        with pytest.raises(VerificationError) as caught:
            open_with(answer, **options)
        assert caught.value.code == "unsealable"


def test_every_flipped_byte_of_an_answer_is_refused():
    raw = sealed_bytes()
    answer = answer_for(raw)
    for at in range(len(answer)):
        changed = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        with pytest.raises(VerificationError):
            open_with(changed, raw)


@pytest.mark.parametrize("outputs", [[], [[]], [[1.0], [1.0, 2.0]], "text"])
def test_an_answer_without_a_table_of_outputs_is_refused(outputs):
    raw = sealed_bytes()
    with pytest.raises(FormatError):
        open_with(answer_for(raw, outputs=outputs), raw)
