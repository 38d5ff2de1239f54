"""What an enclave did since its start: events that RTMR3 is the sum of.

Every event is canonical JSON {"event", "detail"}; RTMR3 is extended with its SHA-384,
as `privacy.tee.event_log` replays it. The log itself is believed only as far as that
gives the attested register.

    measured  mrtd, rtmr0, rtmr1            the enclave measured itself
    keys      sha256                        the keys were made; of their public halves
    model     model_sha256, file_sha384     the model was loaded
    circuit   sha256                        the circuit that it proves with, too
"""

import functools
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.encoding import Json, canonical_json
from privacy.errors import AppraisalError, FormatError
from privacy.tee.event_log import Event, replay

REGISTER = "rtmr3"
EVENTS = {"measured", "model", "keys", "circuit"}
"""Every event there is; a log with another is refused."""

_TAG = 6  # EV_EVENT_TAG, the TCG's type for what an operating system or later logs
_MAX_EVENTS, _MAX_DETAILS, _MAX_TEXT = 64, 16, 256


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One event.

    Attributes:
        name: One of `EVENTS`.
        detail: Texts by name; no secrets, for anyone reads them.
    """

    name: str
    detail: dict[str, str]

    def as_dict(self) -> Json:
        """Return the event as it travels and is hashed."""
        return {"event": self.name, "detail": self.detail}

    def as_event(self) -> Event:
        """Return the event as one of a TCG log."""
        content = _content(self.name, tuple(self.detail.items()))
        return Event(REGISTER, _TAG, hashlib.sha384(content).digest(), content)


@functools.lru_cache(maxsize=64)  # an enclave's own do not change
def _content(name: str, detail: tuple[tuple[str, str], ...]) -> bytes:
    return canonical_json(RuntimeEvent(name, dict(detail)).as_dict())


def register_of(events: tuple[RuntimeEvent, ...]) -> bytes:
    """Return the value that the events give RTMR3, 48 bytes; zeros for none."""
    return replay(tuple(event.as_event() for event in events))[REGISTER]


def parse_events(value: Any) -> tuple[RuntimeEvent, ...]:
    """Return the events in a list from JSON; nothing says yet that they happened.

    Raises:
        FormatError: Not such a list, too long, or with an event that is not known.
    """
    if not isinstance(value, list) or len(value) > _MAX_EVENTS:
        msg = f"the event log is not a list of up to {_MAX_EVENTS} events"
        raise FormatError(msg, code="bad-event-log")
    return tuple(_event(one) for one in value)


def _event(value: Any) -> RuntimeEvent:
    if not isinstance(value, dict) or set(value) != {"event", "detail"}:
        msg = "an event of the log lacks or adds members"
        raise FormatError(msg, code="bad-event-log")
    name, detail = value["event"], value["detail"]
    if not isinstance(name, str) or name not in EVENTS:
        msg = (
            f"the event log tells of {str(name)[:40]!r}, which is not known here: "
            "update this software, or do not use that enclave"
        )
        raise FormatError(msg, code="bad-event-log")
    if (
        not isinstance(detail, dict)
        or len(detail) > _MAX_DETAILS
        or not all(isinstance(v, str) and len(v) <= _MAX_TEXT for v in detail.values())
    ):
        msg = f"the detail of the event {name} is not a few short texts"
        raise FormatError(msg, code="bad-event-log")
    return RuntimeEvent(name, detail)


def check_started(
    events: tuple[RuntimeEvent, ...], expected: Mapping[str, dict[str, str]]
) -> None:
    """Check that a log that explains its register tells of a start as expected.

    Args:
        events: The log.
        expected: Details by event; each must have happened, and once.

    Raises:
        AppraisalError: It tells of another one.
    """
    for name, detail in expected.items():
        told = [event.detail for event in events if event.name == name]
        if told != [detail]:
            found = f"{len(told)} times" if len(told) != 1 else "with another detail"
            msg = f"the event log tells of {name} {found}, expected once as attested"
            raise AppraisalError(msg, code="event-log-mismatch")


class RuntimeLog:
    """The log of a running enclave; may be extended from any thread."""

    def __init__(self) -> None:
        """Begin with no event."""
        self._lock = threading.Lock()
        self._events: tuple[RuntimeEvent, ...] = ()

    @property
    def events(self) -> tuple[RuntimeEvent, ...]:
        """What happened, in order."""
        return self._events

    def extend(self, name: str, **detail: str) -> None:
        """Add an event; evidence made from now on shows it."""
        if name not in EVENTS:
            raise FormatError(f"{name} is no event of an enclave")
        with self._lock:
            self._events += (RuntimeEvent(name, detail),)
