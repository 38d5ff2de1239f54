"""What a gateway signs about its log: a C2SP checkpoint, which is a C2SP signed note.

    privacy-compute/receipts/8Qf…         origin: which log
    1042                                  entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2f…=      root of the tree, base64
    time 2026-11-21T15:00:00.000Z         when this was signed
    audit 311 9f3ac0…                     entries of the audit log, hash of the last

    — privacy-compute/receipts/8Qf… Az3grlgtzP…

Anyone's tools for checkpoints read it, and witnesses may add lines below ours. The last
two lines of the text are extension lines, which such tools carry along unread.
https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import matches
from privacy.transparency.merkle import HASH_BYTES, MAX_SIZE

MAX_BYTES = 1 << 14
_ED25519 = b"\x01"
_ORIGIN = re.compile(r"[!-*,-~]{1,255}")  # no space, no plus sign: C2SP
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_NUMBER = re.compile(r"0|[1-9]\d{0,15}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINES = 5
_KEY_HASH_BYTES = 4
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The state of a log.

    Attributes:
        origin: Which log.
        size: How many entries it has.
        root: 32 bytes.
        time: When this was said; RFC 3339, UTC, milliseconds.
        audit_size: How many entries the gateway's audit log has.
        audit_sha256: Hash of its last one.
    """

    origin: str
    size: int
    root: bytes
    time: str
    audit_size: int
    audit_sha256: str

    @property
    def text(self) -> str:
        """What is signed."""
        root = base64.b64encode(self.root).decode()
        audit = f"audit {self.audit_size} {self.audit_sha256}"
        return f"{self.origin}\n{self.size}\n{root}\ntime {self.time}\n{audit}\n"


def sign_head(head: TreeHead, signing_key: Ed25519PrivateKey) -> bytes:
    """Return the note."""
    known_by = _key_hash(head.origin, signing_key.public_key())
    signature = known_by + signing_key.sign(head.text.encode())
    line = f"— {head.origin} {base64.b64encode(signature).decode()}\n"
    return f"{head.text}\n{line}".encode()


def verifier_key(origin: str, public_key: Ed25519PublicKey) -> str:
    """Return a key as tools for signed notes take it: NAME+HASH+KEY."""
    raw = base64.b64encode(_ED25519 + public_key.public_bytes_raw()).decode()
    return f"{origin}+{_key_hash(origin, public_key).hex()}+{raw}"


def parse_head(raw: bytes) -> TreeHead:
    """Return what a note says; nothing is verified here, see `verify_head`.

    Raises:
        FormatError: Not a checkpoint as a gateway writes it.
    """
    return _split(raw)[0]


def verify_head(
    raw: bytes, trusted: Mapping[str, Ed25519PublicKey]
) -> tuple[TreeHead, str]:
    """Return what a note says and the id of the trusted key that signed it.

    Lines of other signers, such as witnesses, are not looked at.

    Raises:
        VerificationError: It is no checkpoint, or was changed after it was signed.
        CannotVerifyError: No trusted key signed it.
    """
    try:
        head, signatures = _split(raw)
    except FormatError as exc:
        raise VerificationError(exc.message, code="tree-head-changed") from exc
    for key_id, public_key in trusted.items():
        known_by = _key_hash(head.origin, public_key)
        for signature in signatures:
            if signature[:_KEY_HASH_BYTES] != known_by:
                continue
            if not matches(public_key, signature[_KEY_HASH_BYTES:], head.text.encode()):
                msg = "the tree head's signature does not match: it was changed"
                raise VerificationError(msg, code="tree-head-changed")
            return head, key_id
    msg = (
        f"no trusted key signed the tree head of {head.origin}: give the gateway's "
        "key set with --keys FILE"
    )
    raise CannotVerifyError(msg, code="unknown-receipt-key")


def _key_hash(origin: str, public_key: Ed25519PublicKey) -> bytes:
    named = origin.encode() + b"\n" + _ED25519 + public_key.public_bytes_raw()
    return hashlib.sha256(named).digest()[:_KEY_HASH_BYTES]


def _split(raw: bytes) -> tuple[TreeHead, list[bytes]]:
    """Return the tree head and the signatures that its own name stands before."""
    try:
        text, gap, below = raw[: MAX_BYTES + 1].decode().rpartition("\n\n")
    except UnicodeDecodeError as exc:
        raise _malformed("it is not UTF-8") from exc
    if len(raw) > MAX_BYTES or not gap or not below.endswith("\n"):
        raise _malformed("it is too long, or has no signatures below an empty line")
    head = _head(text)
    if head.text != f"{text}\n":
        raise _malformed("it is not written in the one way there is")
    signatures = []
    for line in below.removesuffix("\n").split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if dash != "—" or not _ORIGIN.fullmatch(name):
            raise _malformed("a line of its signatures is none")
        if name == head.origin:
            signatures.append(_base64(encoded, _KEY_HASH_BYTES + _SIGNATURE_BYTES))
    return head, signatures


def _head(text: str) -> TreeHead:
    lines = text.split("\n")
    time, audit = (
        (lines[3].split(" "), lines[4].split(" "))
        if (len(lines) == _LINES)
        else ([], [])
    )
    if (
        not time
        or not _ORIGIN.fullmatch(lines[0])
        or not _NUMBER.fullmatch(lines[1])
        or len(time) != 2  # noqa: PLR2004 - the word and the time
        or time[0] != "time"
        or not _TIME.fullmatch(time[1])
        or len(audit) != 3  # noqa: PLR2004 - the word, the size and the hash
        or audit[0] != "audit"
        or not _NUMBER.fullmatch(audit[1])
        or not _SHA256.fullmatch(audit[2])
        or int(lines[1]) > MAX_SIZE
    ):
        raise _malformed("its lines are not origin, size, root, time and audit")
    return TreeHead(
        origin=lines[0],
        size=int(lines[1]),
        root=_base64(lines[2], HASH_BYTES),
        time=time[1],
        audit_size=int(audit[1]),
        audit_sha256=audit[2],
    )


def _base64(text: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _malformed("a line of it is not base64") from exc
    if len(raw) != size or base64.b64encode(raw).decode() != text:
        raise _malformed(f"a line of it is not {size} bytes of base64")
    return raw


def _malformed(why: str) -> FormatError:
    return FormatError(f"the tree head is no checkpoint of a gateway's: {why}")
