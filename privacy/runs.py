"""What a node gives back for one job, the same in every mode."""

from dataclasses import dataclass

MAX_ROWS = 256
"""Rows a job may hold; more are split by the client."""


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
