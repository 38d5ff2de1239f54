"""Check a job's proofs, as a client or as anyone who holds the public files."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle
from privacy.child import ChildDied, Handler, Progress, run_in_child
from privacy.encoding import Json, sha256_hex
from privacy.errors import (
    BackendError,
    CannotVerifyError,
    FormatError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.field import dequantize, from_hex, to_hex
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.system import CircuitFiles, load_backend

PUBLIC_FILES = ("settings.json", "vk.key", "verifier.srs")
"""What a verifier needs of the part `zkml/`, pinned by the manifest."""

_MEMORY_BYTES = 8 << 30


def verify_proofs(
    bundle: Bundle, evidence: bytes, *, rows: Any | None, timeout_s: float = 120.0
) -> Any:
    """Return the raw outputs that a job's proofs prove.

    After this a verifier knows, as far as the SRS can be trusted (`params["srs"]`):
    somebody holds inputs whose Poseidon hashes are the first instances, and the circuit
    behind this verifying key maps them to these outputs. With `rows` given, those
    inputs are these rows, in this order. The verifier does not know that the circuit is
    the model it was told about (the publisher made both), nor when or by whom the
    proof was made; a proof of an earlier job about the same row is as good. Without
    `rows`, nothing ties the proofs to any input: hashes of guessable rows can be
    searched, and rows of another job would pass.

    Plan:
        1. Parse the evidence, exact to the byte.
        2. Read the verifying files and compare them with the manifest's digests.
        3. In a child process under a wall limit: verify each proof, hash my rows.
        4. Compare the hashes with the proofs' first instances.
        5. Decode the outputs from the other instances.

    Args:
        bundle: The model as pinned by its digest; only the public files are read.
        evidence: The evidence blob; see `privacy.zkml.blobs`.
        rows: The standardised input, shape (rows, features), or None.
        timeout_s: Wall limit for all proofs together.

    Returns:
        float64, shape (rows, outputs).

    Raises:
        VerificationError: Something was checked and is false; the code says what:
            `evidence-malformed`, `wrong-proof-count`, `bundle-changed`,
            `proof-invalid` or `proof-not-about-input`.
        CannotVerifyError: The engine is missing or failed, or ran out of time.
        FormatError: `rows` could not have been an input of this circuit.
    """
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    ours = None if rows is None else params.quantize(rows)
    proofs = _parse(evidence, params, None if ours is None else len(ours))  # 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _pinned_files(bundle, root)  # 2
        job = {"proofs": [p.to_json() for p in proofs], "rows": ours}
        (root / "job.json").write_text(json.dumps(job))
        hashes = _in_child(root, timeout_s)  # 3
    for i, (proof, own) in enumerate(zip(proofs, hashes, strict=False)):  # 4
        if proof.instances[0] != own:
            msg = (
                f"proof {i + 1} is valid, but about another input than row {i + 1}: "
                "the node answered a different question"
            )
            raise VerificationError(msg, code="proof-not-about-input")
    bits = params.output_scale_bits
    return np.array(  # 5
        [dequantize(list(p.instances[1:]), scale_bits=bits) for p in proofs],
        dtype=np.float64,
    )


def _parse(evidence: bytes, params: ZkmlParams, count: int | None) -> list[Proof]:
    try:
        proofs = parse_evidence(
            evidence,
            instances=len(params.instances),
            proof_bytes=params.proof_bytes,
        )
    except FormatError as exc:
        msg = f"the proofs are not as this circuit makes them: {exc.message}"
        raise VerificationError(msg, code="evidence-malformed") from exc
    if count is not None and len(proofs) != count:
        msg = f"there are {len(proofs)} proofs for {count} rows"
        raise VerificationError(msg, code="wrong-proof-count")
    return proofs


def _pinned_files(bundle: Bundle, root: Path) -> None:
    """Copy the verifying files, so that what was checked is what is used."""
    for name in PUBLIC_FILES:
        try:
            raw = bundle.path(f"zkml/{name}").read_bytes()
            expected = bundle.manifest.files[f"zkml/{name}"].sha256
        except (NotFoundError, OSError) as exc:
            msg = f"zkml/{name} is not here: download the model's public files"
            raise CannotVerifyError(msg, code="verifier-file-missing") from exc
        if sha256_hex(raw) != expected:
            msg = (
                f"zkml/{name} is {sha256_hex(raw)[:12]}, expected {expected[:12]}: "
                "the bundle was changed; download it again"
            )
            raise VerificationError(msg, code="bundle-changed")
        (root / name).write_bytes(raw)


def _in_child(root: Path, timeout_s: float) -> list[int]:
    try:
        answer = run_in_child(
            "privacy.zkml.verify:handler",
            {"root": str(root)},
            timeout_s=timeout_s,
            memory_bytes=_MEMORY_BYTES,
        )
    except ChildDied as exc:
        msg = f"the proof engine gave no answer within {timeout_s:g} s: {exc.message}"
        raise CannotVerifyError(msg, code="verify-died") from exc
    except UnavailableError as exc:
        raise CannotVerifyError(exc.message, code=exc.code) from exc
    except BackendError as exc:
        msg = f"the proof engine failed: {exc.message}"
        raise CannotVerifyError(msg, code="verify-failed") from exc
    return [from_hex(h, what="an input hash") for h in answer["input_hashes"]]


def handler() -> Handler:
    """Return what the verifying child serves; see `_in_child`."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        files = CircuitFiles(Path(request["root"]))
        job = json.loads((files.root / "job.json").read_text())
        for i, item in enumerate(job["proofs"]):
            felts = [from_hex(f, what="an instance") for f in item["instances"]]
            backend.verify(files, Proof(tuple(felts), bytes.fromhex(item["proof"])))
            progress({"stage": "verify", "done": i + 1, "total": len(job["proofs"])})
        hashes = [to_hex(backend.hash_input(row)) for row in job["rows"] or []]
        return {"input_hashes": hashes}

    return serve
