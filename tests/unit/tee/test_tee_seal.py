"""What is sealed opens for one enclave, one model, one nonce, one job."""

from functools import partial

import pytest

from privacy.encoding import b64url, canonical_json, pack, unpack
from privacy.errors import FormatError, VerificationError
from privacy.runs import MAX_ROWS
from privacy.tee import seal
from privacy.tee.kem import CLASSIC, HYBRID, KemKey, KemPublicKey
from privacy.tee.seal import (
    Purpose,
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

JOB = bytes(range(32, 64))
PURPOSE = Purpose(MODEL, NONCE, JOB)
KEMS = (HYBRID, CLASSIC)
KEYS = {kem: KemKey.generate(kem) for kem in KEMS}
ENCLAVE = KEYS[HYBRID]
BOTH = list(KEYS.values())
REPLY_KEY = bytes(range(64, 96))


def sealed_bytes(rows=ROWS, *, purpose=PURPOSE, kem=HYBRID, key=None):
    key = key or KEYS[kem].public
    return seal_input(rows, columns=2, key=key, purpose=purpose, reply_key=REPLY_KEY)


def opened(raw, *, keys=BOTH, model=MODEL, mode="tee"):
    sealed = parse_sealed(raw)
    return open_input(sealed, keys, sealed.purpose(model, mode=mode), columns=2)


def assert_refused(raw, code, **options):
    with pytest.raises(FormatError) as caught:
        opened(raw, **options)
    assert caught.value.code == code
    return caught.value.message


@pytest.mark.parametrize("kem", KEMS)
def test_the_enclave_opens_what_was_sealed_to_it_again_and_again(kem):
    raw = sealed_bytes(kem=kem)
    for _ in range(2):
        assert opened(raw) == (ROWS, REPLY_KEY, b"")


def test_the_largest_honest_input_opens_and_a_larger_one_is_not_parsed():
    longest = -0.0000012345678901234567  # no canonical number is longer
    rows = [[longest, longest]] * MAX_ROWS
    assert opened(sealed_bytes(rows))[0] == rows
    *head, ciphertext = unpack(sealed_bytes(rows), what="sealed input")
    padded = pack([*head, ciphertext + bytes(4000)])
    assert "more bytes than" in assert_refused(padded, "malformed-input")


def test_sealing_twice_gives_different_bytes():
    assert sealed_bytes() != sealed_bytes()


def test_sealed_bytes_do_not_hold_the_rows():
    assert b"rows" not in sealed_bytes()


def test_an_input_for_another_enclave_says_that_one_is_gone():
    raw = sealed_bytes(key=KemKey.generate(HYBRID).public)
    assert "ask for new evidence" in assert_refused(raw, "enclave-gone")


def test_an_input_for_another_purpose_or_changed_gives_one_message():
    raw = sealed_bytes()
    key, nonce, job, ciphertext = unpack(raw, what="sealed")
    flipped = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    messages = {
        assert_refused(raw, "unsealable", model="cd" * 32),
        assert_refused(raw, "unsealable", mode="tee+zkml"),
        assert_refused(pack([key, bytes(32), job, ciphertext]), "unsealable"),
        assert_refused(pack([key, nonce, bytes(32), ciphertext]), "unsealable"),
        assert_refused(pack([BOTH[1].public.id, nonce, job, ciphertext]), "unsealable"),
        assert_refused(pack([key, nonce, job, ciphertext[:-1]]), "unsealable"),
        assert_refused(pack([key, nonce, job, flipped]), "unsealable"),
        assert_refused(pack([key, nonce, job, b""]), "unsealable"),
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
    [
        b"",
        b"junk",
        pack([b"one"]),
        pack([bytes(32), NONCE, b"x"]),
        pack([bytes(31), NONCE, JOB, b"x"]),
        pack([bytes(32), bytes(31), JOB, b"x"]),
        pack([bytes(32), NONCE, bytes(31), b"x"]),
        pack([bytes(32), NONCE, JOB, b"x", b""]),
        pack([b""] * 5),
    ],
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


@pytest.mark.parametrize(("kem", "size"), [(CLASSIC, 32), (HYBRID, 1216)])
def test_the_client_seals_to_no_key_that_is_not_one(kem, size):
    low_order = KemPublicKey(kem, bytes(size))  # the secret would be known
    with pytest.raises(FormatError):
        sealed_bytes(key=low_order)


SECRET = 1234.5678


def inside(reply_key, rows, **more):
    return canonical_json({"reply_key": reply_key, "rows": rows, "salt": "", **more})


def test_the_client_seals_no_reply_key_that_is_not_32_bytes():
    with pytest.raises(FormatError, match="31 bytes, expected 32"):
        seal_input(
            ROWS, columns=2, key=ENCLAVE.public, purpose=PURPOSE, reply_key=bytes(31)
        )


@pytest.mark.parametrize(
    "plain",
    [
        b"not json",
        canonical_json({"rows": [[SECRET, 1.0]]}),
        canonical_json({"reply_key": b64url(bytes(31)), "rows": [[SECRET, 1.0]]}),
        canonical_json({"reply_key": b64url(bytes(32)), "rows": [[SECRET, 1.0]]}),
        inside(b64url(bytes(31)), [[SECRET, 1.0]]),
        inside(b64url(bytes(1216)), [[SECRET, 1.0]]),
        inside(b64url(bytes(32)), [[SECRET]]),
        inside(b64url(bytes(32)), [[SECRET, 1e39]]),
        inside(b64url(bytes(32)), [], more=1),
        b'{"reply_key":"AAAA","rows":[[1234.5678,NaN]]}',
    ],
)
def test_the_enclave_says_nothing_about_a_malformed_inside(plain):
    key = ENCLAVE.public
    info = PURPOSE.info("privacy-compute/tee/input/3", kem=HYBRID)
    ciphertext = key.encrypt(plain, info)
    raw = seal.to_bytes(key, PURPOSE, ciphertext)
    message = assert_refused(raw, "malformed-input")
    assert "1234" not in message


def answer_for(raw, *, outputs=OUTPUTS):
    return seal_answer(
        outputs,
        reply_key=REPLY_KEY,
        purpose=PURPOSE,
        input_sha256=parse_sealed(raw).sha256,
    )


def open_with(answer, raw, *, key=REPLY_KEY, purpose=PURPOSE):
    digest = parse_sealed(raw).sha256
    return open_answer(answer, key, purpose=purpose, input_sha256=digest)


def test_the_client_opens_its_answer():
    raw = sealed_bytes()
    assert open_with(answer_for(raw), raw) == (OUTPUTS, b"")


def test_the_same_answer_given_twice_is_sealed_with_other_keys():
    raw = sealed_bytes()
    first, second = answer_for(raw), answer_for(raw)
    assert first[:32] != second[:32]
    with pytest.raises(VerificationError):
        open_with(first[:32] + second[32:], raw)


def test_a_proving_enclave_is_sent_salt_and_no_other_is():
    proven = Purpose(MODEL, NONCE, JOB, "tee+zkml")
    sealed = partial(
        seal_input, ROWS, columns=2, key=ENCLAVE.public, reply_key=REPLY_KEY
    )
    raw = sealed(purpose=proven, salt=b"s" * 32)
    assert opened(raw, mode="tee+zkml")[2] == b"s" * 32
    assert_refused(raw, "unsealable")  # for mode tee
    for purpose, salt in ((proven, b""), (proven, b"s" * 31), (PURPOSE, b"s" * 32)):
        with pytest.raises(FormatError) as caught:
            sealed(purpose=purpose, salt=salt)
        assert caught.value.code == "bad-salt"


def test_an_answer_carries_its_proofs():
    raw = sealed_bytes()
    answer = seal_answer(
        OUTPUTS,
        reply_key=REPLY_KEY,
        purpose=PURPOSE,
        input_sha256=parse_sealed(raw).sha256,
        proofs=b'{"proofs":[]}',
    )
    assert open_with(answer, raw) == (OUTPUTS, b'{"proofs":[]}')


def test_an_answer_opens_only_with_what_it_answers():
    raw, other = sealed_bytes(), sealed_bytes()
    answer = answer_for(raw)
    wrong = [
        {"raw": other},
        {"raw": raw, "key": bytes(32)},
        {"raw": raw, "purpose": Purpose("cd" * 32, NONCE, JOB)},
        {"raw": raw, "purpose": Purpose(MODEL, bytes(32), JOB)},
        {"raw": raw, "purpose": Purpose(MODEL, NONCE, bytes(32))},
        {"raw": raw, "purpose": Purpose(MODEL, NONCE, JOB, "tee+zkml")},
    ]
    for options in wrong:
        with pytest.raises(VerificationError) as caught:
            open_with(answer, **options)
        assert caught.value.code == "unsealable"


def test_every_flipped_or_missing_byte_of_an_answer_is_refused():
    raw = sealed_bytes()
    answer = answer_for(raw)
    cut = [answer[:size] for size in range(len(answer))]
    flipped = [
        answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        for at in range(len(answer))
    ]
    for changed in (*cut, *flipped, answer + b"\0"):
        with pytest.raises(VerificationError):
            open_with(changed, raw)


@pytest.mark.parametrize("outputs", [[], [[]], [[1.0], [1.0, 2.0]], "text"])
def test_an_answer_without_a_table_of_outputs_is_refused(outputs):
    raw = sealed_bytes()
    with pytest.raises(FormatError):
        open_with(answer_for(raw, outputs=outputs), raw)
