"""Plan a circuit for a dense network: whole numbers, one table look-up a neuron.

1. Each feature has its own steps over its calibrated range; the client counts them.
2. A neuron's sum of whole weights times steps is a linear function, nearly free under
   FHE however wide. Its weights are scaled so that the sum of any input in range runs
   from 0 to just below `2**sum_bits`: no input can overflow it.
3. A look-up reads the sum's uppermost `table_bits` bits, rounded, and gives the
   neuron's activation, in whole steps: the next layer's input.
4. The last layer's sums are decrypted. Where each neuron feeds one output only, its
   look-up holds the weighted activation, and the weights vanish.

Rounding is approximate: near the middle between two entries of a table, noise decides
which of the two is read. `between` says what can come of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.dense import Layer
from privacy.fhe.quantizers import Quantizer, SumSteps, quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How precise a circuit is.

    Attributes:
        input_bits: Of a feature.
        sum_bits: Of a neuron's sum before rounding, in the first layer.
        table_bits: Of a sum after rounding.
        value_bits: Of what a look-up gives.
        weight_bits: Of the weights between look-ups, and after the last: a sum of `n`
            values has `value_bits + weight_bits + log2(n)` bits. More cost more, since
            the values come noisy from look-ups. One output has no weights left.
        clip: Quantile of a feature's calibrated values where its range ends, and
            1 - clip where it begins; the client clips what lies beyond.
    """

    input_bits: int
    sum_bits: int
    table_bits: int
    value_bits: int
    weight_bits: int
    clip: float

    def inner_bits(self, values: int, *, weighted: bool = True) -> int:
        """Return the bits of a sum of values that look-ups gave."""
        weight_bits = self.weight_bits if weighted else 0
        return self.value_bits + weight_bits + (values - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Neurons:
    """One layer of whole numbers: `tables[j][round((x @ weights + constant) / unit)]`.

    Attributes:
        weights: Shape (inputs, neurons).
        constant: Makes the least sum 0, (neurons,).
        sum_bits: All sums are from 0 to below `2**sum_bits`.
        tables: Shape (neurons, 2**table_bits); None for the last layer.
    """

    weights: Ints
    constant: Ints
    sum_bits: int
    tables: Ints | None

    @property
    def unit(self) -> int:
        """How many sums one entry of a table stands for."""
        if self.tables is None:
            return 1
        return int((1 << self.sum_bits) // self.tables.shape[1])

    def sums(self, values: Ints) -> Ints:
        """Return the sums, (rows, neurons)."""
        found: Ints = values @ self.weights + self.constant
        return found

    def look_up(self, sums: Ints) -> Ints:
        """Return what the tables hold for sums, rounded exactly; sums if none."""
        if self.tables is None:
            return sums
        at = (sums + self.unit // 2) // self.unit
        found: Ints = self.tables[np.arange(len(self.tables)), at]
        return found


@dataclass(frozen=True, slots=True)
class DensePlan:
    """A network on whole numbers; `output` leads back to raw outputs."""

    quantizers: tuple[Quantizer, ...]
    layers: tuple[Neurons, ...]
    output: SumSteps
    shape: Shape

    @property
    def look_ups(self) -> int:
        """How many table look-ups a row takes."""
        return sum(len(n.tables) for n in self.layers if n.tables is not None)


def evaluate(plan: DensePlan, values: Ints) -> Ints:
    """Return the circuit's integers, (rows, outputs), rounded exactly."""
    for layer in plan.layers:
        values = layer.look_up(layer.sums(values))
    return values


def between(plan: DensePlan, values: Ints) -> tuple[Ints, Ints]:
    """Return the least and greatest integers if every rounding may miss by one."""
    low = high = values
    for layer in plan.layers:
        up, down = np.maximum(layer.weights, 0), np.minimum(layer.weights, 0)
        low, high = low @ up + high @ down, high @ up + low @ down
        low, high = low + layer.constant, high + layer.constant
        if layer.tables is not None:
            low, high = _read(layer.tables, low // layer.unit, -(-high // layer.unit))
    return low, high


def _read(tables: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return the least and the greatest of each table's entries in a range."""
    neurons, size = tables.shape
    least, most = np.empty_like(first), np.empty_like(first)
    for j in range(neurons):
        for i, (a, b) in enumerate(zip(first[:, j], last[:, j], strict=True)):
            seen = tables[j, max(a, 0) : min(b, size - 1) + 1]
            least[i, j], most[i, j] = seen.min(), seen.max()
    return least, most


@dataclass(frozen=True, slots=True)
class _Steps:
    """What a layer's whole numbers stand for: `scale * values + base`.

    Attributes:
        top: The greatest value of each; the least is 0.
        values: Those of the calibration rows.
        clear: What the clear network has in their place.
    """

    scale: Floats
    base: Floats
    top: Ints
    values: Ints
    clear: Floats


def plan_dense(
    layers: Sequence[Layer], calibration: Floats, shape: Shape, *, mirror: bool
) -> DensePlan:
    """Return a network's plan.

    Args:
        layers: As `privacy.fhe.dense.read_dense` gives them.
        calibration: Standardised rows, (rows, features).
        shape: How precise it is to be.
        mirror: Only the difference of two outputs matters: compute that, once.

    Raises:
        BackendError: It has no activation, or nothing depends on the input.
    """
    *hidden, last = layers
    if not hidden:
        msg = "the network has no activation: it is linear"
        raise BackendError(msg, code="fhe-not-dense")
    if mirror:
        half = np.array([[-0.5], [0.5]])
        last = Layer(last.weights @ half, last.bias @ half[:, 0:1], None)
    one = last.weights.shape[1] == 1
    if one:
        hidden[-1], last = _folded(hidden[-1], last)
    quantizers, steps = _input_steps(calibration, shape)
    made: list[Neurons] = []
    for i, layer in enumerate(hidden):
        width = len(steps.top)
        inner = max(shape.inner_bits(width), shape.table_bits)
        sum_bits = inner if i else shape.sum_bits
        alone = one and i == len(hidden) - 1
        outputs = layer.weights.shape[1]
        total = shape.inner_bits(outputs, weighted=False) if alone else None
        neurons, steps = _hidden(layer, steps, shape, sum_bits, total)
        made.append(neurons)
    bits = shape.inner_bits(len(steps.top), weighted=not one)
    neurons, output = _last(last, steps, bits, one=one)
    return DensePlan(
        quantizers, (*made, neurons), replace(output, mirror=mirror), shape
    )


def _folded(layer: Layer, last: Layer) -> tuple[Layer, Layer]:
    """Move the weights of the only output into the activation before it."""
    apply, weights = layer.activation or _same, last.weights[:, 0]
    ones = np.ones_like(last.weights)
    return (
        replace(layer, activation=lambda x: apply(x) * weights),
        Layer(ones, last.bias, None),
    )


def _same(x: Floats) -> Floats:
    return x


def _input_steps(
    calibration: Floats, shape: Shape
) -> tuple[tuple[Quantizer, ...], _Steps]:
    low = np.quantile(calibration, 1 - shape.clip, axis=0)
    high = np.quantile(calibration, shape.clip, axis=0)
    top = (1 << shape.input_bits) - 1
    scale = np.where(high > low, (high - low) / top, 1.0)
    zero = np.rint(-low / scale).astype(np.int64)
    quantizers = tuple(
        Quantizer(float(s), int(z), 0, top) for s, z in zip(scale, zero, strict=True)
    )
    values = quantize(calibration, quantizers)
    tops = np.full(len(scale), top)
    return quantizers, _Steps(scale, -scale * zero, tops, values, calibration)


def _whole(
    layer: Layer, steps: _Steps, limit: int
) -> tuple[Ints, Ints, Floats, Floats]:
    """Return whole weights and constant whose sums run from 0 to at most `limit`.

    Also the step of each sum and the real number that a sum of 0 stands for, moved so
    that rounding the weights shifts no calibrated mean.
    """
    real = layer.weights * steps.scale[:, None]
    step = np.abs(real).T @ steps.top / limit
    step[step == 0] = 1.0
    while (over := np.abs(np.rint(real / step)).T @ steps.top > limit).any():
        step[over] *= 1.002
    weights = np.rint(real / step).astype(np.int64)
    constant = -(np.minimum(weights, 0).T @ steps.top)
    clear = steps.clear @ layer.weights + layer.bias
    base = (clear - step * (steps.values @ weights + constant)).mean(axis=0)
    return weights, constant, step, base


def _hidden(
    layer: Layer, steps: _Steps, shape: Shape, sum_bits: int, total_bits: int | None
) -> tuple[Neurons, _Steps]:
    """Return a layer's neurons; `total_bits` bounds the sum of all their values."""
    unit = 1 << (sum_bits - shape.table_bits)
    size = 1 << shape.table_bits
    weights, constant, step, base = _whole(layer, steps, (size - 1) * unit)
    apply = layer.activation or _same
    clear = apply(steps.clear @ layer.weights + layer.bias)
    at = np.arange(size)[:, None] * unit
    # A table may saturate: only what calibration reached is worth telling apart.
    wanted = np.clip(apply(step * at + base), clear.min(axis=0), clear.max(axis=0)).T
    least, span = wanted.min(axis=1), np.ptp(wanted, axis=1)
    if total_bits is None:
        scale = span / ((1 << shape.value_bits) - 1)
    else:
        scale = _common(span, (1 << total_bits) - 1)
    scale = np.where(scale > 0, scale, 1.0)
    tables = np.rint((wanted - least[:, None]) / scale[:, None]).astype(np.int64)
    neurons = Neurons(weights, constant, sum_bits, tables)
    values = neurons.look_up(neurons.sums(steps.values))
    return neurons, _Steps(scale, least, tables.max(axis=1), values, clear)


def _common(span: Floats, limit: int) -> Floats:
    """Return one step for all, the finest with which the sum of all spans fits."""
    step = max(float(span.sum()) / limit, 1e-30)
    while np.rint(span / step).sum() > limit:
        step *= 1.001
    return np.full(len(span), step)


def _last(
    layer: Layer, steps: _Steps, bits: int, *, one: bool
) -> tuple[Neurons, SumSteps]:
    clear = steps.clear @ layer.weights + layer.bias
    if one:  # its weights are in the tables already
        weights = np.ones((len(steps.top), 1), dtype=np.int64)
        constant, step = np.zeros(1, dtype=np.int64), steps.scale[:1]
        base = (clear - step * (steps.values @ weights)).mean(axis=0)
    else:
        weights, constant, step, base = _whole(layer, steps, (1 << bits) - 1)
    if not (weights.any() and steps.top.any()):
        msg = "the model's answer does not depend on its input"
        raise BackendError(msg, code="fhe-constant-model")
    output = SumSteps(tuple(step.tolist()), tuple(base.tolist()), complement=False)
    return Neurons(weights, constant, bits, None), output
