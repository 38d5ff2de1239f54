"""Every way to lay a model's circuit out, on paper."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from privacy.errors import BackendError
from privacy.zkml.system import CircuitChoice, CircuitSize, ProofSystem, Visibility
from privacy.zkml.tune.cost import TABLE_RESERVED_ROWS, Cost, blocks, estimate, fits
from privacy.zkml.tune.machine import speed
from privacy.zkml.tune.numbers import Numbers, unless_panicked

_BASES = tuple(
    base
    for bits in range(6, 14)
    for base in (1 << bits, (1 << (bits + 1)) - TABLE_RESERVED_ROWS)
)
"""Powers of two, and the most that tables of as many rows hold."""
_FEW_BASES = tuple(
    base for base in _BASES if base + TABLE_RESERVED_ROWS in {512, 1024, 2048, 4096}
)
_INNER = (1, 2, 3)
_LEAST_LOGROWS, _MOST_LOGROWS = 8, 22
_MOST_BLOCKS = 12
_MARGIN_BITS = 1
"""Twice what the corners of the declared range lead to can be held."""

_SIZING_S = 4.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A choice, and what it should cost."""

    choice: CircuitChoice
    cost: Cost


def lay_out(
    backend: ProofSystem,
    onnx: Path,
    visibility: Visibility,
    numbers: Numbers,
    scratch: Path,
) -> list[Candidate]:
    """Return every layout of a model whose numbers need what they need.

    Of layouts that cost the same, the one with the fewest cells is kept.
    """
    measured = _once(
        partial(backend.size, onnx, visibility=visibility, scratch=scratch)
    )
    best: dict[Cost, tuple[int, Candidate]] = {}
    started, bases = time.monotonic(), list(_BASES)
    tables, pace = numbers.table_rows, speed()
    while bases:
        for choice, size in _sizes(measured, numbers, bases.pop()):
            for logrows in range(_LEAST_LOGROWS, _MOST_LOGROWS + 1):
                laid = replace(choice, logrows=logrows)
                if (
                    not fits(size, laid, table_rows=tables)
                    or blocks(size, laid) > _MOST_BLOCKS
                ):
                    continue
                cost = estimate(size, laid, speed=pace)
                if cost not in best or size.assignments < best[cost][0]:
                    best[cost] = (size.assignments, Candidate(laid, cost))
                if blocks(size, laid) == 1:
                    break
        if time.monotonic() - started > _SIZING_S:
            bases = [b for b in bases if b in _FEW_BASES]
    return [candidate for _, candidate in best.values()]


def _once(
    measured: Callable[[CircuitChoice], CircuitSize],
) -> Callable[[CircuitChoice], CircuitSize]:
    """Return the same, which measures no size twice: digits count, not their base."""
    known: dict[CircuitChoice, CircuitSize] = {}

    def remembered(choice: CircuitChoice) -> CircuitSize:
        alike = replace(choice, decomp_base=_BASES[0])
        if alike not in known:
            known[alike] = measured(choice)
        return known[alike]

    return remembered


def _sizes(
    measured: Callable[[CircuitChoice], CircuitSize], numbers: Numbers, base: int
) -> Iterator[tuple[CircuitChoice, CircuitSize]]:
    """Yield the ways to spread a model's cells over columns."""
    for inner in _INNER:
        found: set[CircuitSize] = set()
        for disable_freivalds in (False, True):
            choice = _choice(numbers, base, inner, disable_freivalds=disable_freivalds)
            try:
                size = measured(choice)
            except BackendError as exc:  # a weight does not fit this base
                unless_panicked(exc)
                continue
            if size not in found:  # else there is no product to check
                found.add(size)
                yield choice, size


def _choice(
    numbers: Numbers, base: int, inner: int, *, disable_freivalds: bool
) -> CircuitChoice:
    legs = math.ceil((numbers.reach_bits + _MARGIN_BITS) / math.log2(base))
    return CircuitChoice(
        scale_bits=numbers.scale_bits,
        decomp_base=base,
        decomp_legs=max(2, legs),
        num_inner_cols=inner,
        scale_rebase_multiplier=numbers.multiplier,
        logrows=_MOST_LOGROWS,
        disable_freivalds=disable_freivalds,
    )
