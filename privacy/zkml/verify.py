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
    AppraisalError,
    BackendError,
    CannotVerifyError,
    FormatError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.zkml.blobs import Evidence, Proof, parse_evidence
from privacy.zkml.field import MODULUS, dequantize, from_hex, to_hex
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.srs import is_public
from privacy.zkml.system import CircuitFiles, load_backend

PUBLIC_FILES = ("settings.json", "vk.key", "verifier.srs")
"""What a verifier needs of the part `zkml/`, pinned by the manifest."""

_MEMORY_BYTES = 8 << 30


def verify_proofs(
    bundle: Bundle,
    evidence: bytes,
    *,
    rows: Any | None,
    allow_insecure_srs: bool = False,
    timeout_s: float = 120.0,
) -> Any:
    """Return the raw outputs that a job's proofs prove.

    After this a verifier knows, if the SRS comes from the public ceremony: somebody
    holds inputs whose Poseidon hashes are the first instances, and the circuit behind
    this verifying key maps them to these outputs. With `rows` given, those inputs are
    these rows, in this order. The verifier does not know that the circuit is the model
    it was told about (the publisher made both), nor when or by whom the proof was made;
    a proof of an earlier job about the same row is as good. Without `rows`, nothing
    ties the proofs to any input: hashes of guessable rows can be searched, and rows of
    another job would pass.

    Plan:
        1. Parse the evidence, exact to the byte; it must name this model.
        2. Read the verifying files and compare them with the manifest's digests.
        3. In a child process under a wall limit: verify each proof, hash my rows.
        4. Compare the inputs and the weights with the proofs' instances.
        5. See from its own bytes whether the SRS is the public ceremony's.
        6. Decode the outputs from the other instances.

    Args:
        bundle: The model as pinned by its digest; only the public files are read.
        evidence: The evidence blob; see `privacy.zkml.blobs`.
        rows: The standardised input, shape (rows, features), or None.
        allow_insecure_srs: Accept proofs under an SRS that its maker can forge with.
        timeout_s: Wall limit for all proofs together.

    Returns:
        float64, shape (rows, outputs).

    Raises:
        VerificationError: Something was checked and is false; the code says what:
            `evidence-malformed`, `wrong-model`, `wrong-proof-count`, `bundle-changed`,
            `proof-invalid`, `proof-not-about-input`, `proof-not-about-model` or
            `srs-mislabelled`.
        AppraisalError: All is true, but the SRS is `insecure-srs`.
        CannotVerifyError: The engine is missing or failed, or ran out of time; or the
            proofs hide the input that should be compared (`input-hidden`).
        FormatError: `rows` could not have been an input of this circuit.
    """
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    if rows is not None and params.visibility.input == "private":
        msg = "proofs of this model hide the input: nobody can compare it with rows"
        raise CannotVerifyError(msg, code="input-hidden")
    ours = None if rows is None else params.quantize(rows)
    claim = _parse(evidence, params, None if ours is None else len(ours))  # 1
    if claim.model_sha256 != bundle.sha256:
        msg = (
            f"the proofs are of model {claim.model_sha256[:12]}, expected "
            f"{bundle.sha256[:12]}: ask for proofs of this model"
        )
        raise VerificationError(msg, code="wrong-model")
    proofs = claim.proofs
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _pinned_files(bundle, root)  # 2
        job = {"proofs": [p.to_json() for p in proofs], "rows": ours}
        (root / "job.json").write_text(json.dumps(job))
        hashes = _in_child(root, timeout_s)  # 3
        insecure = not is_public((root / "verifier.srs").read_bytes())
    for i, proof in enumerate(proofs):  # 4
        if params.visibility.params == "hashed":
            _check_weights(params, proof)
        if ours is not None:
            _check_input(params, proof, i, ours[i], hashes)
    _appraise_srs(  # 5
        insecure,
        told={params.insecure_srs, claim.insecure_srs},
        allow_insecure_srs=allow_insecure_srs,
    )
    bits = params.output_scale_bits
    return np.array(  # 6
        [dequantize(params.outputs_of(p.instances), scale_bits=bits) for p in proofs],
        dtype=np.float64,
    )


def _check_weights(params: ZkmlParams, proof: Proof) -> None:
    if params.model_hash_of(proof.instances) != int(params.params_hash, 16):
        msg = "a proof is valid, but about other weights than the manifest's"
        raise VerificationError(msg, code="proof-not-about-model")


def _check_input(
    params: ZkmlParams, proof: Proof, i: int, row: list[int], hashes: list[int]
) -> None:
    if params.visibility.input == "public":
        first = params.instances.index("input 1")
        shown = proof.instances[first : first + params.features]
        same = shown == tuple(v % MODULUS for v in row)
    else:
        same = proof.instances[0] == hashes[i]
    if not same:
        msg = (
            f"proof {i + 1} is valid, but about another input than row {i + 1}: "
            "the node answered a different question"
        )
        raise VerificationError(msg, code="proof-not-about-input")


def _appraise_srs(
    insecure: bool,  # noqa: FBT001 - what was found
    *,
    told: set[bool],
    allow_insecure_srs: bool,
) -> None:
    if told != {insecure}:
        truth = "not the public ceremony's" if insecure else "the public ceremony's"
        msg = f"the SRS is {truth}, but the manifest or the proofs say otherwise"
        raise VerificationError(msg, code="srs-mislabelled")
    if insecure and not allow_insecure_srs:
        msg = (
            "the proofs hold, but under an SRS that its maker can forge with: have the "
            "model published under the public ceremony's, or accept that you trust the "
            "publisher with allow_insecure_srs (--allow-insecure-srs)"
        )
        raise AppraisalError(msg, code="insecure-srs")


def _parse(evidence: bytes, params: ZkmlParams, count: int | None) -> Evidence:
    try:
        claim = parse_evidence(
            evidence,
            instances=len(params.instances),
            proof_bytes=params.proof_bytes,
        )
    except FormatError as exc:
        msg = f"the proofs are not as this circuit makes them: {exc.message}"
        raise VerificationError(msg, code="evidence-malformed") from exc
    if count is not None and len(claim.proofs) != count:
        msg = f"there are {len(claim.proofs)} proofs for {count} rows"
        raise VerificationError(msg, code="wrong-proof-count")
    return claim


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
