"""The tree heads that a data owner has seen of a log, each tied to the one before.

    gateways/ID.log/SIZE.json       a head, and the proof that the log only grew to it
    gateways/ID.log/fork-N.json     two heads that contradict each other: evidence

A gateway that shows one log to some and another to others has to keep doing so: the
next head that does not follow from those here is refused, and both are kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.encoding import Json, parse_object
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.files import write_atomic
from privacy.transparency.inclusion import hashes_from
from privacy.transparency.merkle import check_consistency
from privacy.transparency.tree_head import TreeHead, parse_head, verify_head

_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Link:
    """A head that was verified, and the proof from the head before.

    Attributes:
        note: The signed tree head.
        path: Consistency proof from the link before, base64; empty for the first.
    """

    head: TreeHead
    note: bytes
    path: tuple[str, ...]


class LogHeads:
    """The heads kept in one folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; it is made with the first head."""
        self._folder = folder

    def all(self) -> list[Link]:
        """Return the links, the oldest first.

        Raises:
            FormatError: A file was changed by somebody else.
        """
        paths = sorted(self._folder.glob("[0-9]*.json"))
        return [_link(parse_object(p.read_bytes(), what=str(p))) for p in paths]

    def add(self, note: bytes, path: Sequence[str]) -> TreeHead:
        """Keep a verified head after checking that it follows from the last one.

        Args:
            note: The signed tree head; its signature was checked.
            path: Consistency proof from the last one kept; empty if there is none, or
                the sizes are equal.

        Raises:
            VerificationError: It contradicts the last one ("log-fork"): both are kept
                as evidence.
        """
        head, links = parse_head(note), self.all()
        last = links[-1] if links else None
        if last:
            try:
                follows(last.head, head, path)
            except VerificationError as exc:
                where = self._keep_evidence(last.note, note, path)
                msg = f"{exc.message} ({where})"
                raise VerificationError(msg, code=exc.code) from exc
        same = last is not None and last.head.size == head.size
        if last and same and head.time < last.head.time:
            return head  # an older word about the same log
        kept = last.path if last and same else tuple(path)
        value = {"note": note.decode(), "path": list(kept)}
        self._write(f"{head.size:0{_DIGITS}}.json", value)
        return head

    def _keep_evidence(self, old: bytes, new: bytes, path: Sequence[str]) -> Path:
        count = len(list(self._folder.glob("fork-*.json")))
        value = {"old": old.decode(), "new": new.decode(), "path": list(path)}
        return self._write(f"fork-{count + 1}.json", value)

    def _write(self, name: str, value: Json) -> Path:
        path = self._folder / name
        write_atomic(path, json.dumps(value, indent=1).encode(), private=True)
        return path


def follows(old: TreeHead, new: TreeHead, path: Sequence[str]) -> None:
    """Check that a head is of the same log as an earlier one, with nothing removed.

    Raises:
        VerificationError: It is not.
    """
    if old.origin != new.origin:
        msg = (
            f"the gateway has another log, {new.origin}, than it had before, "
            f"{old.origin}: what it logged there can be denied now"
        )
        raise VerificationError(msg, code="log-fork")
    check_consistency((old.size, old.root), (new.size, new.root), _hashes(path))
    shorter = new.audit_size < old.audit_size
    other = new.audit_size == old.audit_size and new.audit_sha256 != old.audit_sha256
    # Of two heads of one size the older may come later, by another way.
    later = new.size > old.size or new.time >= old.time
    if (shorter and later) or other:
        msg = (
            f"the gateway's audit log had {old.audit_size} entries and has "
            f"{new.audit_size} now, or others: its end was cut off or changed"
        )
        raise VerificationError(msg, code="audit-truncated")


def check_known(
    head: TreeHead, links: Sequence[Link], keys: Mapping[str, Ed25519PublicKey]
) -> str:
    """Return in words how a head fits those that were seen of its log.

    Args:
        head: Verified; of a log entry.
        links: As kept, of the same log.
        keys: Receipt keys by key id; what is on disk is checked again.

    Raises:
        VerificationError: Two heads contradict each other.
        CannotVerifyError: Nothing ties the head to those seen.
    """
    for link in links:
        verify_head(link.note, keys)
    for old, new in pairwise(links):
        follows(old.head, new.head, new.path)
    same = [link.head for link in links if link.head.size == head.size]
    if not same:
        msg = (
            f"no head of size {head.size} of this log was seen here, so nothing ties "
            "the entry to those that were: fetch it again with `privacy log fetch`"
        )
        raise CannotVerifyError(msg, code="log-head-unknown")
    check_consistency((head.size, head.root), (head.size, same[0].root), ())
    return f"heads seen: {len(links)}, up to {links[-1].head.size} entries, agree"


def _link(value: Json) -> Link:
    note, path = value.get("note"), value.get("path")
    if not isinstance(note, str) or not isinstance(path, list):
        raise FormatError("a kept tree head has no note or no path: delete its file")
    return Link(parse_head(note.encode()), note.encode(), tuple(map(str, path)))


def _hashes(path: Sequence[str]) -> list[bytes]:
    try:
        return hashes_from(path)
    except FormatError as exc:
        raise VerificationError(exc.message, code="log-fork") from exc
