"""Read the trees back out of a graph that walks them; see `privacy.publish.trees`.

The graph is run on symbols: what a column stands for is a feature, a comparison of one,
or a place in a tree that a row reaches or not. Only a graph whose every step has such
a meaning is read, so the trees give its answers and not nearly so.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.trees import MOST_LEVELS, Node, too_deep
from privacy.zkml.onnx_prep import constants, input_name


@dataclass(frozen=True, slots=True)
class Split:
    """Whether a feature is greater than a threshold; if `reaches`, or equal to it."""

    feature: int
    threshold: float
    reaches: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a comparison leads from a place, or from a root."""

    split: Split
    right: bool
    above: "_Place | None" = None


@dataclass(frozen=True, slots=True)
class _Sum:
    """Values of places, summed with a base."""

    places: tuple[_Place, ...]
    values: Any
    base: Any


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees whose leaf values are summed with `base`, float64 of shape (outputs,).

    Attributes:
        strict: Nodes compare `x < threshold`, and not `x <= threshold`.
    """

    roots: tuple[Node, ...]
    base: Any
    strict: bool


class _OtherError(Exception):
    """The graph does something else than walk trees."""


def read_trees(path: Path) -> Trees | None:
    """Return the trees of an ONNX model of batch one; None if it is anything else.

    Raises:
        FormatError: A tree has too many levels.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    try:
        return _trees(_answer(graph))
    except _OtherError:
        return None


def _need(*facts: object) -> None:
    if not all(facts):
        raise _OtherError


def _answer(graph: Any) -> _Sum:
    """Return what the graph's output is, in symbols."""
    known: dict[str, Any] = dict(constants(graph))
    (given,) = (value for value in graph.input if value.name == input_name(graph))
    width = given.type.tensor_type.shape.dim[1].dim_value
    known[given.name] = tuple(range(width))
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        _need(node.op_type in _STEPS, node.domain in {"", "ai.onnx"})
        _need(all(name in known for name in node.input))
        parts = [known[name] for name in node.input]
        known[node.output[0]] = _STEPS[node.op_type](node, *parts)
    answer = known.get(graph.output[0].name)
    if not isinstance(answer, _Sum):
        raise _OtherError
    return answer


def _all(columns: Any, kind: type) -> None:
    _need(isinstance(columns, tuple))
    _need(*(type(c) is kind for c in columns))


def _row(array: Any, width: int) -> None:
    """Need an array that is one row: of another shape it would make several."""
    _need(isinstance(array, np.ndarray))
    _need(array.shape in {(width,), (1, width)}, np.isfinite(array).all())


def _option(node: Any, name: str) -> list[int]:
    return [a.i for a in node.attribute if a.name == name]


def _gather(node: Any, columns: Any, picked: Any) -> Any:
    _need(isinstance(columns, tuple), isinstance(picked, np.ndarray))
    _need(_option(node, "axis") == [1], picked.ndim == 1)
    _need(*(-len(columns) <= i < len(columns) for i in picked))
    return tuple(columns[int(i)] for i in picked)


def _greater(node: Any, features: Any, thresholds: Any) -> Any:
    _all(features, int)
    _row(thresholds, len(features))
    reaches = node.op_type == "GreaterOrEqual"
    pairs = zip(features, thresholds.ravel(), strict=True)
    return tuple(Split(feature, float(limit), reaches) for feature, limit in pairs)


def _cast(node: Any, columns: Any) -> Any:
    float32 = 1
    _need(_option(node, "to") == [float32])
    _all(columns, Split)
    return columns


def _subtract(_: Any, whole: Any, part: Any) -> Any:
    if isinstance(whole, np.ndarray):
        _all(part, Split)
        if whole.ndim:
            _row(whole, whole.size)
        _need((whole == 1).all(), whole.size in (1, len(part)))
        return tuple(_Place(split, right=False) for split in part)
    _all(whole, _Place)
    _all(part, _Place)
    _need(len(whole) == len(part))
    pairs = list(zip(whole, part, strict=True))
    _need(*(right.right and right.above is here for here, right in pairs))
    return tuple(_Place(right.split, right=False, above=h) for h, right in pairs)


