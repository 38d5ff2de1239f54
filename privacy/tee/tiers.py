"""AR4SI's trustworthiness claims: which tier a value is in, and the worst of many."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Literal

Tier = Literal["affirming", "none", "warning", "contraindicated"]
_WORSE: tuple[Tier, ...] = ("affirming", "none", "warning", "contraindicated")
"""From good to bad; a vector that leaves something open is not affirming."""

_AFFIRMING, _WARNING, _CONTRAINDICATED = 2, 32, 96


def tier_of(value: int) -> Tier:
    """Return the tier of a claim; values below -1 are not standardized ones."""
    size = max(-value - 1, _AFFIRMING) if value < -1 else value
    if size < _AFFIRMING:
        return "none"
    if size < _WARNING:
        return "affirming"
    return "warning" if size < _CONTRAINDICATED else "contraindicated"


def worst(tiers: Iterable[Tier]) -> Tier:
    """Return the worst of the tiers; of none, `none`."""
    return max(tiers, key=_WORSE.index, default="none")


def status_of(
    vector: Mapping[str, int], *, leave_out: AbstractSet[str] = frozenset()
) -> Tier:
    """Return the worst tier of a vector, some claims left out."""
    return worst(tier_of(v) for name, v in vector.items() if name not in leave_out)
