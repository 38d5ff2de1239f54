"""Write a model as circuits take it best: the same answers, from fewer cells.

Publishing and audits do exactly this, one after the other.
"""

from pathlib import Path
from typing import Any

from privacy.zkml.convolve import convolve
from privacy.zkml.prescale import prescale
from privacy.zkml.saturate import saturate
from privacy.zkml.unroll import unroll


def rewrite(path: Path, low: Any, high: Any) -> tuple[Any, Any]:
    """Rewrite a model in place, and return what to do to its input.

    Args:
        path: The ONNX model, batch of one; see `fix_batch`.
        low: Least value of each feature.
        high: Greatest value of each feature.

    Returns:
        Offset and scale; see `prescale`.
    """
    unroll(path)
    convolve(path, len(low))
    offset, scale = prescale(path, low, high)
    saturate(path, (low - offset) / scale, (high - offset) / scale)
    return offset, scale
