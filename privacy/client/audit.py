"""Flows about a gateway's audit log, for its operators: read it, and check it.

The chain is checked as it is read, and against every tree head that names a size of it:
the gateway's newest, those it kept, and those that were seen here before.
"""

from collections.abc import Callable, Mapping, Sequence

from privacy.client.home import Home
from privacy.client.log import fetch_head
from privacy.client.log_heads import LogHeads
from privacy.client.wire import Call, Flow, Reply, odd_answer
from privacy.errors import CannotVerifyError
from privacy.key_history import ReceiptKey, check_counts, public_keys
from privacy.transparency.audit_chain import ChainEnd, follow, parse_entry
from privacy.transparency.tree_head import verify_head

_PAGE = 1000
_LIMIT = 1 << 27
Take = Callable[[list[bytes]], None]


def read_audit(
    home: Home, gateway: str, *, take: Take
) -> Flow[tuple[ChainEnd, ChainEnd]]:
    """Read the whole audit log in pages; return where it starts and where it ends.

    Args:
        home: Where heads of the log are kept.
        gateway: Its address.
        take: Given each page of lines once it was checked.

    Raises:
        VerificationError: The first entry that does not fit ("audit-broken"), or an
            end cut off ("audit-truncated").
    """
    heads = yield from _heads(home, gateway)
    _, start, size = yield from _page(0, limit=1)
    end = start
    while end.size < size:  # reading adds entries: without an end one would follow it
        lines, *_ = yield from _page(end.size)
        if not lines:
            break  # the end was cut off, or the gateway lies: heads tell
        last = end.size + len(lines)
        end = follow(
            lines, start=end, heads={s: h for s, h in heads.items() if s <= last}
        )
        take(lines)
    follow([], start=end, heads=heads)
    return start, end


def page_of_audit(after: int, limit: int) -> Flow[list[bytes]]:
    """Return lines of the audit log after an entry, unchecked."""
    lines, *_ = yield from _page(after, limit=limit)
    return lines


def audit_end() -> Flow[int]:
    """Return how many entries the audit log has, as the gateway says."""
    *_, size = yield from _page(0, limit=1)
    return size


def known_heads(
    home: Home,
    gateway: str,
    notes: Sequence[bytes] = (),
    *,
    keys: Mapping[str, ReceiptKey],
) -> dict[int, str]:
    """Return the ends of the audit log that tree heads name, by size.

    Args:
        home: Where heads of the log are kept.
        gateway: Its address.
        notes: More signed tree heads.
        keys: Receipt keys by key id; a head of none of these is refused.

    Raises:
        CannotVerifyError: They are heads of several logs ("other-log").
    """
    seen = [link.note for link in LogHeads(home.log_folder(gateway)).all()]
    found, origin = {}, ""
    for note in [*seen, *notes]:
        head, kid = verify_head(note, public_keys(keys))
        origin = origin or head.origin
        if head.origin != origin:
            msg = (
                f"a tree head is of the log {head.origin}, not of {origin}: it says "
                "nothing of this audit log, leave it out"
            )
            raise CannotVerifyError(msg, code="other-log")
        # What a revoked key signed says nothing: its thief may have.
        if head.audit_size and keys[kid].revoked_log_size is None:
            check_counts(keys[kid], finished_at=head.time)
            found[head.audit_size] = head.audit_sha256
    return found


def check_lines(
    lines: Sequence[bytes], heads: Mapping[int, str]
) -> tuple[int, ChainEnd]:
    """Return the number of the first of these entries and the chain's end.

    A chain that does not begin with entry 1 is taken to go on from where its first
    entry says.

    Raises:
        VerificationError: The first entry that does not fit, or an end cut off.
    """
    start = ChainEnd()
    if lines and (first := parse_entry(lines[0])).seq > 1:
        start = ChainEnd(first.seq - 1, first.previous_sha256)
    return start.size + 1, follow(lines, start=start, heads=heads)


def _heads(home: Home, gateway: str) -> Flow[dict[int, str]]:
    yield from fetch_head(home, gateway)  # and what was seen here before holds
    reply: Reply = yield Call("GET", "/v1/audit/heads", params={"limit": "1000"})
    notes = reply.object("heads").get("heads")
    if not isinstance(notes, list) or not all(isinstance(n, str) for n in notes):
        raise odd_answer("heads")
    raw = [note.encode() for note in notes]
    return known_heads(home, gateway, raw, keys=home.receipt_keys(gateway))


def _page(after: int, *, limit: int = _PAGE) -> Flow[tuple[list[bytes], ChainEnd, int]]:
    """Return lines after an entry, where the archived part ends, and how many are."""
    asked = {"after": str(after), "limit": str(limit)}
    reply: Reply = yield Call("GET", "/v1/audit", params=asked, limit=_LIMIT)
    found = reply.object("audit log")
    lines, sha256 = found.get("lines"), found.get("archived_sha256")
    archived, size = found.get("archived_size"), found.get("size")
    sound = isinstance(lines, list) and all(isinstance(n, str) for n in lines)
    numbers = isinstance(archived, int) and isinstance(size, int)
    if not sound or not numbers or not isinstance(sha256, str):
        raise odd_answer("audit log")
    raw = [line.encode() for line in found["lines"]]
    return raw, ChainEnd(found["archived_size"], sha256), found["size"]
