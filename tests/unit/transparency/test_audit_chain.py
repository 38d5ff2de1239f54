from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import canonical_json, sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.transparency.audit_chain import (
    AuditEntry,
    ChainEnd,
    follow,
    parse_entry,
)

ENTRY = AuditEntry(
    seq=1,
    at="2026-11-21T15:00:00.000Z",
    gateway="local",
    actor="key_1",
    tenant="default",
    action="job-submitted",
    target="job_1",
    outcome="done",
    request_id="ab12",
    details={"input_sha256": "ab" * 32},
    previous_sha256="0" * 64,
)


def chain(count, start=None):
    end, lines = start or ChainEnd(), []
    for _ in range(count):
        entry = replace(ENTRY, seq=end.size + 1, previous_sha256=end.sha256)
        lines.append(entry.encode())
        end = ChainEnd(entry.seq, sha256_hex(lines[-1]))
    return lines, end


LINES, END = chain(5)


def test_a_whole_chain_is_followed_to_its_end():
    assert follow(LINES) == END
    assert follow(LINES, heads={5: END.sha256, 3: sha256_hex(LINES[2])}) == END
    assert follow([]) == ChainEnd()


def test_a_chain_goes_on_after_an_archived_part():
    end = follow(LINES[:2])
    assert follow(LINES[2:], start=end, heads={1: "old", 5: END.sha256}) == END


@given(st.integers(0, 4), st.data())
def test_any_flipped_bit_is_found_with_the_number_of_the_entry(at, data):
    bit = data.draw(st.integers(0, len(LINES[at]) * 8 - 1))
    changed = bytearray(LINES[at])
    changed[bit // 8] ^= 1 << bit % 8
    lines = [*LINES[:at], bytes(changed), *LINES[at + 1 :]]
    with pytest.raises(VerificationError, match=f"entry ({at + 1}|{at + 2})\\b"):
        follow(lines, heads={5: END.sha256})


@pytest.mark.parametrize(
    ("lines", "at"),
    [
        ([*LINES[:2], *LINES[3:]], 3),
        ([*LINES[:2], LINES[1], *LINES[2:]], 3),
        ([LINES[0], LINES[2], LINES[1]], 2),
        (LINES[1:], 1),
    ],
)
def test_a_missing_doubled_or_moved_entry_is_named(lines, at):
    with pytest.raises(VerificationError, match=f"broken at entry {at}:") as caught:
        follow(lines)
    assert caught.value.code == "audit-broken"


def test_a_chain_whose_end_was_cut_off_is_found_by_a_signed_head():
    assert follow(LINES[:3]).size == 3
    with pytest.raises(VerificationError, match="ends with entry 3") as caught:
        follow(LINES[:3], heads={5: END.sha256})
    assert caught.value.code == "audit-truncated"


def test_a_chain_that_was_written_anew_is_found_by_a_signed_head():
    first = replace(ENTRY, actor="somebody-else").encode()
    rest, end = chain(4, ChainEnd(1, sha256_hex(first)))
    assert follow([first, *rest]) == end
    with pytest.raises(VerificationError, match="another hash"):
        follow([first, *rest], heads={5: END.sha256})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        LINES[0] + b"\n",
        canonical_json({**asdict(ENTRY), "seq": "1"}),
        canonical_json({**asdict(ENTRY), "more": ""}),
        canonical_json({k: v for k, v in asdict(ENTRY).items() if k != "at"}),
    ],
)
def test_a_line_that_is_no_entry_is_refused(line):
    with pytest.raises(FormatError):
        parse_entry(line)