def _multiply(_: Any, places: Any, splits: Any) -> Any:
    _all(places, _Place)
    _all(splits, Split)
    _need(len(places) == len(splits))
    pairs = zip(places, splits, strict=True)
    return tuple(_Place(split, right=True, above=here) for here, split in pairs)


def _join(node: Any, *parts: Any) -> Any:
    _need(_option(node, "axis") == [1])
    _need(*(isinstance(part, tuple) for part in parts))
    columns = [column for part in parts for column in part]
    made = [_Place(c, right=True) if isinstance(c, Split) else c for c in columns]
    _all(tuple(made), _Place)
    return tuple(made)


def _weigh(_: Any, places: Any, values: Any) -> Any:
    _all(places, _Place)
    _need(isinstance(values, np.ndarray))
    _need(values.ndim == 2, len(values) == len(places))  # noqa: PLR2004
    _need(np.isfinite(values).all())
    return _Sum(places, values.astype(np.float64), np.zeros(values.shape[1]))


def _add(_: Any, total: Any, base: Any) -> Any:
    _need(isinstance(total, _Sum))
    _row(base, total.base.size)
    return _Sum(total.places, total.values, total.base + base.ravel())


_STEPS: dict[str, Callable[..., Any]] = {
    "Gather": _gather,
    "Greater": _greater,
    "GreaterOrEqual": _greater,
    "Cast": _cast,
    "Sub": _subtract,
    "Mul": _multiply,
    "Concat": _join,
    "MatMul": _weigh,
    "Add": _add,
}


def _trees(answer: _Sum) -> Trees:
    values: dict[_Place, Any] = defaultdict(lambda: np.zeros(answer.base.size))
    for place, row in zip(answer.places, answer.values, strict=True):
        values[place] = values[place] + row
    below = _below(answer.places)
    _check_levels(below)

    def grow(place: _Place) -> Node:
        if place not in below:
            return Node(value=tuple(values[place]))
        _need(place not in values)
        return split(below[place])

    def split(sides: dict[bool, _Place]) -> Node:
        _need(len(sides) == 2, len({s.split for s in sides.values()}) == 1)  # noqa: PLR2004
        at = sides[True].split
        left, right = grow(sides[False]), grow(sides[True])
        return Node(at.feature, at.threshold, left, right)

    roots = tuple(split(sides) for sides in _roots(below))
    kinds = {place.split.reaches for place in _every(answer.places)}
    _need(len(kinds) == 1)  # nothing to compare, or both ways
    return Trees(roots, answer.base, kinds.pop())


def _below(leaves: Iterable[_Place]) -> dict[_Place | None, Any]:
    """Return by place what is left and right of it; of the roots, a list of places."""
    below: dict[_Place | None, Any] = {None: []}
    for place in _every(leaves):
        if place.above is None:
            below[None].append(place)
        else:
            sides = below.setdefault(place.above, {})
            _need(place.right not in sides)
            sides[place.right] = place
    return below


def _check_levels(below: dict[_Place | None, Any]) -> None:
    levels, places = 0, below[None]
    while places:
        levels += 1
        places = [p for place in places for p in below.get(place, {}).values()]
    if levels > MOST_LEVELS:
        raise too_deep(levels)


def _every(leaves: Iterable[_Place]) -> Iterable[_Place]:
    """Yield the places of leaves, and all above them, once each."""
    seen: set[_Place] = set()
    for leaf in leaves:
        place: _Place | None = leaf
        while place is not None and place not in seen:
            seen.add(place)
            yield place
            place = place.above


def _roots(below: dict[_Place | None, Any]) -> Iterable[dict[bool, _Place]]:
    """Pair what is left of roots with what is right: any pair of the same split is."""
    waiting: dict[tuple[Split, bool], list[_Place]] = defaultdict(list)
    places = below[None]
    for place in places:
        waiting[place.split, place.right].append(place)
    for (at, right), found in waiting.items():
        others = waiting.get((at, not right), [])
        _need(len(found) == len(others))
        if right:
            for one, other in zip(found, others, strict=True):
                yield {True: one, False: other}
