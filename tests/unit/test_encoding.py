import contextlib
import json
import math
import sys

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import (
    b64url,
    b64url_decode,
    canonical_json,
    check_sha256,
    finite_rows,
    pack,
    parse_canonical,
    parse_json,
    parse_object,
    sha256_file,
    sha256_hex,
    unpack,
)
from privacy.errors import FormatError


def test_canonical_json_sorts_and_has_one_spelling():
    assert canonical_json({"b": 1.0, "a": "é"}) == '{"a":"é","b":1}'.encode()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 53) + 1, (1 << 53) - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
        ),
    )
)
def test_canonical_json_is_that_of_the_reference_implementation(value):
    assert canonical_json(value) == rfc8785.dumps(value)


def test_canonical_json_escapes_every_ascii_character_like_the_reference():
    everything = {chr(i) * 2: chr(127 - i) for i in range(128)}
    assert canonical_json(everything) == rfc8785.dumps(everything)


def test_canonical_json_refuses_an_integer_that_others_would_round():
    assert canonical_json([(1 << 53) - 1, -(1 << 53) + 1])
    for integer in (1 << 53, -(1 << 53)):
        with pytest.raises(FormatError):
            canonical_json([integer])


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, {1, 2}, {"a": object()}, ["\ud800"], {"\ud800": 1}],
)
def test_canonical_json_refuses_what_json_cannot_say(value):
    with pytest.raises(FormatError):
        canonical_json(value)


def test_a_refusal_of_canonical_json_does_not_quote_the_value():
    with pytest.raises(FormatError) as refusal:
        canonical_json({"age": 4711 * 10**20})
    assert "4711" not in refusal.value.message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b'{"a":1,"a":2}',
        b"\xff",
        b"[" * 100_000,
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        "[1]".encode("utf-16"),
    ],
)
def test_parse_json_refuses_what_is_not_strict(raw):
    with pytest.raises(FormatError):
        parse_json(raw, what="it")


def test_nesting_is_bounded_whatever_a_library_makes_the_recursion_limit():
    """Raised so far (py_ecc does), this input crashed the whole process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(FormatError, match="deep"):
            parse_json(b"[" * 100_000 + b"]" * 100_000, what="it")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    "value", [["[" * 300, '\\"' + "]" * 300], [[1]] * 1000, [{"a": [[]]}] * 200]
)
def test_brackets_in_strings_and_side_by_side_are_no_depth(value):
    assert parse_json(json.dumps(value).encode(), what="it") == value


def test_parse_json_refuses_more_bytes_than_its_limit():
    with pytest.raises(FormatError, match="at most 3"):
        parse_json(b"[1,2]", what="it", limit=3)


def test_parse_object_refuses_a_list():
    with pytest.raises(FormatError, match="expected an object"):
        parse_object(b"[]", what="it")


@pytest.mark.parametrize(
    "raw", [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":1} ']
)
def test_parse_canonical_refuses_other_spellings(raw):
    with pytest.raises(FormatError):
        parse_canonical(raw, what="it")


def test_parse_canonical_allows_a_final_newline():
    assert parse_canonical(b'{"a":1}\n', what="it") == {"a": 1}


@given(st.binary(max_size=64))
def test_b64url_round_trips(raw):
    assert b64url_decode(b64url(raw), what="it") == raw


@pytest.mark.parametrize("text", ["A", "AB", "AA==", "A A", "a+b/", "é"])
def test_b64url_refuses_second_spellings(text):
    with pytest.raises(FormatError):
        b64url_decode(text, what="it")


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_pack_round_trips(frames):
    assert unpack(pack(frames), what="it") == frames


@given(st.binary(max_size=80))
def test_unpack_gives_frames_or_a_format_error(raw):
    with contextlib.suppress(FormatError):
        assert pack(unpack(raw, what="it")) == raw


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.data())
def test_unpack_refuses_every_truncation_and_trailing_byte(frames, data):
    raw = pack(frames)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for bad in (raw[:cut], raw + b"\0"):
        with pytest.raises(FormatError):
            unpack(bad, what="it")


def test_unpack_refuses_more_frames_than_allowed():
    with pytest.raises(FormatError, match="3 frames"):
        unpack(pack([b""] * 3), what="it", max_frames=2)


def test_finite_rows_returns_floats():
    assert finite_rows([[1, 2.5]], columns=2, max_rows=1) == [[1.0, 2.5]]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], "no-rows"),
        ("rows", "no-rows"),
        ([[1]], "wrong-feature-count"),
        ([[1, 2, 3]], "wrong-feature-count"),
        ([7], "wrong-feature-count"),
        ([[1, "2"]], "not-a-number"),
        ([[1, True]], "not-a-number"),
        ([[1, None]], "not-a-number"),
        ([[1, math.nan]], "not-finite"),
        ([[1, -math.inf]], "not-finite"),
        ([[1, 10**400]], "not-finite"),
        ([[1, 2]] * 4, "too-many-rows"),
    ],
)
def test_finite_rows_refuses(rows, code):
    with pytest.raises(FormatError) as caught:
        finite_rows(rows, columns=2, max_rows=3)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["", "A" * 64, "g" * 64, "0" * 63, "0" * 64 + "\n"])
def test_check_sha256_refuses(text):
    with pytest.raises(FormatError):
        check_sha256(text)


def test_digests_agree(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert (
        sha256_file(tmp_path / "f")
        == sha256_hex(b"abc")
        == check_sha256(
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )
    )
