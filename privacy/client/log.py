"""Flows about a gateway's log: its head, a receipt's place in it, all of it.

Every head is verified, compared with those seen before, and kept (`log_heads`).
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from privacy.client.home import Home
from privacy.client.log_heads import LogHeads
from privacy.client.receipt_keys import renewed_keys
from privacy.client.wire import Call, Flow, Reply, Work, odd_answer
from privacy.encoding import Json
from privacy.errors import (
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.files import write_atomic
from privacy.key_history import ReceiptKey, check_counts, public_keys
from privacy.receipt import parse_receipt
from privacy.transparency.inclusion import (
    SUFFIX,
    Inclusion,
    hashes_from,
    verify_inclusion,
)
from privacy.transparency.merkle import Node, append, leaf_hash, range_hash
from privacy.transparency.tree_head import TreeHead, verify_head

_PAUSE_S = 0.3
_NOT_FOUND = 404
_MAX_RECEIPT_BYTES = 1 << 17


def fetch_head(home: Home, gateway: str) -> Flow[tuple[TreeHead, bytes]]:
    """Return a gateway's newest tree head, which follows from those seen before.

    Raises:
        VerificationError: It contradicts one of them ("log-fork"), or no key that the
            gateway may use signed it.
    """
    keys = yield from renewed_keys(home, gateway)
    reply: Reply = yield Call("GET", "/v1/log/head", limit=1 << 16)
    head = _verified_head(reply.body, keys)
    with home.locked("log"):
        heads = LogHeads(home.log_folder(gateway))
        last = [link.head for link in heads.all()][-1:]
    path: Sequence[str] = ()
    if last and 0 < last[0].size < head.size:
        asked = {"from": str(last[0].size), "to": str(head.size)}
        found: Reply = yield Call("GET", "/v1/log/consistency", params=asked)
        path = _path(found)
    with home.locked("log"):
        now = [link.head for link in heads.all()][-1:]
        if now == last:  # else another process was here first, and kept its own
            heads.add(reply.body, path)
    return head, reply.body


def fetch_entries(
    home: Home, gateway: str, receipts: Sequence[Path], *, wait_s: float = 0.0
) -> Flow[list[Path]]:
    """Write receipts' places in the log beside them, once checked; return the files.

    Args:
        home: Where heads are kept.
        gateway: That signed the receipts.
        receipts: The receipt files.
        wait_s: How long to wait until they are logged.

    Raises:
        NotFoundError: One is not in the log.
        VerificationError: A proof does not hold, or the log forked.
    """
    left = {path: _receipt_bytes(path) for path in receipts}
    until, written = time.monotonic() + wait_s, []
    while left:
        head, note = yield from fetch_head(home, gateway)
        keys = public_keys(home.receipt_keys(gateway))
        for path, raw in list(left.items()):
            found = yield from _place(leaf_hash(raw), head.size)
            if found is not None:
                entry = Inclusion(found[0], tuple(found[1]), note).encode()
                verify_inclusion(raw, entry, keys)
                written.append(path.with_suffix(SUFFIX))
                write_atomic(written[-1], entry, private=True)
                del left[path]
        if left and time.monotonic() >= until:
            msg = (
                f"the log of {gateway}, of {head.size} entries, does not have "
                f"{len(left)} of these receipts, such as {next(iter(left))}: are they "
                "this gateway's? one is logged within seconds"
            )
            raise NotFoundError(msg, code="not-in-log")
        if left:
            yield Work(partial(time.sleep, _PAUSE_S))
    return written


def audit_log(home: Home, gateway: str) -> Flow[Json]:
    """Return what reading all of a log shows; every own receipt must be in it.

    Raises:
        VerificationError: The leaves do not make the signed root, the log forked, or
            it lacks a receipt that this gateway signed.
    """
    head, _ = yield from fetch_head(home, gateway)
    leaves = yield from _leaves(head.size)
    before: dict[Node, bytes] = {}
    nodes = append(0, before.__getitem__, leaves)
    if range_hash(nodes.__getitem__, 0, head.size) != head.root:
        msg = f"the {head.size} leaves that are served do not make the signed root"
        raise VerificationError(msg, code="log-fork")
    own = own_receipts(home, gateway)
    known = set(leaves)
    missing = [
        path.parent.name
        for path, raw, finished_at in own
        if leaf_hash(raw) not in known and finished_at < head.time
    ]
    if missing:
        msg = (
            f"the log lacks {len(missing)} receipts that this gateway signed, such as "
            f"{missing[0]}: it may have just ended; ask again in some seconds, and if "
            "it stays so, the receipt is the evidence"
        )
        raise VerificationError(msg, code="not-in-log")
    return {
        "origin": head.origin,
        "size": head.size,
        "time": head.time,
        "own_receipts": len(own),
        "audit_size": head.audit_size,
    }


def own_receipts(home: Home, gateway: str) -> list[tuple[Path, bytes, str]]:
    """Return the receipts kept here that a gateway's keys signed, with their end."""
    keys, found = home.receipt_keys(gateway), []
    for path in sorted((home.root / "receipts").glob("*/receipt.json")):
        raw = _receipt_bytes(path)
        try:
            receipt, kid = parse_receipt(raw)
        except FormatError:
            continue  # `privacy verify` says what is wrong with it
        if kid in keys:
            found.append((path, raw, receipt.finished_at))
    return found


