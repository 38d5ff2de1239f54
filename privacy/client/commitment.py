"""What is kept of an encrypted job's answer: enough to know it again, no more.

`answer.json` beside the receipt: how many rows, a salt of 32 random bytes, and the
salted digest of the raw outputs. A dispute tells the digest; the salt opens it.
"""

import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.encoding import (
    b64url,
    b64url_decode,
    canonical_json,
    check_sha256,
    parse_object,
    sha256_hex,
)
from privacy.errors import CannotVerifyError, FormatError

ANSWER_FILE = "answer.json"
_MOST_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Commitment:
    """A job's answer as a digest that nobody can guess it from."""

    rows: int
    salt: bytes
    sha256: str

    def to_bytes(self) -> bytes:
        """Return the file."""
        salt = b64url(self.salt)
        return canonical_json({"rows": self.rows, "salt": salt, "sha256": self.sha256})


def digest_of(raw: Any, salt: bytes) -> str:
    """Return the salted digest of raw outputs, shape (rows, outputs)."""
    return sha256_hex(salt + canonical_json(np.asarray(raw).tolist()))


def commit(raw: Any) -> Commitment:
    """Return the commitment to raw outputs, under a new salt."""
    salt = os.urandom(32)
    return Commitment(len(raw), salt, digest_of(raw, salt))


def read_commitment(path: Path) -> Commitment:
    """Return the commitment in a file.

    Raises:
        CannotVerifyError: There is none.
    """
    try:
        with path.open("rb") as file:
            value = parse_object(file.read(_MOST_BYTES), what=ANSWER_FILE)
        rows, salt, sha256 = (value[name] for name in ("rows", "salt", "sha256"))
        return Commitment(
            operator.index(rows), b64url_decode(salt, what="salt"), check_sha256(sha256)
        )
    except (OSError, FormatError, KeyError, TypeError, AttributeError) as exc:
        msg = (
            f"{path} is missing or was changed: jobs are compared where they were sent "
            "from, with the folder that their receipts are in"
        )
        raise CannotVerifyError(msg, code="missing-file") from exc
