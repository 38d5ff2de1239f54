"""The one way we write a time: RFC 3339, UTC, milliseconds."""

from datetime import UTC, datetime, timedelta


def now(*, plus_s: float = 0.0) -> str:
    """Return the time `plus_s` seconds from now, such as 2026-01-31T12:00:00.000Z."""
    at = datetime.now(UTC) + timedelta(seconds=plus_s)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def later(at: str, plus_s: float) -> str:
    """Return the time `plus_s` seconds after one of ours."""
    moment = datetime.fromisoformat(at) + timedelta(seconds=plus_s)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
