"""What a node gives back for one job, the same in every mode."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

MAX_ROWS = 256
"""Rows a job may hold; more are split by the client."""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class RunResult:
    """The output blob and, where the mode has one, the evidence for it.

    Attributes:
        output: What the client downloads: a ciphertext, outputs or a sealed answer.
        evidence: The proofs or the attestation; empty if the mode has none.
        evidence_kind: `proof`, `attestation` or empty.
    """

    output: bytes
    evidence: bytes = b""
    evidence_kind: str = ""


class RowStore:
    """Results of single rows, on disk from the moment each is done.

    A worker may die at any row. The next attempt at the job, by another worker or in
    another life of the gateway, goes on after the rows that are here.
    """

    def __init__(self, folder: Path) -> None:
        """Keep results in a folder that belongs to one job; made for the first."""
        self._folder = folder

    def keep(self, index: int, result: bytes) -> None:
        """Write the result of a row, whole or not at all."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / str(index)
        part = path.with_suffix(".part")
        part.write_bytes(sha256(result).digest() + result)
        part.replace(path)

    def find(self, index: int) -> bytes | None:
        """Return the result of a row if it is here; a torn one counts as absent."""
        try:
            raw = (self._folder / str(index)).read_bytes()
        except FileNotFoundError:
            return None
        digest, result = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        return result if sha256(result).digest() == digest else None
