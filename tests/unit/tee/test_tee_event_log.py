"""Event logs: what explains the registers is believed, anything else refused."""

import hashlib
import json
import random
import struct

import pytest
from event_logs import NO_ACTION, SHA384, VARIABLE, event, header, log

from privacy.errors import AppraisalError, FormatError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.event_log import compare, parse_event_log, replay
from privacy.tee.parse import Measurements
from privacy.tee.policy import Relaxations
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import simulated_trust_store

VARIABLE_DATA = (
    struct.pack("<16sQQ", b"\1" * 16, 2, 1) + "PK".encode("utf-16-le") + b"x"
)
EVENTS = (
    event(1, b"first"),
    event(1, b"second"),
    event(3, b"third"),
    event(2, b"not extended", kind=NO_ACTION),
    event(0, b"about MRTD"),
)


def sha384(*parts):
    value = bytes(48)
    for part in parts:
        value = hashlib.sha384(value + hashlib.sha384(part).digest()).digest()
    return value


def test_replay_gives_the_registers_that_the_events_make():
    events = parse_event_log(log(*EVENTS))
    assert replay(events) == {
        "rtmr0": sha384(b"first", b"second"),
        "rtmr1": bytes(48),
        "rtmr2": sha384(b"third"),
        "rtmr3": bytes(48),
    }
    assert [e.register for e in events] == ["rtmr0", "rtmr0", "rtmr2", "rtmr1", "mrtd"]


@pytest.mark.parametrize("end", [b"", b"\xff" * 3, b"\xff" * 900, bytes(3), bytes(90)])
def test_padding_may_follow_a_log(end):
    assert len(parse_event_log(log(*EVENTS, end=end))) == len(EVENTS)


def test_content_is_named_and_said_to_be_hashed_or_not():
    other = event(1, b"etc", digest=bytes(48), kind=0x0D)
    tag = struct.pack("<II", 1, 4) + b"data"
    tagged = event(1, tag, digest=hashlib.sha384(b"data").digest(), kind=6)
    odd = event(1, b"\x1b[31m\0", kind=77)
    wide = event(1, "wide\0".encode("utf-16-le"))
    named = event(1, VARIABLE_DATA, kind=VARIABLE)
    raw = log(event(1, b"hashed"), other, tagged, odd, wide, named)
    said = [e.as_dict() for e in parse_event_log(raw)]
    hashed = [s["digest_is_of_content"] for s in said]
    assert hashed == [True, False, True, True, True, True]
    assert [s["type"] for s in said][1:4] == ["EV_IPL", "EV_EVENT_TAG", "0x4d"]
    assert [s["content"] for s in said][3:] == [".[31m.", "wide.", "PK"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(header(SHA384, kind=4), "unsupported-log", id="type"),
        pytest.param(
            header(SHA384, signature=b"Spec ID Event02\0"), "unsupported-log", id="spec"
        ),
        pytest.param(header(), "unsupported-log", id="no algorithm"),
        pytest.param(header((11, 32)), "unsupported-log", id="no SHA-384"),
        pytest.param(header(SHA384, SHA384), "unsupported-log", id="twice"),
        pytest.param(header((12, 32)), "unsupported-log", id="size"),
        pytest.param(header((99, 32)), "unsupported-log", id="unknown"),
        pytest.param(header(SHA384) + event(5, b"x"), "unsupported-log", id="register"),
        pytest.param(
            header(SHA384, (11, 32)) + event(1, b""), "unsupported-log", id="digests"
        ),
        pytest.param(
            header(SHA384) + event(1, b"")[:8] + b"\xff\xff\xff\x7f" + bytes(900),
            "unsupported-log",
            id="count",
        ),
        pytest.param(
            header(SHA384) + event(1, b"")[:-4] + b"\xff\xff\xff\xff", "truncated"
        ),
        pytest.param(log(end=b"\xff" * 8 + b"\1"), "not-canonical", id="after padding"),
        pytest.param(log(end=b"\0" * 8 + b"\1"), "not-canonical", id="after zeros"),
        pytest.param(log(*[event(1, b"")] * 32768), "too-large", id="many"),
        pytest.param(bytes((1 << 22) + 1), "too-large", id="large"),
    ],
)
def test_logs_that_are_none_are_refused(raw, code):
    with pytest.raises(FormatError) as caught:
        parse_event_log(raw)
    assert caught.value.code == code


def test_bytes_behind_the_header_are_refused():
    raw = bytearray(header(SHA384, vendor=b"1234") + EVENTS[0])
    parse_event_log(bytes(raw))
    raw[28] += 1
    with pytest.raises(FormatError):
        parse_event_log(bytes(raw) + b"\0")


def test_every_truncation_and_changed_byte_is_malformed_or_another_log():
    raw, source = log(*EVENTS, end=b""), random.Random(1)
    explained = replay(parse_event_log(raw))
    ends = {len(header(SHA384) + b"".join(EVENTS[:i])) for i in range(len(EVENTS))}
    ends |= {max(ends) + i for i in range(5)}  # register 0 looks like padding so far
    for size in set(range(len(raw))) - ends:
        with pytest.raises(FormatError):
            parse_event_log(raw[:size])
    for _ in range(500):
        changed = bytearray(raw)
        changed[source.randrange(len(raw))] ^= source.randrange(1, 256)
        try:
            json.dumps([e.as_dict() for e in parse_event_log(bytes(changed))])
            assert set(replay(parse_event_log(bytes(changed)))) == set(explained)
        except FormatError:
            continue


@pytest.fixture(scope="module")
def verify():
    values = replay(parse_event_log(log(*EVENTS)))
    quote = SimulatedTdxAttester().quote(
        bytes(64), Measurements(mrtd=b"\1" * 48, **values)
    )

    def verify(raw, now):
        return attest(
            quote,
            trust_store=simulated_trust_store(),
            collateral=Collateral(),
            now=now,
            checks=Checklist(),
            policy=Relaxations(allow_unchecked_collateral=True),
            event_log=parse_event_log(raw),
        )

    return verify


def test_a_log_that_explains_the_registers_is_accepted(verify, now):
    checks = {c.name: c for c in verify(log(*EVENTS), now).checks}
    assert checks["event-log rtmr0"].found.endswith("after 2 events")
    assert all(checks[f"event-log rtmr{i}"].ok for i in range(4))


@pytest.mark.parametrize(
    "events",
    [
        EVENTS[:-3],
        EVENTS[1::-1] + EVENTS[2:],
        (*EVENTS, event(4, b"one more")),
        (event(1, b"first", kind=NO_ACTION), *EVENTS[1:]),
    ],
    ids=["one less", "another order", "one more", "not extended"],
)
def test_a_log_that_explains_other_registers_is_refused(verify, now, events):
    with pytest.raises(AppraisalError) as caught:
        verify(log(*events), now)
    assert caught.value.code == "event-log-mismatch"


def test_a_log_beside_evidence_without_registers_is_refused():
    with pytest.raises(FormatError) as caught:
        compare(parse_event_log(log(*EVENTS)), {"pcr0": "00"})
    assert caught.value.code == "event-log-unused"


def test_a_log_without_events_is_refused_not_taken_for_none():
    for end in (b"", b"\xff" * 16):
        with pytest.raises(FormatError, match="no event"):
            parse_event_log(log(end=end))
