"""The header `traceparent` of W3C Trace Context: which trace a request is part of."""

import re

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_id_of(traceparent: str) -> str:
    """Return the trace id that a header names, "" if it is none."""
    found = _FORM.fullmatch(traceparent)
    if not found or not int(found[1], 16) or not int(found[2], 16):
        return ""
    return found[1]
