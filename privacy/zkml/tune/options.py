"""What a publisher may ask of the tuner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy.errors import FormatError
from privacy.zkml.memory import available_memory
from privacy.zkml.system import CircuitChoice, Visibility

OBJECTIVES = ("time", "key", "gas")
_LIMITS = {
    "scale_bits": (1, 20),
    "decomp_base": (2, 1 << 16),
    "decomp_legs": (1, 64),
    "num_inner_cols": (1, 16),
    "scale_rebase_multiplier": (1, 16),
    "logrows": (7, 24),
}


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What to look for, and within what.

    Attributes:
        objective: `time` to prove, size of the proving `key`, or `gas` to verify.
        visibility: What proofs show.
        settings: These choices only, instead of a search.
        proofs: How many circuits at most get keys and prove a row; the tuner's own.
        proving_s: Once keys and proofs took so long, no more circuits get them.
        memory_bytes: What proving may take.
        max_gas: What checking a proof on a chain may take, by the cost model; None if
            that does not matter.
    """

    objective: str = "time"
    visibility: Visibility = field(default_factory=Visibility)
    settings: tuple[CircuitChoice, ...] = ()
    proofs: int = 3
    proving_s: float = 90.0
    memory_bytes: int = 0
    max_gas: int | None = None


def parse_options(options: Mapping[str, Any], visibility: Visibility) -> TuneOptions:
    """Return the tuner's options among the publisher's choices for zkml.

    Raises:
        FormatError: A member is not one, or is out of its limits.
    """
    objective = options.get("objective", "time")
    if objective not in OBJECTIVES:
        msg = f"zkml's objective is one of {', '.join(OBJECTIVES)}"
        raise FormatError(msg, code="bad-option")
    memory = options.get("memory_bytes", available_memory())
    if type(memory) is not int or memory < 1:
        msg = "zkml's memory_bytes is not a number of bytes"
        raise FormatError(msg, code="bad-option")
    gas = options.get("max_gas")
    if gas is not None and (type(gas) is not int or gas < 1):
        msg = "zkml's max_gas is not an amount of gas"
        raise FormatError(msg, code="bad-option")
    return TuneOptions(
        objective=objective,
        visibility=visibility,
        settings=parse_choices(options.get("settings")),
        memory_bytes=memory,
        max_gas=gas,
    )


def parse_choices(settings: Any) -> tuple[CircuitChoice, ...]:
    """Return the choices in a list of objects; none if it is None.

    Raises:
        FormatError: A member is missing, unknown, or out of its limits.
    """
    if settings is None:
        return ()
    try:
        choices = tuple(CircuitChoice(**s) for s in settings)
    except TypeError as exc:
        names = ", ".join(CircuitChoice.__slots__)
        msg = f"zkml's option settings is a list of objects with {names}"
        raise FormatError(msg, code="bad-option") from exc
    for choice in choices:
        _check(choice)
    return choices


def _check(choice: CircuitChoice) -> None:
    """Refuse what EZKL's Python interface takes without a look (a base of 0, say)."""
    for name, (least, most) in _LIMITS.items():
        value = getattr(choice, name)
        if type(value) is not int or not least <= value <= most:
            msg = f"zkml's setting {name} is not a whole number from {least} to {most}"
            raise FormatError(msg, code="bad-option")
    if not isinstance(getattr(choice, "disable_freivalds"), bool):  # noqa: B009
        msg = "zkml's setting disable_freivalds is not true or false"
        raise FormatError(msg, code="bad-option")
