"""Choose a dense network's precision: as little as keeps its answers."""

from collections.abc import Iterator, Sequence

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats
from privacy.fhe.dense import Layer
from privacy.fhe.dense_plan import DensePlan, Shape, evaluate, plan_dense
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.yardstick import Fit, Outputs, Yardstick

MAX_LOSS = 1.0
"""Percentage points that a circuit may lose where the publisher does not say."""
TABLE_BITS = (4, 5, 6)
"""A look-up costs about 2.3 times as much with each bit."""
VALUE_AND_WEIGHT_BITS = ((4, -1), (3, 0), (4, 2))
"""Small weights add little noise. With the last, networks of several outputs take
another key set than most trees do, and look-ups are half as dear again."""
CLIPS = (0.98, 0.995, 0.95)
_INPUT_BITS, _SUM_BITS = 5, 12
"""More are nearly free, and seldom gain anything: a class is a coarse answer."""
FINE = ((6, 6, 4), (7, 6, 4))
"""For outputs that count as numbers: bits of tables, values and weights."""
_FINE_INPUT_BITS, _FINE_SUM_BITS = 6, 15
_TWO = 2


def shapes(task: str) -> Iterator[Shape]:
    """Yield precisions, cheap ones first; finer ones too unless it classifies."""
    for table_bits in TABLE_BITS:
        for value_bits, weight_bits in VALUE_AND_WEIGHT_BITS:
            for clip in CLIPS:
                yield Shape(
                    input_bits=_INPUT_BITS,
                    sum_bits=_SUM_BITS,
                    table_bits=table_bits,
                    value_bits=value_bits,
                    weight_bits=weight_bits,
                    clip=clip,
                )
    fine = () if task == "classification" else FINE
    for table_bits, value_bits, weight_bits in fine:
        for clip in CLIPS:
            yield Shape(
                input_bits=_FINE_INPUT_BITS,
                sum_bits=_FINE_SUM_BITS,
                table_bits=table_bits,
                value_bits=value_bits,
                weight_bits=weight_bits,
                clip=clip,
            )


def fit_dense(layers: Sequence[Layer], shape: Shape, *, mirror: bool) -> Fit:
    """Return what a network of that precision answers, for any calibration rows."""

    def fit(calibration: Floats) -> Outputs:
        plan = plan_dense(layers, calibration, shape, mirror=mirror)
        return lambda rows: raw_outputs(
            evaluate(plan, quantize(rows, plan.quantizers)), plan.output
        )

    return fit


def mirrors(layers: Sequence[Layer], activation: str) -> bool:
    """Return whether only the difference of the network's two outputs matters."""
    return activation == "softmax" and layers[-1].weights.shape[1] == _TWO


def choose_dense(
    layers: Sequence[Layer],
    yardstick: Yardstick,
    *,
    max_loss: float = MAX_LOSS,
) -> DensePlan:
    """Return the cheapest plan that loses at most `max_loss`, else the closest.

    Args:
        layers: As `privacy.fhe.dense.read_dense` gives them.
        yardstick: The calibration rows and what the clear model says of them.
        max_loss: Percentage points; see `privacy.fhe.yardstick`.

    Raises:
        BackendError: The network cannot be planned.
    """
    mirror = mirrors(layers, yardstick.activation)
    found: list[tuple[float, Shape]] = []
    why = BackendError("there is no precision to choose", code="fhe-bad-plan")
    for shape in shapes(yardstick.task):
        try:
            losses = yardstick.losses(fit_dense(layers, shape, mirror=mirror))
        except BackendError as exc:  # too coarse for this network's weights
            why = exc
            continue
        found.append((float(np.mean(losses)), shape))
        if found[-1][0] <= max_loss:
            break
    if not found:
        raise why
    _, best = min(found, key=lambda pair: pair[0])
    return plan_dense(layers, yardstick.rows, best, mirror=mirror)
