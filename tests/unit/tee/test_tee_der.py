"""The DER reader takes one encoding, and refuses the rest."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.tee import der


def test_only_returns_the_content_of_an_element():
    assert der.only(bytes.fromhex("020173"), der.INTEGER, what="x") == b"\x73"
    long = b"\x04\x81\x80" + bytes(128)
    assert der.only(long, der.OCTETS, what="x") == bytes(128)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "02",
        "0201",
        "02017300",
        "040173",
        "02810173",
        "0482000100",
        "0280",
        "048400",
    ],
)
def test_only_refuses_anything_else(raw):
    with pytest.raises(FormatError):
        der.only(bytes.fromhex(raw), der.INTEGER, what="x")


@pytest.mark.parametrize(("raw", "value"), [("00", 0), ("7f", 127), ("00ff", 255)])
def test_integer_reads_what_der_writes(raw, value):
    assert der.integer(bytes.fromhex(raw), what="x") == value


@pytest.mark.parametrize("raw", ["", "ff", "0001", "00" * 9])
def test_integer_refuses_negative_padded_and_long_ones(raw):
    with pytest.raises(FormatError):
        der.integer(bytes.fromhex(raw), what="x")


def test_oid_values_are_found_by_oid():
    raw = bytes.fromhex("3006060101020105" + "3006060102020106")
    found = der.oid_values(raw, what="x")
    assert found == {b"\1": (der.INTEGER, b"\5"), b"\2": (der.INTEGER, b"\6")}


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("3006060101020105" * 2, id="twice"),
        pytest.param("020100", id="no sequence"),
        pytest.param("3003060101", id="no value"),
        pytest.param("3006020101020105", id="no OID"),
    ],
)
def test_oid_values_refuses(raw):
    with pytest.raises(FormatError):
        der.oid_values(bytes.fromhex(raw), what="x")


@given(st.binary(max_size=100))
def test_any_bytes_give_elements_or_a_format_error(raw):
    with contextlib.suppress(FormatError):
        assert all(
            isinstance(content, bytes) for _, content in der.elements(raw, what="")
        )
