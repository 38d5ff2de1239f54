"""Files under a passphrase: what opens them, what does not, and what they say."""

import json
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.client import sealed
from privacy.client.sealed import MAGIC, read_header, seal, unseal
from privacy.errors import AuthError, FormatError, PrivacyError

SECRET = bytes(range(256)) * 4
PHRASE = "correct horse battery"
ABOUT = {"kind": "fhe-keys", "key_id": "0" * 16}


@pytest.fixture(scope="module")
def protected():
    return seal(SECRET, about=ABOUT, passphrase=PHRASE)


@pytest.fixture(scope="module")
def open_file():
    return seal(SECRET, about=ABOUT, passphrase=None)


def test_a_sealed_file_opens_with_its_passphrase_only(protected):
    assert unseal(protected, passphrase=PHRASE, what="f") == SECRET
    with pytest.raises(AuthError) as caught:
        unseal(protected, passphrase=PHRASE + "x", what="f")
    assert caught.value.code == "wrong-passphrase"
    assert PHRASE not in caught.value.message
    with pytest.raises(AuthError) as caught:
        unseal(protected, passphrase=None, what="f")
    assert caught.value.code == "passphrase-missing"


def test_no_part_of_the_secret_is_in_a_protected_file(protected, open_file):
    for raw in (protected, open_file):
        for at in range(0, len(SECRET) - 16, 8):
            assert SECRET[at : at + 16] not in raw
    assert PHRASE.encode() not in protected


def test_two_files_of_one_secret_have_nothing_in_common(protected):
    other = seal(SECRET, about=ABOUT, passphrase=PHRASE)
    size = read_header(protected, what="f").size
    assert other[size:] != protected[size:]
    mine, theirs = (read_header(raw, what="f").lock for raw in (protected, other))
    for name in ("salt", "nonce", "key"):
        assert mine[name] != theirs[name]


def test_a_file_without_a_passphrase_opens_for_everyone_and_says_so(open_file):
    assert unseal(open_file, passphrase=None, what="f") == SECRET
    assert not read_header(open_file, what="f").is_protected


def test_what_a_file_is_about_is_read_without_its_passphrase(protected):
    header = read_header(protected[:600], what="f")
    assert header.about == ABOUT
    assert header.is_protected


@pytest.mark.parametrize("kind", ["protected", "open_file"])
def test_no_byte_may_change(kind, request):
    good = request.getfixturevalue(kind)
    size = read_header(good, what="f").size
    for at in [*range(size), size, len(good) // 2, len(good) - 1]:
        changed = bytearray(good)
        changed[at] ^= 1
        with pytest.raises(PrivacyError) as caught:
            unseal(bytes(changed), passphrase=PHRASE, what="f")
        assert isinstance(caught.value, FormatError | AuthError)


@pytest.mark.parametrize("cut", [0, 4, 12, 100, -1])
def test_a_truncated_or_longer_file_is_refused(protected, cut):
    for raw in (protected[:cut], protected + b"\0"):
        with pytest.raises(FormatError) as caught:
            unseal(raw, passphrase=PHRASE, what="f")
        assert caught.value.code == "keys-damaged"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_typed_error(raw):
    for text in (raw, MAGIC + struct.pack("<I", len(raw)) + raw):
        with pytest.raises(FormatError):
            read_header(text, what="f")


def with_lock(raw, **changes):
    """Return a file whose header names another lock."""
    value = json.loads(read_header(raw, what="f").raw)
    value["lock"] = {**value["lock"], **changes}
    header = sealed.canonical_json(value)
    return MAGIC + struct.pack("<I", len(header)) + header


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 1 << 30},
        {"iterations": 10**9},
        {"iterations": 0},
        {"iterations": True},
        {"lanes": 17},
        {"memory_kib": 1},
        {"salt": "AA"},
        {"kdf": "md5"},
        {"kind": "none"},
        {"extra": 1},
    ],
)
def test_a_lock_that_asks_for_the_absurd_is_refused_unread(protected, change):
    with pytest.raises(FormatError):
        read_header(with_lock(protected, **change), what="f")


@pytest.mark.parametrize("phrase", ["", "seven77"])
def test_a_short_passphrase_is_refused(phrase):
    with pytest.raises(FormatError) as caught:
        seal(SECRET, about=ABOUT, passphrase=phrase)
    assert caught.value.code == "passphrase-too-short"


def test_one_way_to_write_a_letter_is_as_good_as_another():
    composed, decomposed = "caf\u00e9 latte", "cafe\u0301 latte"
    raw = seal(SECRET, about=ABOUT, passphrase=composed)
    assert unseal(raw, passphrase=decomposed, what="f") == SECRET


def test_the_slow_step_is_taken_once_for_files_of_one_salt():
    phrase, salt = f"{PHRASE} {time.time()}", b"s" * 16
    before = sealed._derived.cache_info().misses
    files = [seal(SECRET, about=ABOUT, passphrase=phrase, salt=salt) for _ in range(5)]
    assert {unseal(f, passphrase=phrase, what="f") for f in files} == {SECRET}
    assert sealed._derived.cache_info().misses == before + 1
