"""Prove rows for real, as a node will, and measure what that takes."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError, VerificationError
from privacy.zkml.blobs import Proof
from privacy.zkml.choose import Circuit
from privacy.zkml.field import MODULUS
from privacy.zkml.prove import prove_row
from privacy.zkml.system import CircuitFiles, ProofSystem


def measure(
    backend: ProofSystem,
    circuit: Circuit,
    rows: Any,
    public: Sequence[str],
    progress: Progress,
) -> tuple[Proof, Json]:
    """Return one of this circuit's proofs, and what proving a row costs.

    Args:
        backend: The proof system.
        circuit: With keys and SRS in place.
        rows: Standardised rows to prove, shape (rows, features).
        public: The files that verifiers fetch.
        progress: Told how far it is.

    Raises:
        BackendError: A proof does not verify, or a changed one does.
    """
    files, bits = circuit.files, circuit.facts.input_scale_bits
    proofs, prove_s, verify_s = [], [], []
    for i, row in enumerate(circuit.inputs(rows)):
        progress({"stage": "prove", "done": i, "total": len(rows)})
        start = time.perf_counter()
        proof = prove_row(backend, files, row, scale_bits=bits)
        prove_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        backend.verify(files, proof)
        verify_s.append(time.perf_counter() - start)
        proofs.append(proof)
    if len({len(p.proof) for p in proofs}) != 1:
        raise BackendError("the engine's proofs of one circuit differ in length")
    _check_refusal(backend, files, proofs[0])
    cost = {
        "latency_s": float(np.median(prove_s)),
        "verify_s": float(np.median(verify_s)),
        "proof_bytes": len(proofs[0].proof),
        "proving_key_bytes": files.proving_key.stat().st_size,
        "verifying_key_bytes": files.verifying_key.stat().st_size,
        "srs_bytes": files.srs.stat().st_size,
        "client_bytes": sum((files.root / n).stat().st_size for n in public),
        "cpus": os.cpu_count() or 1,
    }
    return proofs[0], cost


def _check_refusal(backend: ProofSystem, files: CircuitFiles, proof: Proof) -> None:
    *rest, last = proof.instances
    forged = Proof((*rest, (last + 1) % MODULUS), proof.proof)
    try:
        backend.verify(files, forged)
    except VerificationError:
        return
    msg = "the engine verified a proof whose output was changed: do not use it"
    raise BackendError(msg, code="engine-unsound")
