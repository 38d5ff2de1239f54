"""What weakens an answer under FHE, in words."""

from privacy.encoding import Json
from privacy.fhe.backend import Floats
from privacy.fhe.options import DEFAULT_P_ERROR
from privacy.fhe.quantizers import find_clipped
from privacy.fhe.spec import CircuitSpec


def clipping_caveats(rows: Floats, spec: CircuitSpec) -> tuple[str, ...]:
    """Return what to say of values that a circuit takes for the ends of its range.

    The range that the manifest publishes may be wider: it is rounded outwards, and
    networks tell values apart between two quantiles of the calibration rows.

    Args:
        rows: Standardised features, (rows, features).
        spec: The circuit's.
    """
    count = len(find_clipped(rows, spec.quantizers, spec.output))
    if not count:
        return ()
    words = (
        f"{count} of {rows.size} values lie beyond what the circuit tells apart and "
        "count as the ends of its range; the accuracy that was measured includes such"
    )
    return (words,)


def p_error_caveats(said: Json) -> tuple[str, ...]:
    """Return what to say of a model's or a job's `p_error`; nothing of the default.

    Args:
        said: The manifest's parameters of mode `fhe`, or a receipt's options.
    """
    p_error = said.get("p_error")
    if not isinstance(p_error, float | int) or p_error <= DEFAULT_P_ERROR:
        return ()
    words = (
        "its publisher chose speed: a table look-up errs with probability "
        f"{p_error:.1g} instead of {DEFAULT_P_ERROR:.1g}. An answer may be off by "
        "chance, and showing decrypted answers to the node's operator tells more "
        "about your key (IND-CPA-D): do not"
    )
    return (words,)
