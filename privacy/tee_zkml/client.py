"""What a data owner compares: what the enclave computed with what is proven.

The proofs say what the circuit makes of the input; the enclave, what the model itself
does. The circuit computes in fixed point, so the two differ by about the error that
the manifest states. More than that, and the enclave or the circuit is not what it is
said to be.
"""

from typing import Any

import numpy as np

from privacy.activations import activate
from privacy.bundle import Manifest
from privacy.errors import FormatError, VerificationError
from privacy.modes import Mode

_FACTOR = 4.0
"""How far beyond the error on held-back rows an honest answer may be."""
_LEAST = 2.0**-8


def tolerance(manifest: Manifest) -> float:
    """Return how far outputs may be apart, after the activation.

    Raises:
        NotFoundError: The model does not offer mode tee+zkml.
        FormatError: The manifest states no error.
    """
    stated = manifest.mode(Mode.TEE_ZKML).accuracy.get("max_error")
    if not isinstance(stated, int | float) or isinstance(stated, bool):
        msg = "the manifest's tee+zkml part states no max_error: publish it again"
        raise FormatError(msg, code="bundle-format")
    return _FACTOR * stated + _LEAST


def check_agreement(manifest: Manifest, outputs: Any, proven: Any) -> float:
    """Return how far the enclave's outputs are from the proven ones, at most.

    Args:
        manifest: The model's.
        outputs: The enclave's raw outputs, shape (rows, outputs).
        proven: Those that the proofs prove, of the same shape.

    Raises:
        VerificationError: They are further apart than the published error allows, or
            of another shape.
    """
    ours, theirs = np.asarray(outputs), np.asarray(proven)
    if ours.shape != theirs.shape:
        msg = (
            f"the enclave gave outputs of shape {ours.shape}, proven is {theirs.shape}"
        )
        raise VerificationError(msg, code="answers-differ")
    gap = np.abs(
        activate(ours, manifest.activation) - activate(theirs, manifest.activation)
    )
    found, most = float(gap.max()), tolerance(manifest)
    if not found <= most:
        msg = (
            f"what the enclave computed and what is proven are {found:.3g} apart, at "
            f"most {most:.3g} by the published error: one of the two is not the model"
        )
        raise VerificationError(msg, code="answers-differ")
    return found
