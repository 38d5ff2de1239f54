"""The CBOR decoder takes one encoding of few things, and refuses the rest."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.tee.cbor import decode, encode_head


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("00", 0),
        ("1818", 24),
        ("190100", 256),
        ("1a00010000", 65536),
        ("1b0000000100000000", 1 << 32),
        ("3822", -35),
        ("43010203", b"\1\2\3"),
        ("626869", "hi"),
        ("82f4f6", [False, None]),
        ("a1013822", {1: -35}),
        ("d281f5", [True]),
    ],
)
def test_decode_reads_what_the_specification_writes(raw, value):
    assert decode(bytes.fromhex(raw), what="item") == value


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("", id="nothing"),
        pytest.param("0000", id="trailing byte"),
        pytest.param("1817", id="number not in its shortest form"),
        pytest.param("190018", id="the same, two bytes"),
        pytest.param("1c", id="reserved length"),
        pytest.param("5f4100ff", id="indefinite bytes"),
        pytest.param("9fff", id="indefinite array"),
        pytest.param("bfff", id="indefinite map"),
        pytest.param("a201000100", id="repeated key"),
        pytest.param("a14000", id="bytes as key"),
        pytest.param("a1f500", id="true as key"),
        pytest.param("61ff", id="text that is not UTF-8"),
        pytest.param("c100", id="another tag"),
        pytest.param("81d200", id="tag inside"),
        pytest.param("f7", id="undefined"),
        pytest.param("f90000", id="float"),
        pytest.param("5b7fffffffffffffff", id="bytes of a huge length"),
        pytest.param("9bffffffffffffffff", id="array of a huge length"),
        pytest.param("bbffffffffffffffff", id="map of a huge length"),
        pytest.param("81" * 60000 + "00", id="deep"),
    ],
)
def test_decode_refuses(raw):
    with pytest.raises(FormatError):
        decode(bytes.fromhex(raw), what="item")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_format_error(raw):
    with contextlib.suppress(FormatError):
        decode(raw, what="item")


@given(st.integers(0, (1 << 64) - 1))
def test_heads_come_back(number):
    assert decode(encode_head(0, number), what="item") == number
