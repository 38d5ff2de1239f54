"""The Merkle tree of RFC 9162, section 2.1, with SHA-256 (the same as RFC 6962's).

A tree of n leaves is put together from complete subtrees, which never change once their
leaves are there. `Node` names one: (level, position) is the subtree over the leaves
[position << level, (position + 1) << level). Whoever keeps their hashes makes roots and
proofs of any earlier size from O(log n) of them. Checking a proof needs none.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from privacy.errors import FormatError, VerificationError

Node = tuple[int, int]
Hashes = Callable[[Node], bytes]
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_SIZE = 1 << 53


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry as a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtrees(start: int, end: int) -> list[Node]:
    """Return the complete subtrees over the leaves [start, end), from left to right.

    `start` is a multiple of the largest power of two that is below `end - start`.
    """
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def range_hash(hashes: Hashes, start: int, end: int) -> bytes:
    """Return the hash of the tree over the leaves [start, end); see `subtrees`."""
    nodes = subtrees(start, end)
    if not nodes:
        return EMPTY_ROOT
    value = hashes(nodes[-1])
    for node in reversed(nodes[:-1]):
        value = node_hash(hashes(node), value)
    return value


def append(size: int, hashes: Hashes, leaves: Iterable[bytes]) -> dict[Node, bytes]:
    """Return the complete subtrees that leaves add to a tree, the leaves included.

    Args:
        size: Of the tree before.
        hashes: Gives the hashes of `subtrees(0, size)`; no other is asked for.
        leaves: Their hashes, in order.
    """
    added: dict[Node, bytes] = {}
    for position, leaf in enumerate(leaves, start=size):
        level, value = 0, leaf
        added[level, position] = value
        while position & 1:
            left = (level, position - 1)
            value = node_hash(added[left] if left in added else hashes(left), value)
            level, position = level + 1, position >> 1  # noqa: PLW2901 - climbing
            added[level, position] = value
    return added


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return the ranges of leaves whose hashes prove a leaf's place, lowest first.

    Raises:
        FormatError: There is no leaf of that index.
    """
    if not 0 <= index < size:
        msg = f"there is no entry {index} in a log of {size}: give a lower index"
        raise FormatError(msg, code="not-in-log")
    start, end, found = 0, size, []
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """Return the ranges whose hashes prove that a tree begins with an older one.

    Raises:
        FormatError: The older one is empty or larger.
    """
    if not 0 < old <= new:
        msg = f"sizes {old} and {new}: the first is to be from 1 to the second"
        raise FormatError(msg, code="bad-log-size")
    start, end, found = 0, new, []
    while old != end:
        middle = start + _largest_power_below(end - start)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    if start:
        found.append((start, end))
    return found[::-1]


def check_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf is the one of an index in the tree with a root.

    Raises:
        VerificationError: It is not, or the proof is not one of this index and size.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise _refused(f"there is no entry {index} in a log of {size}")
    value = leaf
    for hash_, is_left in _climb(index, size - 1, path, _refused):
        value = node_hash(hash_, value) if is_left else node_hash(value, hash_)
    if value != root:
        raise _refused(f"its proof leads to {value.hex()[:12]}…, not to the log's root")


def check_consistency(
    old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]
) -> None:
    """Check that a tree begins with all that an older one had, unchanged.

    Args:
        old: Size and root; a tree of size 0 is the beginning of every other.
        new: Size and root.
        path: The consistency proof; empty where the sizes are equal or the old is 0.

    Raises:
        VerificationError: It does not, or the proof is not one of these sizes.
    """
    (old_size, old_root), (new_size, new_root) = old, new
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise _forked(f"it has {new_size} entries now, it had {old_size}")
    if old_size in {0, new_size}:
        same = old_root == (EMPTY_ROOT if not old_size else new_root)
        if path or not same:
            raise _forked(f"two roots for size {old_size}")
        return
    begins_proof = old_size & (old_size - 1) == 0
    first, *rest = [old_root, *path] if begins_proof else path or [b""]
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    before = after = first
    for hash_, is_left in _climb(node, last, rest, _forked):
        before = node_hash(hash_, before) if is_left else before
        after = node_hash(hash_, after) if is_left else node_hash(after, hash_)
    if before != old_root or after != new_root:
        raise _forked(f"its first {old_size} entries are not those it had")


def _climb(
    node: int,
    last: int,
    path: Sequence[bytes],
    refused: Callable[[str], VerificationError],
) -> Iterator[tuple[bytes, bool]]:
    """Give each hash of a path to the root, and whether it stands on the left.

    Args:
        node: Where the path begins, the position on its level.
        last: The last position on that level.
        path: From below to the root.
        refused: Makes the error for a path that is too short or too long.
    """
    for hash_ in path:
        if not last or len(hash_) != HASH_BYTES:
            raise refused("its proof is too long for a log of this size")
        is_left = bool(node & 1) or node == last
        yield hash_, is_left
        while is_left and not node & 1 and node:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    if last:
        raise refused("its proof is too short for a log of this size")


def _largest_power_below(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _refused(why: str) -> VerificationError:
    return VerificationError(f"the entry is not in the log: {why}", code="not-in-log")


def _forked(why: str) -> VerificationError:
    msg = f"the log was changed: {why}; keep both tree heads, they are the evidence"
    return VerificationError(msg, code="log-fork")
