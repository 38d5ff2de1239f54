"""The host's certificates behind an SEV-SNP report."""

import contextlib
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.snp_table import (
    ARK_ID,
    ASK_ID,
    MAX_BYTES,
    VCEK_ID,
    certificate_table,
    certificates_of,
    parse_certificate_table,
)
from privacy.tee.trust import simulated_trust_store

OTHER_ID = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")
TABLE = {VCEK_ID: b"leaf", ASK_ID: b"issuer", OTHER_ID: b"a list"}


def entry(name, offset, length):
    return struct.pack("<16sII", name.bytes, offset, length)


def test_a_table_gives_back_what_it_was_made_of():
    raw = certificate_table(TABLE)
    assert parse_certificate_table(raw + bytes(4096)) == TABLE
    assert certificates_of(raw) == (b"leaf", b"issuer")


def test_entries_may_stand_in_any_order_with_zeros_between():
    head = entry(ARK_ID, 80, 2) + entry(VCEK_ID, 74, 2) + bytes(24)
    raw = head + b"\0\0" + b"ve" + bytes(4) + b"ar"
    assert parse_certificate_table(raw) == {ARK_ID: b"ar", VCEK_ID: b"ve"}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", "truncated", id="nothing"),
        pytest.param(entry(VCEK_ID, 24, 4), "truncated", id="without an end"),
        pytest.param(certificate_table(TABLE)[:-1], "unsupported-table", id="cut"),
        pytest.param(certificate_table(TABLE) + b"\1", "not-canonical", id="more"),
        pytest.param(
            entry(VCEK_ID, 52, 2) + bytes(24) + b"\1\0\0\0ve",
            "not-canonical",
            id="bytes before an entry",
        ),
        pytest.param(
            entry(VCEK_ID, 47, 4) + bytes(24) + bytes(3),
            "unsupported-table",
            id="within the head",
        ),
        pytest.param(
            entry(VCEK_ID, 48, 0) + bytes(24), "unsupported-table", id="empty entry"
        ),
        pytest.param(
            entry(VCEK_ID, 72, 4) + entry(ASK_ID, 74, 4) + bytes(24) + b"123456",
            "unsupported-table",
            id="overlapping entries",
        ),
        pytest.param(
            entry(VCEK_ID, 72, 4) + entry(VCEK_ID, 76, 4) + bytes(24) + b"12345678",
            "unsupported-table",
            id="an identifier twice",
        ),
        pytest.param(bytes(MAX_BYTES + 1), "too-large", id="too many bytes"),
    ],
)
def test_malformed_tables_are_refused(raw, code):
    with pytest.raises(FormatError) as caught:
        parse_certificate_table(raw)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(raw):
    with contextlib.suppress(FormatError):
        parse_certificate_table(raw)


@pytest.mark.parametrize("vlek", [False, True])
def test_a_report_with_its_table_needs_no_certificate_beside(vlek, now):
    amd = SimulatedAmd(shipped=True, vlek=vlek)
    verdict = attest(
        amd.report(bytes(64)) + amd.table,
        trust_store=simulated_trust_store(),
        collateral=Collateral(crls=amd.collateral(now).crls),
        now=now,
        checks=Checklist(),
        policy=Relaxations(),
    )
    assert verdict.claims[0].vendor == "amd"
    assert verdict.claims[0].simulated
