"""One proven row: what publishing measures and what nodes do."""

from collections.abc import Sequence
from pathlib import Path

from privacy.errors import BackendError, VerificationError
from privacy.zkml.blobs import Proof
from privacy.zkml.system import CircuitFiles, ProofSystem


def prove_row(
    backend: ProofSystem,
    files: CircuitFiles,
    row: Sequence[int],
    scratch: Path,
    *,
    scale_bits: int,
) -> Proof:
    """Return a proof of one quantised row, verified here.

    The engine can "succeed" with an invalid proof, so nothing leaves unverified.

    Args:
        backend: The proof system.
        files: The circuit, its keys and SRS.
        row: The quantised row.
        scratch: A private folder; what is written there holds the row and is removed.
        scale_bits: Fixed-point bits of the row.

    Raises:
        FormatError: The row leaves the circuit's range.
        BackendError: The engine failed, or its proof does not verify.
    """
    path = scratch / "row.witness"
    try:
        witness = backend.witness(files, row, path, scale_bits=scale_bits)
        proof = backend.prove(files, witness)
    finally:
        path.unlink(missing_ok=True)
    if proof.instances != witness.instances:
        msg = "the proof's instances are not the witness's: the engine is at fault"
        raise BackendError(msg, code="proof-inconsistent")
    try:
        backend.verify(files, proof)
    except VerificationError as exc:
        msg = "the engine made a proof that does not verify: keys or SRS do not match"
        raise BackendError(msg, code="proof-inconsistent") from exc
    return proof
