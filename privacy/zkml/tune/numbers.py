"""What the numbers of a model need, before any circuit is laid out.

For each way of rescaling: the fewest fixed-point bits that keep the answers, and the
bits of the largest value that the declared inputs lead to. Neither depends on how the
circuit is laid out, so both are found on circuits that are never proven.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from privacy.errors import BackendError, FormatError, PrivacyError
from privacy.zkml.candidates import Grade
from privacy.zkml.choose import Circuit, Model, answers, compile_circuit, judged
from privacy.zkml.system import CircuitChoice, ProofSystem, Visibility

MULTIPLIERS = (1, 10)
"""Cut scales back at every step, or as late as can be: nets need the second."""
BETWEEN = 3
"""For deep nets, whose values would grow too far: each digit is paid for everywhere."""
FAR_BITS = 36

_PRIVATE = Visibility(input="private", params="fixed")
"""Numbers do not depend on it, and a hash would cost time."""

_LEAST_BITS, MOST_BITS = 7, 14
_MOST_REACH = 109
_MOST_DIGIT_BITS = 16
_TRIED_ROWS = 24
_REACHING_ROWS = 8


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a way of rescaling needs.

    Attributes:
        scale_bits: Fixed-point bits of inputs and parameters.
        multiplier: See `CircuitChoice.scale_rebase_multiplier`.
        reach_bits: Every value's magnitude is below 2**reach_bits, told to a quarter.
        table_rows: Rows of the largest lookup table.
    """

    scale_bits: int
    multiplier: int
    reach_bits: float
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
    reason = ""
    for bits in range(_LEAST_BITS, MOST_BITS + 1):  # most models need few
        reason = _inaccuracy(backend, model, _wide(bits, multiplier), grade, fresh)
        if not reason:
            return measured(backend, model, bits, multiplier, fresh)
    raise FormatError(reason, code="inaccurate")


def measured(
    backend: ProofSystem, model: Model, scale_bits: int, multiplier: int, fresh: Fresh
) -> Numbers:
    """Return what a number of bits needs: the reach of values, and of lookups.

    Raises:
        FormatError: They lead beyond what circuits hold.
    """
    choice = _wide(scale_bits, multiplier)
    reach: float = _reach(backend, model, replace(choice, decomp_base=2), fresh)
    if reach > _MOST_REACH:  # some operators do without base 2
        reach = _reach(backend, model, choice, fresh)
    if reach > _MOST_REACH:
        msg = f"the declared inputs lead to values beyond 2**{_MOST_REACH}"
        raise FormatError(msg, code="out-of-range")
    reach = _to_a_quarter(backend, model, choice, reach, fresh)
    facts = compile_circuit(backend, model, choice, _PRIVATE, fresh()).facts
    return Numbers(scale_bits, multiplier, reach, facts.table_rows)


def _reach(
    backend: ProofSystem, model: Model, choice: CircuitChoice, fresh: Fresh
) -> int:
    """Return the bits that digits in the choice's base must hold at the corners."""
    digit = choice.decomp_base.bit_length() - 1
    low, high = 1, _MOST_REACH // digit + 1
    while low < high:
        middle = (low + high) // 2
        if _holds(backend, model, replace(choice, decomp_legs=middle), fresh):
            high = middle
        else:
            low = middle + 1
    return high * digit


def _to_a_quarter(
    backend: ProofSystem,
    model: Model,
    choice: CircuitChoice,
    reach: float,
    fresh: Fresh,
) -> float:
    """Return the least of the quarters of a bit below whole bits that still holds.

    The last bit may decide whether one digit more is needed everywhere.
    """
    legs = math.ceil(reach / _MOST_DIGIT_BITS)
    for quarters in (2, 1):  # halves first, and then the quarter below
        less = reach - quarters / 4
        tried = replace(choice, decomp_base=int(2 ** (less / legs)), decomp_legs=legs)
        if _holds(backend, model, tried, fresh):
            reach = less
    return reach


def _holds(
    backend: ProofSystem, model: Model, choice: CircuitChoice, fresh: Fresh
) -> bool:
    """Return whether digits hold what the corners lead to."""
    few = replace(model, corners=model.corners[:_REACHING_ROWS])
    try:
        answers(backend, _compiled(backend, few, choice, fresh), few.corners)
    except (BackendError, FormatError) as exc:  # a weight may be beyond, too
        unless_panicked(exc)
        return False
    return True


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
        circuit = _compiled(backend, model, choice, fresh)
        judged(backend, circuit, model, rows, clear, grade)
    except (BackendError, FormatError) as exc:
        unless_panicked(exc)
        if exc.code == "wrong-output-count":
            raise
        return exc.message
    return ""


def unless_panicked(exc: PrivacyError) -> None:
    """Go on only if the engine's state is known."""
    if exc.code == "engine-panicked":
        raise exc


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