def _verified_head(note: bytes, keys: dict[str, ReceiptKey]) -> TreeHead:
    """Return a tree head that a key signed which might.

    Raises:
        VerificationError: It was changed, or its signer had ended or was revoked.
        CannotVerifyError: None of these keys signed it.
    """
    head, kid = verify_head(note, public_keys(keys))
    try:
        check_counts(keys[kid], finished_at=head.time)
    except PrivacyError as exc:
        msg = "the gateway signs its log with a key that has ended or was revoked"
        raise VerificationError(msg, code=exc.code) from exc
    return head


def _place(leaf: bytes, size: int) -> Flow[tuple[int, list[bytes]] | None]:
    if not size:
        return None
    asked = {"leaf_hash": leaf.hex(), "size": str(size)}
    call = Call("GET", "/v1/log/proof", params=asked, accept=(200, _NOT_FOUND))
    reply: Reply = yield call
    if reply.status == _NOT_FOUND:
        return None
    index = reply.object("log entry").get("index")
    if not isinstance(index, int):
        raise odd_answer("log entry")
    return index, hashes_from(_path(reply))


def _leaves(size: int) -> Flow[list[bytes]]:
    found: list[bytes] = []
    while len(found) < size:
        asked = {"start": str(len(found))}
        reply: Reply = yield Call("GET", "/v1/log/leaves", params=asked)
        page = reply.object("leaves").get("leaf_hashes")
        if not isinstance(page, list) or not page:
            raise UnavailableError("the gateway serves fewer leaves than it signed")
        for at in range(0, len(page), 64):
            found += hashes_from(page[at : at + 64])
    return found[:size]


def _path(reply: Reply) -> list[str]:
    path = reply.object("proof").get("path")
    if not isinstance(path, list) or not all(isinstance(p, str) for p in path):
        raise odd_answer("proof")
    return path


def _receipt_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        raw = file.read(_MAX_RECEIPT_BYTES + 1)
    if len(raw) > _MAX_RECEIPT_BYTES:
        raise FormatError(f"{path} is too large for a receipt", code="too-large")
    return raw


def verified_entry(
    receipt: bytes, entry: bytes, keys: dict[str, ReceiptKey]
) -> tuple[int, TreeHead]:
    """Return a receipt's index in the log and the tree head that has it, offline.

    Raises:
        VerificationError: It is not in that log, or the head's signer had ended.
        CannotVerifyError: No trusted key signed the head, or it was revoked since.
    """
    index, head, kid = verify_inclusion(receipt, entry, public_keys(keys))
    check_counts(keys[kid], finished_at=head.time)
    return index, head
