"""What a publisher may choose for this mode."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from privacy.errors import FormatError

FAST_P_ERROR = 2.0**-14
"""What `--fast` asks for: keys and look-ups shrink, and one in 16,384 look-ups errs."""
DEFAULT_P_ERROR = 2.0**-40
GOALS = {"speed": 2.0, "balanced": 1.0, "accuracy": 0.0}
"""Percentage points that the fastest circuit may lose; `accuracy` takes the least."""

_CHOICES = {
    "tune": ("", *GOALS),
    "circuit": ("auto", "fhe-native", "concrete-ml"),
    "splits": ("hidden", "revealed"),
    "answer": ("sums", "leaves"),
    "device": ("cpu", "cuda", "auto"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The publisher's choices.

    Attributes:
        p_error: Chance that one table look-up errs. Larger is faster, and weaker
            against an attacker who sees decrypted results (IND-CPA-D).
        circuit: `fhe-native` (tree ensembles and dense networks), `concrete-ml`, or
            `auto`: the first where it can express the model, else the second.
        splits: What clients of an fhe-native circuit learn of the trees: `hidden`,
            nothing but quantiles of the calibration rows; `revealed`, every threshold
            they use, for smaller inputs and no loss to binning.
        answer: What the circuit of an ensemble gives: `sums`, one number an output; or
            `leaves`, the number of each tree's leaf, faster where trees have many
            classes. Clients then learn what every leaf holds, and which one each of
            their rows reaches. A lone tree of many outputs has nothing to sum and
            answers with its leaf where that is faster.
        device: `cpu`; `cuda`, for tree ensembles with a build of Concrete that has it;
            or `auto`, the second where it can be had.
        n_bits: Bits for Concrete-ML's linear models and trees, instead of the built-in
            list; 0 for the list.
        tune: Search for the fastest circuit that loses little: `speed`, `balanced` or
            `accuracy`; empty takes built-in choices without a search.
        max_loss: Percentage points the tuned circuit may lose, instead of the goal's
            own; negative for that.
        engine_rows: Held rows to run encrypted; 0 chooses 10 or 3 by speed.
        max_latency_s: A slower circuit is not published.
        max_keys_bytes: A circuit with larger evaluation keys is not published.
        min_label_agreement: Least share of held rows labelled as by the clear model.
    """

    p_error: float = DEFAULT_P_ERROR
    circuit: str = "auto"
    splits: str = "hidden"
    answer: str = "sums"
    device: str = "cpu"
    n_bits: int = 0
    tune: str = ""
    max_loss: float = -1.0
    engine_rows: int = 0
    max_latency_s: float = 120.0
    max_keys_bytes: int = 1 << 29
    min_label_agreement: float = 0.9


def parse_options(given: Mapping[str, Any]) -> Options:
    """Return the publisher's choices.

    Raises:
        FormatError: One is unknown, of another type or out of range.
    """
    known = {f.name: type(f.default) for f in fields(Options)}
    for name, value in given.items():
        if name not in known:
            msg = f"FHE has no option {name!r}: it has {', '.join(known)}"
            raise FormatError(msg, code="unknown-option")
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                words = " or ".join(_CHOICES[name])
                msg = f"FHE option {name} is {value!r}, expected {words}"
                raise FormatError(msg, code="bad-option")
            continue
        fits = isinstance(value, known[name] | int) and not isinstance(value, bool)
        if not fits or value < 0:
            msg = f"FHE option {name} is {value!r}, expected a {known[name].__name__}"
            raise FormatError(msg, code="bad-option")
    options = Options(**given)
    if not 2.0**-80 <= options.p_error <= 0.1:  # noqa: PLR2004 - what Concrete takes
        msg = f"p_error is {options.p_error:g}, expected 2**-80 to 0.1"
        raise FormatError(msg, code="bad-option")
    return options
