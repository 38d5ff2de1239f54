"""From standardised features to the circuit's integers, and from its integers back.

Plain numpy on plain numbers, in Concrete-ML's own order of operations, so that results
agree with it bit for bit.

What clients learn: Concrete-ML's own client file holds the training data's minima and
maxima; ours does not, but scale, zero point and bounds of a linear model or a network
still give roughly the range of all calibrated values. A tree model's quantizers give
the lowest and the highest threshold of each feature, and show which it ignores. A dense
network's of our own give two quantiles of each feature, by default at 2 and 98 %.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.leaf_tables import LeafTable, leaf_sums, parse_table, table_to_json
from privacy.fhe.thermometer import Edges, edges_to_json, thermometer

_MOST_INTEGER = 1 << 53
"""All whole numbers to here are floats."""


@dataclass(frozen=True, slots=True)
class Quantizer:
    """`clip(round(x / scale + zero_point), low, high)` for one feature, or for all."""

    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class OutputSteps:
    """From the circuit's integers to the model's raw outputs.

    `scale * (integers - zero_point)`, summed over the last axis if `sum_last` (the
    trees of an ensemble), plus `add`.

    Attributes:
        zero_point: One number, or one for each output; a network's last bias is
            folded into it, so it need not be whole.
        add: One number for each output.
    """

    scale: float
    zero_point: tuple[float, ...]
    sum_last: bool
    add: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SumSteps:
    """From a circuit's sums to the model's raw outputs: `scale * sums + offset`.

    Attributes:
        scale: One number for each sum.
        offset: Likewise.
        complement: The sums are probabilities of all classes but the first, which has
            what they leave of 1. Of what rounding took below 0 nothing is left, and all
            are then divided by their sum.
        mirror: There is one sum, half the difference of two outputs, of which nothing
            else matters; the first output is its negative.
        trees: The circuit gives no sums but the number of each tree's leaf, and these
            say what the leaves add to the sums.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    complement: bool
    mirror: bool = False
    trees: tuple[LeafTable, ...] = ()


def quantize(rows: Floats, quantizers: Sequence[Quantizer] | Sequence[Edges]) -> Ints:
    """Return integers the circuit computes on; values out of range are clipped.

    Args:
        rows: Standardised features, (rows, features), finite.
        quantizers: One for all features, or one for each; or the edges of each.
    """
    edges = [q for q in quantizers if isinstance(q, Edges)]
    return thermometer(rows, edges) if edges else _affine(rows, quantizers)


def find_clipped(
    rows: Floats,
    quantizers: Sequence[Quantizer] | Sequence[Edges],
    output: OutputSteps | SumSteps,
) -> Ints:
    """Return the places of values beyond what a circuit tells apart, (values, 2).

    None of trees': beyond the last threshold of a feature values are alike to them.

    Args:
        rows: As of `quantize`.
        quantizers: Likewise.
        output: Of the same circuit; Concrete-ML's trees are those that are summed.
    """
    affine = [q for q in quantizers if isinstance(q, Quantizer)]
    if not affine or (isinstance(output, OutputSteps) and output.sum_last):
        return np.empty((0, 2), dtype=np.int64)
    return np.argwhere(_steps(rows, affine) != _affine(rows, affine))


def _affine(rows: Floats, quantizers: Sequence[Any]) -> Ints:
    low, high = [q.low for q in quantizers], [q.high for q in quantizers]
    found = _steps(rows, quantizers)
    clipped: Ints = found.clip(np.array(low), np.array(high)).astype(np.int64)
    return clipped


def _steps(rows: Floats, quantizers: Sequence[Any]) -> Floats:
    scale = np.array([q.scale for q in quantizers])
    zero_point = np.array([q.zero_point for q in quantizers])
    found: Floats = np.rint(rows / scale + zero_point)
    return found


