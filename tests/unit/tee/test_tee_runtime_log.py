"""RTMR3 is the sum of an enclave's events, as any verifier replays them."""

import hashlib

import pytest

from privacy.encoding import canonical_json
from privacy.errors import AppraisalError, FormatError
from privacy.tee.event_log import compare
from privacy.tee.runtime_log import (
    RuntimeEvent,
    RuntimeLog,
    check_started,
    parse_events,
    register_of,
)

KEYS, MODEL = RuntimeEvent("keys", {"sha256": "ab"}), RuntimeEvent("model", {})


def test_the_register_is_extended_as_the_hardware_does_it():
    value = bytes(48)
    assert register_of(()) == value
    for event in (KEYS, MODEL):
        digest = hashlib.sha384(canonical_json(event.as_dict())).digest()
        value = hashlib.sha384(value + digest).digest()
    assert register_of((KEYS, MODEL)) == value
    assert register_of((MODEL, KEYS)) != value


def test_the_verifier_of_firmware_logs_replays_it():
    log = RuntimeLog()
    log.extend("keys", sha256="ab")
    log.extend("model")
    assert log.events == (KEYS, MODEL)
    events = tuple(event.as_event() for event in log.events)
    assert all(event.is_of_content for event in events)
    zeros = {f"rtmr{i}": "00" * 48 for i in range(3)}
    lines = compare(events, {**zeros, "rtmr3": register_of(log.events).hex()})
    assert all(line.ok for line in lines)
    (wrong,) = [
        line for line in compare(events, {**zeros, "rtmr3": "00" * 48}) if not line.ok
    ]
    assert wrong.code == "event-log-mismatch"


def test_events_survive_the_wire():
    events = (KEYS, MODEL)
    assert parse_events([event.as_dict() for event in events]) == events


def test_an_event_that_nobody_knows_is_neither_logged_nor_read():
    with pytest.raises(FormatError):
        RuntimeLog().extend("lunch")
    with pytest.raises(FormatError, match="update this software") as caught:
        parse_events([{"event": "lunch", "detail": {}}])
    assert caught.value.code == "bad-event-log"


def test_a_start_happens_once_and_as_expected():
    expected = {"keys": {"sha256": "ab"}, "model": {}}
    check_started((KEYS, MODEL), expected)
    check_started((MODEL, KEYS), expected)
    other = RuntimeEvent("keys", {"sha256": "cd"})
    for events in ((), (KEYS,), (other, MODEL), (KEYS, MODEL, other), (KEYS, KEYS)):
        with pytest.raises(AppraisalError) as caught:
            check_started(events, expected)
        assert caught.value.code == "event-log-mismatch"
