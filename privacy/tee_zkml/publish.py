"""What the manifest says of mode tee+zkml: it stands on the parts of the two others."""

from collections.abc import Mapping
from pathlib import Path

from privacy.bundle import ModePart
from privacy.modes import Mode
from privacy.tee.measure import measure
from privacy.tee.wire import MODEL
from privacy.tee_zkml.program import PROGRAM


def compose(root: Path, parts: Mapping[str, ModePart]) -> ModePart:
    """Return the part of mode tee+zkml; it has no files of its own.

    Accuracy and cost are those of mode zkml: the proven answer is the answer, and
    proving it is what takes time and memory.

    Args:
        root: The bundle's folder.
        parts: Those of the other modes.
    """
    for mode in Mode.TEE_ZKML.parts:
        if not parts[mode].available:
            reason = f"mode {mode} does not serve it: {parts[mode].reason}"
            return ModePart(available=False, reason=reason)
    zkml = parts[Mode.ZKML]
    return ModePart(
        available=True,
        accuracy=zkml.accuracy,
        cost=zkml.cost,
        params={
            "measurements": measure(root / Mode.TEE / MODEL, PROGRAM).as_dict(),
            "insecure_srs": zkml.params["insecure_srs"],
        },
    )