def raw_outputs(integers: Ints | Floats, steps: OutputSteps | SumSteps) -> Floats:
    """Return the model's raw outputs, (rows, outputs), from the circuit's integers.

    Raises:
        FormatError: They are as many as the steps are not for; or they are numbers of
            leaves, and there is no such leaf.
    """
    if isinstance(steps, SumSteps):
        wanted = len(steps.trees) or len(steps.scale)
        if integers.shape[1:] != (wanted,):
            msg = (
                f"a row's result has shape {integers.shape[1:]}, expected ({wanted},): "
                "fetch the model's client.json again"
            )
            raise FormatError(msg, code="fhe-result-mismatch")
        if steps.trees:
            integers = leaf_sums(steps.trees, integers.astype(np.int64))
        sums: Floats = np.array(steps.scale) * integers + np.array(steps.offset)
        if not (steps.complement or steps.mirror):
            return sums
        if steps.mirror:
            return np.concatenate([-sums, sums], axis=1)
        # `cumsum` adds one after the other, on every machine.
        whole = np.cumsum(sums, axis=1)[:, -1:]
        shares = np.maximum(np.concatenate([1.0 - whole, sums], axis=1), 0.0)
        found: Floats = shares / np.cumsum(shares, axis=1)[:, -1:]
        return found
    zero_point = np.array(steps.zero_point, dtype=np.float64)
    values: Floats = steps.scale * (integers - zero_point)
    if steps.sum_last:
        values = np.sum(values, axis=-1)
    out: Floats = values.reshape(len(integers), -1) + np.array(steps.add)
    return out


def quantizer_to_json(quantizer: Quantizer | Edges) -> Json:
    """Return a quantizer as JSON."""
    if isinstance(quantizer, Edges):
        return edges_to_json(quantizer)
    return asdict(quantizer)


def parse_quantizer(value: Json) -> Quantizer:
    """Return the quantizer that `quantizer_to_json` described.

    Raises:
        FormatError: It is not one.
    """
    try:
        found = Quantizer(**{**value, "scale": _number(value["scale"])})
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError("the circuit's input quantizer is malformed") from exc
    whole = all(type(v) is int for v in (found.zero_point, found.low, found.high))
    if not whole or not found.scale > 0 or not found.low < found.high:
        raise FormatError("the circuit's input quantizer is malformed")
    return found


def parse_steps(value: Json) -> OutputSteps:
    """Return the output steps in client.json.

    Raises:
        FormatError: They are malformed.
    """
    try:
        found = OutputSteps(
            **{
                **value,
                "scale": _number(value["scale"]),
                "zero_point": tuple(map(_number, value["zero_point"])),
                "add": tuple(map(_number, value["add"])),
            }
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError("the circuit's output steps are malformed") from exc
    is_flag = type(value["sum_last"]) is bool
    if not (is_flag and found.zero_point and found.add and found.scale > 0):
        raise FormatError("the circuit's output steps are malformed")
    return found


def steps_to_json(steps: OutputSteps | SumSteps) -> Json:
    """Return output steps as JSON."""
    found = asdict(steps)
    if isinstance(steps, SumSteps):
        found["trees"] = [table_to_json(table) for table in steps.trees]
        if not steps.trees:
            del found["trees"]  # which earlier versions do not know
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def parse_sums(value: Json) -> SumSteps:
    """Return the output steps of a circuit that sums.

    Raises:
        FormatError: They are malformed.
    """
    try:
        scale = tuple(map(_number, value["scale"]))
        offset = tuple(map(_number, value["offset"]))
        trees = value.get("trees", [])
        tables = tuple(parse_table(t, outputs=len(scale)) for t in trees)
        found = SumSteps(**{**value, "scale": scale, "offset": offset, "trees": tables})
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError("the circuit's output steps are malformed") from exc
    flags = found.complement, found.mirror
    as_many = len(scale) == len(offset) and (len(scale) == 1 or not found.mirror)
    are_flags = all(type(f) is bool for f in flags) and flags != (True, True)
    if not (
        are_flags and isinstance(trees, list) and scale and as_many and min(scale) > 0
    ):
        raise FormatError("the circuit's output steps are malformed")
    return found


def _number(value: object) -> float:
    """Return a JSON number as a float.

    Raises:
        ValueError: It is none, or not finite.
    """
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) <= _MOST_INTEGER:
        return float(value)
    raise ValueError("not a finite number")
