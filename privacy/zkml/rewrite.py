"""Write a model as circuits take it best: the same answers, from fewer cells.

Publishing and audits do exactly this, one after the other. Whoever changes what becomes
of any model raises `CIRCUIT_FORMAT`: audits then say of earlier bundles that another
release made them, and not that they are false.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.zkml.convolve import convolve
from privacy.zkml.doubles import double
from privacy.zkml.prescale import one_scale, prescale
from privacy.zkml.read_trees import read_trees
from privacy.zkml.saturate import saturate
from privacy.zkml.unroll import unroll
from privacy.zkml.walk_trees import walk_trees

CIRCUIT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a rewritten model takes and gives.

    Attributes:
        offset: Per feature: it takes (x - offset) / scale; see `prescale`.
        scale: Per feature, a power of two.
        output_bits: Its outputs are 2**output_bits times the model's; see `double`.
    """

    offset: Any
    scale: Any
    output_bits: int = 0


def rewrite(path: Path, low: Any, high: Any) -> Rewritten:
    """Rewrite a model in place, and return what to do to its input and outputs.

    Args:
        path: The ONNX model, batch of one; see `fix_batch`.
        low: Least value of each feature.
        high: Greatest value of each feature.
    """
    if trees := read_trees(path):
        offset, scale = one_scale(low, high)
        walk_trees(path, trees, offset, scale)
        return Rewritten(offset, scale)
    unroll(path)
    bits = double(path, len(low))
    convolve(path, len(low))
    offset, scale = prescale(path, low, high)
    saturate(path, (low - offset) / scale, (high - offset) / scale)
    return Rewritten(offset, scale, bits)
