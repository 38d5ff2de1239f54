"""What weakens an answer under FHE, in words."""

from privacy.encoding import Json
from privacy.fhe.options import DEFAULT_P_ERROR


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
