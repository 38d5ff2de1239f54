"""Parsing believes nothing and accepts one encoding."""

import contextlib
import struct
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.tee.parse import (
    MAX_QUOTE_BYTES,
    Measurements,
    TdReport,
    TdReport15,
    TdxQuote,
    parse_tdx_quote,
)

SIGNATURE_LENGTH_AT = 48 + 584


def test_parse_takes_a_quote_apart(raw_quote, measurements, report_data):
    quote = parse_tdx_quote(raw_quote)
    assert quote.report.measurements == measurements
    assert quote.report.report_data == report_data
    assert quote.signed_bytes == raw_quote[: 48 + 584]
    assert len(quote.certificates) == 3
    assert quote.to_bytes() == raw_quote


def test_parse_allows_zeros_behind_a_quote_and_drops_them(raw_quote):
    assert parse_tdx_quote(raw_quote + bytes(70)) == parse_tdx_quote(raw_quote)


@pytest.mark.parametrize("tail", [b"\x01", bytes(69) + b"\x01", b"\n"])
def test_parse_refuses_anything_else_behind_a_quote(raw_quote, tail):
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(raw_quote + tail)
    assert caught.value.code == "not-canonical"


def test_parse_refuses_every_truncation(raw_quote):
    for size in range(len(raw_quote)):
        with pytest.raises(FormatError):
            parse_tdx_quote(raw_quote[:size])


def test_parse_refuses_more_bytes_than_any_quote_has(raw_quote):
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(raw_quote + bytes(MAX_QUOTE_BYTES))
    assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(0, b"\x05", id="version"),
        pytest.param(2, b"\x03", id="key type"),
        pytest.param(4, b"\x00", id="TEE type"),
        pytest.param(12, b"\x00", id="QE vendor"),
        pytest.param(SIGNATURE_LENGTH_AT + 4 + 128, b"\x05", id="outer certification"),
    ],
)
def test_parse_refuses_other_kinds_of_quote(raw_quote, offset, value):
    changed = raw_quote[:offset] + value + raw_quote[offset + 1 :]
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(changed)
    assert caught.value.code == "unsupported-quote"


@pytest.mark.parametrize("end", [b"", b"\n", b"\0", b"\n\0"])
def test_parse_keeps_the_endings_real_chains_have(raw_quote, end):
    changed = replace(parse_tdx_quote(raw_quote), pem_end=end)
    assert parse_tdx_quote(changed.to_bytes()) == changed


@pytest.mark.parametrize("end", [b"\n\n", b" ", b"\r\n", b"\0\0", b"\n\0x"])
def test_parse_refuses_other_endings(raw_quote, end):
    changed = replace(parse_tdx_quote(raw_quote), pem_end=end)
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(changed.to_bytes())
    assert caught.value.code == "not-canonical"


@pytest.mark.parametrize("count", [0, 2, 4])
def test_parse_refuses_a_chain_of_another_length(raw_quote, count):
    quote = parse_tdx_quote(raw_quote)
    chain = (quote.certificates * 2)[:count]
    with pytest.raises(FormatError):
        parse_tdx_quote(replace(quote, certificates=chain).to_bytes())


def test_parse_refuses_certificates_in_another_line_width(raw_quote):
    def rewrite(pem):
        lines = pem.split(b"\n")
        return b"\n".join([lines[0], lines[1] + lines[2], *lines[3:]])

    assert_refused_with_chain(raw_quote, rewrite)


def test_parse_refuses_text_before_the_chain(raw_quote):
    assert_refused_with_chain(raw_quote, lambda pem: b"# chain\n" + pem)


def assert_refused_with_chain(raw, rewrite):
    start = raw.index(b"-----BEGIN")
    pem = rewrite(raw[start:])
    size = struct.pack("<I", len(pem))
    grown = len(pem) - len(raw[start:])
    head = bytearray(raw[: start - 4] + size)
    for at in (SIGNATURE_LENGTH_AT, SIGNATURE_LENGTH_AT + 4 + 128 + 2):
        (old,) = struct.unpack_from("<I", head, at)
        struct.pack_into("<I", head, at, old + grown)
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(bytes(head) + pem)
    assert caught.value.code == "not-canonical"


@given(st.binary(max_size=6000))
def test_any_bytes_give_a_quote_or_a_format_error(raw):
    with contextlib.suppress(FormatError):
        assert isinstance(parse_tdx_quote(raw), TdxQuote)


@given(st.data())
def test_any_splice_of_a_quote_gives_a_quote_or_a_format_error(raw_quote, data):
    at = data.draw(st.integers(0, len(raw_quote)))
    skip = data.draw(st.integers(0, 64))
    middle = data.draw(st.binary(max_size=64))
    changed = raw_quote[:at] + middle + raw_quote[at + skip :]
    try:
        parsed = parse_tdx_quote(changed)
    except FormatError:
        return
    assert changed.startswith(parsed.to_bytes())
    assert not any(changed[len(parsed.to_bytes()) :])


def test_measurements_survive_the_manifest(measurements):
    assert Measurements.from_dict(measurements.as_dict()) == measurements


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("rtmr3"),
        lambda m: m.update(rtmr4="00" * 48),
        lambda m: m.update(mrtd="00" * 47),
        lambda m: m.update(mrtd="AB" * 48),
        lambda m: m.update(mrtd=None),
    ],
)
def test_measurements_refuse_what_is_not_five_registers(measurements, change):
    value = measurements.as_dict()
    change(value)
    with pytest.raises(FormatError):
        Measurements.from_dict(value)


def test_measurements_refuse_no_object():
    with pytest.raises(FormatError):
        Measurements.from_dict(None)


def test_who_may_migrate_a_guest_is_for_a_policy_where_the_report_says_it():
    zeros = {field.name: b"" for field in fields(TdReport)}
    zeros |= {"td_attributes": bytes([0, 0, 0, 0x20, 0, 0, 0, 0])}
    assert TdReport(**zeros).is_open_to_host
    later = {"tee_tcb_svn2": bytes(16), "mr_servicetd": bytes(48)}
    assert not TdReport15(**zeros, **later).is_open_to_host
    zeros["td_attributes"] = b"\1" + bytes(7)
    assert TdReport15(**zeros, **later).is_open_to_host
