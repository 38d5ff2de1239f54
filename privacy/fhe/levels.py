"""Find a linear index that fits a table and tells apart all that differs.

A table look-up sees one small number, a sum of the encrypted bits with whole weights.
Here a function of few features is given by its value for every combination of their
states, and the weights are searched: combinations may share an entry where their values
agree. A tree whose leaves are rounded to few steps has many that do.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from privacy.fhe.backend import Ints

Levels = tuple[tuple[int, ...], ...]
"""For each feature, what each of its states adds to the index; all from 0 up."""
_Entries = npt.NDArray[np.uint32]
_MOST_ENTRIES = 32
_MOST = 1 << 23
"""Combinations of levels times combinations of states that one search may look at."""


def fit(values: Ints, size: int) -> Levels | None:
    """Return levels with which an index tells apart all values that differ.

    Of those that fit, the one whose weights' squares have the least sum: it adds the
    least noise.

    Args:
        values: What the function gives, an axis for each feature, along it its states.
        size: Entries of the table; all indices are from 0 to below it.

    Returns:
        None if there are none, or too many to look at.
    """
    kinds = [_kinds(values, axis) for axis in range(values.ndim)]
    for axis, kind in enumerate(kinds):
        first = [kind.index(k) for k in range(max(kind) + 1)]
        values = values.take(first, axis=axis)
    order = sorted(range(values.ndim), key=lambda axis: values.shape[axis])
    _, number = np.unique(values.transpose(order), return_inverse=True)
    shape = tuple(values.shape[axis] for axis in order)
    found = _search(shape, number.astype(np.uint8).tobytes(), size)
    if found is None:
        return None
    placed = dict(zip(order, found, strict=True))
    return tuple(
        tuple(placed[axis][k] for k in kind) for axis, kind in enumerate(kinds)
    )


@lru_cache
def most_features(size: int) -> int:
    """Return of how many features a function may depend at most that `fit` fits.

    Those of more states than two have more combinations to look at, not fewer.
    """
    shape: tuple[int, ...] = (2,)
    while _is_searched(shape, size):
        shape = (*shape, 2)
    return len(shape) - 1


def _is_searched(shape: tuple[int, ...], size: int) -> bool:
    count = _count(shape, size)
    return size <= _MOST_ENTRIES and 0 < count * math.prod(shape) <= _MOST


def _kinds(values: Ints, axis: int) -> list[int]:
    """Number the states of a feature; those that never differ get one number."""
    slices = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    seen: dict[bytes, int] = {}
    return [seen.setdefault(row.tobytes(), len(seen)) for row in slices]


@lru_cache(maxsize=1 << 16)
def _search(shape: tuple[int, ...], numbers: bytes, size: int) -> Levels | None:
    if not _is_searched(shape, size):
        return None
    levels, entries = _candidates(shape, size)
    number = np.frombuffer(numbers, dtype=np.uint8)
    taken = np.zeros(entries.shape[1], dtype=np.uint32)
    for value in np.unique(number):
        mine = np.bitwise_or.reduce(entries[number == value], axis=0)
        keep = (mine & taken) == 0
        if not keep.any():
            return None
        levels = [level[keep] for level in levels]
        entries, taken = entries[:, keep], (mine | taken)[keep]
    return tuple(tuple(level[0].tolist()) for level in levels)


def _count(shape: tuple[int, ...], size: int) -> int:
    """Return how many candidates there are, mirrored ones too."""
    orders = math.prod(math.factorial(states) for states in shape)
    free = sum(states - 1 for states in shape)
    return orders * math.comb(size - 1, free)


@lru_cache(maxsize=64)
def _candidates(shape: tuple[int, ...], size: int) -> tuple[list[Ints], _Entries]:
    """Return all levels that fit a table, and the entry of every combination as a bit.

    Levels are an array (candidates, states) for each feature, the least noise first;
    entries are (combinations, candidates).
    """
    rows = [r for r in _levels(shape, size - 1) if r[0] <= r[0][::-1]]  # no mirrors
    levels = [np.array([row[a] for row in rows]) for a in range(len(shape))]
    noise = sum((np.diff(level, axis=1) ** 2).sum(axis=1) for level in levels)
    order = np.argsort(noise, kind="stable")
    levels = [level[order] for level in levels]
    states = np.indices(shape).reshape(len(shape), -1)
    index = np.zeros((states.shape[1], len(order)), dtype=np.uint32)
    for level, at in zip(levels, states, strict=True):
        index += level.T.astype(np.uint32)[at]
    return levels, np.left_shift(np.uint32(1), index)


def _levels(shape: tuple[int, ...], room: int) -> Iterator[Levels]:
    """Yield levels whose greatest add up to at most `room`."""
    if not shape:
        yield ()
        return
    states, *rest = shape
    least = sum(s - 1 for s in rest)
    for top in range(states - 1, room - least + 1):
        for others in _levels(tuple(rest), room - top):
            for mine in _injective(states, top):
                yield mine, *others


@lru_cache(maxsize=1 << 10)
def _injective(states: int, top: int) -> tuple[tuple[int, ...], ...]:
    """Return all different levels from 0 to `top`, both taken."""
    if states == 1:
        return ((0,),) if top == 0 else ()
    return tuple(
        levels
        for levels in permutations(range(top + 1), states)
        if 0 in levels and top in levels
    )
