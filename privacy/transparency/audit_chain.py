"""The audit log's chain: each entry holds the hash of the one before.

An export is one canonical JSON object a line. Entry n of the log, from 1, has `seq` n;
the hash of an entry is the SHA-256 of its line. Tree heads name the size of the chain
and the hash of its last entry, so whoever keeps one can tell if the end was cut off.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from privacy.encoding import Json, canonical_json, parse_canonical, sha256_hex
from privacy.errors import FormatError, VerificationError

START_SHA256 = "0" * 64
MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act.

    Attributes:
        seq: Its place, from 1.
        at: When it was done; RFC 3339, UTC, milliseconds.
        gateway: The name of the gateway that saw it.
        actor: Who did it: an API key's id, `gateway`, `operator`, or empty if unknown.
        tenant: Theirs; may be empty.
        action: What, such as `job-submitted` or `POST /v1/api-keys`.
        target: On what; may be empty.
        outcome: `done`, `begun`, or how it was refused.
        request_id: As in the logs; may be empty.
        details: Digests, names and counts; never inputs, keys or results.
        previous_sha256: Of the entry before; zeros for the first.
    """

    seq: int
    at: str
    gateway: str
    actor: str
    tenant: str
    action: str
    target: str
    outcome: str
    request_id: str
    details: Json
    previous_sha256: str

    def encode(self) -> bytes:
        """Return the line, without its end."""
        return canonical_json(asdict(self))


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """How far a chain goes; at the very start as by default."""

    size: int = 0
    sha256: str = START_SHA256


def follow(
    lines: Iterable[bytes],
    *,
    start: ChainEnd | None = None,
    heads: Mapping[int, str] | None = None,
) -> ChainEnd:
    """Return where a chain ends after checking every entry.

    Args:
        lines: Entries in order, as exported.
        start: Where the first one goes on; at the very beginning by default.
        heads: Hashes of the last entry by size of the chain, as tree heads that were
            verified name them.

    Raises:
        VerificationError: The first entry that does not fit, or an end cut off.
    """
    end, heads = start or ChainEnd(), heads or {}
    begin = end.size
    _check_head(end, heads)
    for line in lines:
        entry = _entry(line, after=end)
        end = ChainEnd(entry.seq, sha256_hex(line))
        _check_head(end, heads)
    said = max((size for size in heads if size >= begin), default=0)
    if said > end.size:
        msg = (
            f"the audit log ends with entry {end.size}, but a signed tree head says "
            f"that it had {said}: its end was cut off"
        )
        raise VerificationError(msg, code="audit-truncated")
    return end


def _check_head(end: ChainEnd, heads: Mapping[int, str]) -> None:
    said = heads.get(end.size)
    if said is not None and said != end.sha256:
        msg = (
            f"entry {end.size} of the audit log has another hash than a signed tree "
            "head says: it, or one before it, was changed"
        )
        raise VerificationError(msg, code="audit-broken")


def _entry(line: bytes, *, after: ChainEnd) -> AuditEntry:
    at = after.size + 1
    try:
        entry = parse_entry(line)
    except FormatError as exc:
        raise _broken(at, exc.message) from exc
    if entry.seq != at:
        raise _broken(at, f"entry {entry.seq} stands in its place")
    if entry.previous_sha256 != after.sha256:
        raise _broken(at, "it does not follow the entry before it")
    return entry


def parse_entry(line: bytes) -> AuditEntry:
    """Return the entry in a line.

    Raises:
        FormatError: It is none.
    """
    value = parse_canonical(line, what="audit entry", limit=MAX_LINE_BYTES)
    named = {"seq": int, "details": dict}
    types = {f.name: named.get(f.name, str) for f in fields(AuditEntry)}
    if {name: type(v) for name, v in value.items()} != types or line.endswith(b"\n"):
        raise FormatError("it has not the members of an audit entry")
    return AuditEntry(**value)


def _broken(at: int, why: str) -> VerificationError:
    msg = f"the audit log is broken at entry {at}: {why}"
    return VerificationError(msg, code="audit-broken")
