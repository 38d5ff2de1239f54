"""From a feature to one bit for each of its edges: is it above?

The bits of one feature are ones up to some place and zeros after it, like a
thermometer. A circuit that takes them reads a comparison as one bit, for nothing.

What clients learn: the edges. Those of a circuit that hides its splits are quantiles of
the calibration rows, the same whatever the model; those of one that does not are the
model's own thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.backend import Floats, Ints

_MAX_EDGES = 1 << 16


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of one feature, ascending, each a float32; there may be none."""

    edges: tuple[float, ...]


def thermometer(rows: Floats, features: Sequence[Edges]) -> Ints:
    """Return one bit an edge, (rows, edges of all features): is the feature above it?

    Features are compared in float32, as scikit-learn and XGBoost compare them.

    Args:
        rows: Standardised features, (rows, features), finite.
        features: The edges of each feature.
    """
    limit = np.finfo(np.float32)
    narrow = np.clip(rows, limit.min, limit.max).astype(np.float32)
    columns = [
        narrow[:, [i]] > np.array(f.edges, dtype=np.float32)
        for i, f in enumerate(features)
    ]
    return np.concatenate(columns, axis=1).astype(np.int64)


def edges_to_json(edges: Edges) -> Json:
    """Return a feature's edges as JSON."""
    return {"edges": list(edges.edges)}


def parse_edges(value: Json) -> Edges:
    """Return the edges that `edges_to_json` described.

    Raises:
        FormatError: They are not finite, ascending float32 numbers.
    """
    found: Any = value.get("edges") if hasattr(value, "get") else None
    usable = (
        isinstance(found, list)
        and len(value) == 1
        and len(found) <= _MAX_EDGES
        and all(type(e) in {int, float} and _is_float32(e) for e in found)
        and all(a < b for a, b in pairwise(found))
    )
    if not usable:
        msg = "the circuit's edges are not finite, ascending float32 numbers"
        raise FormatError(msg, code="fhe-spec-malformed")
    return Edges(tuple(float(e) for e in value["edges"]))


def _is_float32(value: float) -> bool:
    """Return whether a JSON number is a finite float32, exactly."""
    limit = float(np.finfo(np.float32).max)
    return -limit <= value <= limit and float(np.float32(value)) == value
