"""What the numbers of a model need, before any circuit is laid out.

For each way of rescaling: the fewest fixed-point bits that keep the answers, and the
bits of the largest value that the declared inputs lead to. Neither depends on how the
circuit is laid out, so both are found on circuits that are never proven.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from privacy.errors import BackendError, FormatError
from privacy.zkml.candidates import Grade, shortfall
from privacy.zkml.choose import Circuit, Model, answers, compile_circuit
from privacy.zkml.system import CircuitChoice, ProofSystem, Visibility

MULTIPLIERS = (1, 10)
"""Cut scales back at every step, or as late as can be: nets need the second."""

_PRIVATE = Visibility(input="private", params="fixed")
"""Numbers do not depend on it, and a hash would cost time."""

_LEAST_BITS, MOST_BITS = 7, 14
_MOST_REACH = 110
_TRIED_ROWS = 24
_REACHING_ROWS = 8


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a way of rescaling needs.

    Attributes:
        scale_bits: Fixed-point bits of inputs and parameters.
        multiplier: See `CircuitChoice.scale_rebase_multiplier`.
        reach_bits: Every value's magnitude is below 2**reach_bits.
        table_rows: Rows of the largest lookup table.
    """

    scale_bits: int
    multiplier: int
    reach_bits: int
    table_rows: int


Fresh = Callable[[], Path]


def needed(
    backend: ProofSystem, model: Model, multiplier: int, grade: Grade, fresh: Fresh
) -> Numbers:
    """Return what rescaling with a multiplier needs.

    Args:
        backend: The proof system.
        model: Its answers must be kept.
        multiplier: One of `MULTIPLIERS`.
        grade: How well.
        fresh: Gives paths that do not exist.

    Raises:
        FormatError: No number of bits keeps the answers.
        BackendError: The engine cannot express the model.
    """
    low, high = _LEAST_BITS, MOST_BITS
    reason = _inaccuracy(backend, model, _wide(high, multiplier), grade, fresh)
    if reason:
        raise FormatError(reason, code="inaccurate")
    while low < high:
        middle = (low + high) // 2
        if _inaccuracy(backend, model, _wide(middle, multiplier), grade, fresh):
            low = middle + 1
        else:
            high = middle
    return measured(backend, model, high, multiplier, fresh)


def measured(
    backend: ProofSystem, model: Model, scale_bits: int, multiplier: int, fresh: Fresh
) -> Numbers:
    """Return what a number of bits needs: the reach of values, and of lookups.

    Raises:
        FormatError: They lead beyond what circuits hold.
    """
    few = replace(model, corners=model.corners[:_REACHING_ROWS])
    low, high = 2, _MOST_REACH
    while low < high:
        middle = (low + high) // 2
        choice = replace(
            _wide(scale_bits, multiplier), decomp_base=2, decomp_legs=middle
        )
        try:
            answers(backend, _compiled(backend, few, choice, fresh), few.corners)
            high = middle
        except FormatError:
            low = middle + 1
    if high == _MOST_REACH:
        msg = f"the declared inputs lead to values beyond 2**{_MOST_REACH}"
        raise FormatError(msg, code="out-of-range")
    wide = _wide(scale_bits, multiplier)
    facts = compile_circuit(backend, model, wide, _PRIVATE, fresh()).facts
    return Numbers(scale_bits, multiplier, high, facts.table_rows)


def _inaccuracy(
    backend: ProofSystem,
    model: Model,
    choice: CircuitChoice,
    grade: Grade,
    fresh: Fresh,
) -> str:
    """Return why answers on a few held rows are not good enough, or ""."""
    rows, clear = model.held[:_TRIED_ROWS], model.clear[:_TRIED_ROWS]
    try:
        made = answers(backend, _compiled(backend, model, choice, fresh), rows)
    except FormatError as exc:
        return exc.message
    if made.shape != np.shape(clear):
        raise BackendError(f"the circuit has {made.shape[1]} outputs")
    return shortfall(
        made,
        clear,
        activation=model.activation,
        task=model.task,
        grade=grade,
    )


def _wide(scale_bits: int, multiplier: int) -> CircuitChoice:
    """Return a choice that holds any value; its cost does not matter."""
    return CircuitChoice(
        scale_bits=scale_bits,
        decomp_base=1024,
        decomp_legs=10,
        num_inner_cols=2,
        scale_rebase_multiplier=multiplier,
        logrows=17,
    )


def _compiled(
    backend: ProofSystem, model: Model, choice: CircuitChoice, fresh: Fresh
) -> Circuit:
    few = replace(
        model,
        calibration=model.calibration[:_REACHING_ROWS],
        corners=model.corners[:_REACHING_ROWS],
    )
    return compile_circuit(backend, few, choice, _PRIVATE, fresh())
