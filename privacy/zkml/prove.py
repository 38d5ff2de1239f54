"""One proven row: what publishing measures and what nodes do."""

from collections.abc import Sequence

from privacy.errors import BackendError, VerificationError
from privacy.zkml.blobs import Proof
from privacy.zkml.params import ZkmlParams
from privacy.zkml.scratch import memory_file
from privacy.zkml.system import CircuitFiles, ProofSystem


def prove_row(
    backend: ProofSystem,
    files: CircuitFiles,
    row: Sequence[int],
    *,
    scale_bits: int,
) -> Proof:
    """Return a proof of one quantised row, verified here.

    The engine can "succeed" with an invalid proof, so nothing leaves unverified.

    Args:
        backend: The proof system.
        files: The circuit, its keys and SRS.
        row: The quantised row.
        scale_bits: Fixed-point bits of the row.

    Raises:
        FormatError: The row leaves the circuit's range.
        BackendError: The engine failed, or its proof does not verify.
    """
    with memory_file() as path:
        witness = backend.witness(files, row, path, scale_bits=scale_bits)
        proof = backend.prove(files, witness)
    if proof.instances != witness.instances:
        msg = "the proof's instances are not the witness's: the engine is at fault"
        raise BackendError(msg, code="proof-inconsistent")
    try:
        backend.verify(files, proof)
    except VerificationError as exc:
        msg = "the engine made a proof that does not verify: keys or SRS do not match"
        raise BackendError(msg, code="proof-inconsistent") from exc
    return proof


def check_version(backend: ProofSystem, params: ZkmlParams) -> None:
    """Refuse circuits of another version of the engine.

    Raises:
        BackendError: Another version is installed.
    """
    if backend.version != params.system_version:
        msg = (
            f"the circuit was made by {backend.name} {params.system_version}, "
            f"{backend.version} is installed: install that version or "
            "publish the model again"
        )
        raise BackendError(msg, code="engine-version")
