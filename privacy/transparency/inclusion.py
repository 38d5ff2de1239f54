"""A receipt's place in the log, with the tree head it leads to: a C2SP tlog-proof.

    c2sp.org/tlog-proof@v1
    index 73894
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
    …

    (the tree head: see `tree_head`)

It lies beside the receipt and is checked offline. https://c2sp.org/tlog-proof
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.errors import FormatError, VerificationError
from privacy.transparency.merkle import HASH_BYTES, check_inclusion, leaf_hash
from privacy.transparency.tree_head import MAX_BYTES, TreeHead, verify_head

SUFFIX = ".tlog-proof"
_FIRST = "c2sp.org/tlog-proof@v1"
_MOST_HASHES = 64
_MAX_BYTES = MAX_BYTES + 64 * 45 + 100


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a receipt is in a log.

    Attributes:
        index: Its place, from 0.
        path: The inclusion proof, hashes of 32 bytes.
        head: The signed tree head.
    """

    index: int
    path: tuple[bytes, ...]
    head: bytes

    def encode(self) -> bytes:
        """Return the file."""
        lines = [_FIRST, f"index {self.index}"]
        lines += [base64.b64encode(hash_).decode() for hash_ in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.head


def parse_inclusion(raw: bytes) -> Inclusion:
    """Return what a file says; see `verify_inclusion`.

    Raises:
        FormatError: It is no tlog-proof.
    """
    above, gap, head = raw[: _MAX_BYTES + 1].partition(b"\n\n")
    try:
        first, index, *hashes = above.decode("ascii").split("\n")
        found = Inclusion(
            int(index.removeprefix("index ")),
            tuple(base64.b64decode(line, validate=True) for line in hashes),
            head,
        )
    except (ValueError, binascii.Error) as exc:
        raise _malformed() from exc
    sound = (
        gap
        and len(raw) <= _MAX_BYTES
        and first == _FIRST
        and found.index >= 0
        and len(hashes) <= _MOST_HASHES
        and all(len(hash_) == HASH_BYTES for hash_ in found.path)
    )
    if not sound or found.encode() != raw:
        raise _malformed()
    return found


def verify_inclusion(
    receipt: bytes, raw: bytes, trusted: Mapping[str, Ed25519PublicKey]
) -> tuple[int, TreeHead, str]:
    """Return a receipt's index, the tree head that has it, and who signed that.

    Args:
        receipt: The receipt file.
        raw: The tlog-proof.
        trusted: Receipt keys by key id.

    Raises:
        VerificationError: The receipt is not in that log, or something was changed.
        CannotVerifyError: No trusted key signed the tree head.
    """
    try:
        found = parse_inclusion(raw)
    except FormatError as exc:
        raise VerificationError(exc.message, code="log-entry-changed") from exc
    head, key_id = verify_head(found.head, trusted)
    check_inclusion(
        leaf_hash(receipt),
        index=found.index,
        size=head.size,
        path=found.path,
        root=head.root,
    )
    return found.index, head, key_id


def hashes_from(values: Sequence[object]) -> list[bytes]:
    """Return hashes written as base64.

    Raises:
        FormatError: One is none.
    """
    try:
        found = [base64.b64decode(str(v), validate=True) for v in values]
    except (ValueError, binascii.Error) as exc:
        raise FormatError("a hash of the proof is not base64") from exc
    if len(found) > 2 * _MOST_HASHES or any(len(v) != HASH_BYTES for v in found):
        raise FormatError(f"a hash of the proof has not {HASH_BYTES} bytes")
    return found


def _malformed() -> FormatError:
    return FormatError("the log entry is no tlog-proof as a gateway's client writes it")
