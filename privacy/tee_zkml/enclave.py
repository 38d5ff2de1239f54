"""The enclave that proves: `python -m privacy.tee_zkml.enclave`; see `privacy.tee`."""

import sys
from pathlib import Path

from privacy.bundle import open_bundle
from privacy.errors import VerificationError
from privacy.tee.enclave import main
from privacy.tee.harden import Limits
from privacy.tee_zkml.program import PROGRAM
from privacy.tee_zkml.proving import Proving


def start_prover(root: Path, *, model_sha256: str, limits: Limits) -> Proving:
    """Return a running prover of the bundle in a folder.

    Raises:
        PrivacyError: It is another bundle, was changed, or its prover cannot start.
    """
    bundle = open_bundle(root, check_files=False)
    if bundle.sha256 != model_sha256:
        msg = f"{root} holds another model than the one asked for: publish it again"
        raise VerificationError(msg, code="bundle-changed")
    return Proving(bundle, limits)


if __name__ == "__main__":
    main(sys.argv[1:], PROGRAM, start_prover)
