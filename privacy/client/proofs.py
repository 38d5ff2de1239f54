"""Check a file of proofs alone: no receipt, no gateway, no network."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privacy.bundle import Bundle, open_bundle, standardise
from privacy.client.answer import Check, Row, answer_rows
from privacy.client.home import Home
from privacy.client.model import Notify, label
from privacy.client.offline import salt_beside
from privacy.client.rows import read_rows
from privacy.client.zkml_session import proof_caveats, verified_outputs
from privacy.encoding import Json, finite_rows
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.runs import MAX_ROWS

MAX_PROOF_FILE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class ProvenAnswer:
    """What a file of proofs proves; whatever is false raised instead.

    Attributes:
        rows: The proven outputs, and what they say.
        checks: What was verified.
        caveats: What weakens it: an insecure SRS, no input to compare.
    """

    model: str
    model_sha256: str
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    caveats: tuple[str, ...]

    def as_dict(self) -> Json:
        """Return everything JSON-ready."""
        return asdict(self)


def verify_proof_file(
    path: Path,
    *,
    home: Home,
    bundle: Path | None = None,
    model_sha256: str | None = None,
    rows: Path | None = None,
    salt: bytes | None = None,
    allow_insecure_srs: bool = False,
) -> ProvenAnswer:
    """Return what the proofs in a file prove.

    Args:
        path: The evidence of a job, or proofs made by `privacy zk prove`.
        home: Where fetched models are.
        bundle: The model's folder, instead of one in `home`.
        model_sha256: The model that the proofs must be of; else the file names it.
        rows: A file of raw rows that the proofs must be about, or None.
        salt: Of the job that they must be about, where the model's proofs are salted;
            else what lies beside the file, as PATH.salt.
        allow_insecure_srs: Accept proofs under an SRS that its maker can forge with.

    Raises:
        VerificationError: Something is false; see `privacy.zkml.verify_proofs`.
        CannotVerifyError: The model's files, the engine, usable rows or an allowance
            are missing.
    """
    evidence = _read(path)
    found = _bundle(evidence, home, bundle, model_sha256)
    given = None if rows is None else _standard_rows(found, rows)
    try:
        raw = verified_outputs(
            found,
            evidence,
            given,
            salt=salt or salt_beside(path),
            allow_insecure_srs=allow_insecure_srs,
        )
    except FormatError as exc:
        msg = f"the input cannot be compared: {exc.message}"
        raise CannotVerifyError(msg, code="unusable-input") from exc
    except AppraisalError as exc:  # the proofs hold: nothing is false
        raise CannotVerifyError(exc.message, code=exc.code) from exc
    checks = [
        Check("model", f"{label(found)}, sha256 {found.sha256}"),
        Check("proof", f"{len(raw)} proofs verify under the pinned verifying key"),
    ]
    caveats = proof_caveats(found)
    if given is None:
        caveats += ("without --input nothing ties the proofs to any input",)
    else:
        checks.append(Check("proof-input", "the proofs are about these rows"))
    return ProvenAnswer(
        model=label(found),
        model_sha256=found.sha256,
        rows=answer_rows(found.manifest, raw),
        checks=tuple(checks),
        caveats=caveats,
    )


def prove_file(
    bundle: Path, rows: Path, *, salt: bytes | None = None, progress: Notify
) -> tuple[bytes, bytes]:
    """Return proofs of a model's answers about a file of raw rows, and their salt.

    Args:
        bundle: The model, proving key included.
        rows: The file.
        salt: 32 bytes for proofs that are salted; random by default.
        progress: Told how far it is.

    Returns:
        The evidence, and the salt that it is about: empty if it is not salted.

    Raises:
        FormatError: The rows cannot be an input of this model.
        CannotVerifyError: The bundle lacks the proving key.
        BackendError: The engine failed.
    """
    from privacy.zkml.local import prove_rows
    from privacy.zkml.params import is_salted

    model = open_bundle(bundle, check_files=False)
    columns = model.manifest.columns
    plain = read_rows(rows, [c.name for c in columns])
    checked = finite_rows(plain, columns=len(columns), max_rows=MAX_ROWS)
    salted = is_salted(model)
    used = (salt or os.urandom(32)) if salted else b""
    proven = standardise(checked, columns)
    return prove_rows(model, proven, salt=used or None, progress=progress), used


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_PROOF_FILE_BYTES + 1)
    if len(raw) > MAX_PROOF_FILE_BYTES:
        msg = f"{path.name} has more than {MAX_PROOF_FILE_BYTES} bytes: no such proofs"
        raise VerificationError(msg, code="evidence-malformed")
    return raw


def _bundle(
    evidence: bytes, home: Home, root: Path | None, model_sha256: str | None
) -> Bundle:
    from privacy.zkml.blobs import claimed_model

    try:
        claimed = claimed_model(evidence)
    except FormatError as exc:
        msg = f"this is no file of proofs: {exc.message}"
        raise VerificationError(msg, code="evidence-malformed") from exc
    if model_sha256 is not None and claimed != model_sha256:
        msg = f"the proofs are of model {claimed[:12]}, expected {model_sha256[:12]}"
        raise VerificationError(msg, code="wrong-model")
    try:
        bundle = open_bundle(root or home.model(claimed), check_files=False)
        bundle.manifest.mode(Mode.ZKML)
    except (PrivacyError, OSError) as exc:
        msg = (
            f"the public files of model {claimed[:12]} are not here: name their folder "
            "with --bundle, or get them with `privacy models NAME --fetch`"
        )
        raise CannotVerifyError(msg, code="missing-model") from exc
    if root is None and bundle.sha256 != claimed:
        msg = f"{bundle.root} holds another model than its name says: fetch it again"
        raise CannotVerifyError(msg, code="missing-model")
    return bundle


def _standard_rows(bundle: Bundle, path: Path) -> Any:
    columns = bundle.manifest.columns
    try:
        plain = read_rows(path, [c.name for c in columns])
        rows = finite_rows(plain, columns=len(columns), max_rows=MAX_ROWS)
    except FormatError as exc:
        msg = f"the input cannot be compared: {exc.message}"
        raise CannotVerifyError(msg, code="unusable-input") from exc
    return standardise(rows, columns)
