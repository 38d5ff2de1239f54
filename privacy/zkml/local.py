"""Prove on one's own machine: the input goes nowhere, the proofs may go anywhere."""

import tempfile
from pathlib import Path
from typing import Any

from privacy.bundle import Bundle, open_bundle
from privacy.child import Handler, Progress, run_in_child
from privacy.encoding import Json
from privacy.errors import CannotVerifyError, FormatError
from privacy.zkml.blobs import make_input
from privacy.zkml.params import is_salted
from privacy.zkml.runner import Runner

_NO_SALT = bytes(32)
"""The blob never leaves this machine, so its digest may be guessable."""


def prove_rows(
    bundle: Bundle,
    rows: Any,
    *,
    salt: bytes | None = None,
    timeout_s: float = 3600.0,
    progress: Progress = lambda _: None,
) -> bytes:
    """Return proofs of a model's answers about rows, as evidence for anyone to check.

    Args:
        bundle: The whole model, proving key included.
        rows: Standardised features, shape (rows, features).
        salt: 32 random bytes, which salted circuits commit to; keep them for whoever
            shall check that the proofs are about these rows.
        timeout_s: Wall limit for all rows.
        progress: Told how far it is.

    Raises:
        FormatError: The rows are malformed or out of the circuit's range, or a salted
            circuit was given no salt.
        CannotVerifyError: The bundle holds public files only.
        BackendError: The engine failed.
    """
    if not bundle.path("zkml/pk.key").is_file():
        msg = "the proving key is not here: proving needs the publisher's whole folder"
        raise CannotVerifyError(msg, code="no-proving-key")
    if salt is None and is_salted(bundle):
        msg = "this model's proofs are salted: give 32 random bytes as salt"
        raise FormatError(msg, code="salt-missing")
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "input", Path(scratch) / "evidence"
        given.write_bytes(make_input(rows, salt=salt or _NO_SALT))
        run_in_child(
            "privacy.zkml.local:handler",
            {"bundle": str(bundle.root), "input": str(given), "evidence": str(made)},
            timeout_s=timeout_s,
            progress=progress,
        )
        return made.read_bytes()


def handler() -> Handler:
    """Return what serves one call of `prove_rows` in a child process."""

    def serve(request: Json, progress: Progress) -> Json:
        runner = Runner(open_bundle(Path(request["bundle"]), check_files=False))
        result = runner.run(Path(request["input"]).read_bytes(), None, progress)
        Path(request["evidence"]).write_bytes(result.evidence)
        return {}

    return serve
