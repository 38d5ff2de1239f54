"""Checks the evidence of a finished job as its data owner would, in a child process.

Proofs and attestations show by themselves what a node did, so nothing has to be run
again: a job whose evidence is false was answered falsely.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from privacy.bundle import Bundle, open_bundle
from privacy.child import Handler, Progress
from privacy.encoding import Json, sha256_hex
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.publisher import signer_of

TARGET = "gateway.quality.evidence:handler"


def handler() -> Handler:
    """Return the child's handler: a finished job's files to what they show, in words.

    It raises `VerificationError` if the evidence is false, and another `PrivacyError`
    if that could not be found out.
    """
    return _check


def _check(request: Json, progress: Progress) -> Json:
    progress({"stage": "check evidence"})
    mode = Mode(request["mode"])
    bundle = open_bundle(Path(request["bundle"]), check_files=False)
    if bundle.sha256 != request["model_sha256"] or (
        signer_of(bundle) != request["publisher"]
    ):
        raise CannotVerifyError("the bundle was replaced since", code="model-changed")
    blobs = {name: _blob(request, name) for name in ("input", "output", "evidence")}
    if mode is Mode.ZKML:
        detail = _proofs(bundle, blobs)
    else:
        detail = _attestation(bundle, mode, request, blobs["evidence"])
    return {"detail": detail}


@contextmanager
def _made_by_the_node() -> Iterator[None]:
    """Blame who made the bytes that are malformed; a policy's refusal blames nobody."""
    try:
        yield
    except FormatError as exc:
        raise VerificationError(exc.message, code=exc.code) from exc
    except AppraisalError as exc:
        raise CannotVerifyError(exc.message, code=exc.code) from exc


def _blob(request: Json, name: str) -> bytes:
    path, expected = Path(request[name]), request[f"{name}_sha256"]
    raw = path.read_bytes() if path.is_file() else b""
    if sha256_hex(raw) != expected:
        msg = f"the {name} is not here any more: it cannot be checked"
        raise CannotVerifyError(msg, code="missing-file")
    return raw


def _proofs(bundle: Bundle, blobs: dict[str, bytes]) -> str:
    """Check that proofs are of this input, and prove this output."""
    import numpy as np

    from privacy.client.zkml_session import (
        compare_outputs,
        verified_outputs,
        weaknesses,
    )
    from privacy.zkml.blobs import parse_input
    from privacy.zkml.params import is_salted

    columns = len(bundle.manifest.columns)
    rows, salt = parse_input(blobs["input"], columns=columns)
    hidden = "input-hidden" in weaknesses(bundle)
    used = salt if is_salted(bundle) else b""
    with _made_by_the_node():
        raw = verified_outputs(
            bundle,
            blobs["evidence"],
            None if hidden else np.asarray(rows),
            salt=used,
            allow_insecure_srs=True,  # whom to trust with it is the client's affair
        )
        compare_outputs(blobs["output"], raw)
    return f"{len(raw)} proofs verify, of this input and this output"


def _attestation(bundle: Bundle, mode: Mode, request: Json, evidence: bytes) -> str:
    """Check that the attested enclave signed for this input and this output."""
    from privacy.client.context import param
    from privacy.client.tee_session import circuit_of
    from privacy.tee.client import verify_job_evidence
    from privacy.tee.collateral import kept_in

    reference = param(bundle, mode, "measurements", dict)
    circuit_sha256 = circuit_of(bundle, mode)
    with _made_by_the_node():
        result = verify_job_evidence(
            evidence,
            reference=reference,
            model_sha256=bundle.sha256,
            input_sha256=request["input_sha256"],
            output_sha256=request["output_sha256"],
            collateral=kept_in(Path(request["collateral"])),
            allow_simulated=bool(request["simulated"]),
            now=datetime.fromisoformat(request["finished_at"]),
            circuit_sha256=circuit_sha256,
        )
    if result.simulated != request["simulated"]:
        msg = "job and evidence disagree on whether the enclave is simulated"
        raise VerificationError(msg, code="receipt-mismatch")
    return "the attested enclave signed this input and this output"
