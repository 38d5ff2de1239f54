"""What the receipt log and the audit log say after a campaign of kills."""

import base64
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import httpx

from privacy.encoding import Json
from privacy.errors import PrivacyError
from privacy.key_history import public_keys, read_history
from privacy.transparency.audit_chain import ChainEnd, follow, parse_entry
from privacy.transparency.merkle import Node, append, leaf_hash, range_hash
from privacy.transparency.tree_head import TreeHead, verify_head

_PATIENCE_S = 30.0


def check_logs(http: httpx.Client, receipts: Iterable[bytes]) -> Json:
    """Return what was found wrong in both logs of a gateway, and how long they are.

    Args:
        http: With an operator's key.
        receipts: The receipt of every job, each to be in the log once.
    """
    wanted = Counter(map(leaf_hash, receipts))
    head = _head_of(http, wanted.total())
    leaves = list(_leaves(http, head.size))
    before: dict[Node, bytes] = {}
    nodes = append(0, before.__getitem__, leaves)
    wrong = []
    if range_hash(nodes.__getitem__, 0, head.size) != head.root:
        wrong.append("the leaves of the receipt log do not make its root")
    found = Counter(leaves)
    wrong += [f"{n} receipts are not logged" for n in [(wanted - found).total()] if n]
    wrong += [f"{n} leaves too many" for n in [(found - wanted).total()] if n]
    lines = list(_lines(http))
    try:
        end = follow(lines, heads={head.audit_size: head.audit_sha256})
    except PrivacyError as exc:
        wrong, end = [*wrong, exc.message], ChainEnd()
    acts = Counter(parse_entry(line).action for line in lines)
    if acts["job-submitted"] != wanted.total():
        wrong.append(f"{acts['job-submitted']} submitted jobs in the audit log")
    return {"receipts": head.size, "audit_entries": end.size, "wrong": wrong}


def _head_of(http: httpx.Client, size: int) -> TreeHead:
    """Return the signed head once the log has so many receipts, or the last one."""
    keys = public_keys(read_history(http.get("/.well-known/jwks.json").json()))
    until = time.monotonic() + _PATIENCE_S
    while True:
        head, _ = verify_head(http.get("/v1/log/head").content, keys)
        if head.size >= size or time.monotonic() > until:
            return head
        time.sleep(0.5)


def _leaves(http: httpx.Client, size: int) -> Iterator[bytes]:
    count = 0
    while count < size:
        reply = http.get("/v1/log/leaves", params={"start": count}).raise_for_status()
        page = reply.json()["leaf_hashes"][: size - count]
        yield from map(base64.b64decode, page)
        count += len(page)


def _lines(http: httpx.Client) -> Iterator[bytes]:
    after = 0
    while True:
        reply = http.get("/v1/audit", params={"after": after}).raise_for_status()
        page = reply.json()["lines"]
        yield from (line.encode() for line in page)
        after += len(page)
        if not page or after >= reply.json()["size"]:
            return
