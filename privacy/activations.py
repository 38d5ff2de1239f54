"""What the data owner does with a model's raw outputs: the last step, outside any mode.

none      outputs are the answer: probabilities of a classifier, or values
sigmoid   one output: the probability of the second of two classes
softmax   probabilities by class
ovr       one sigmoid a class, scaled so that they sum to 1 (one-vs-rest)
margin    the greatest wins; of one output, its sign; no probabilities
votes     one output a pair of classes, (0,1), (0,2), … (1,2), …: positive is a
          vote for the first; most votes win; no probabilities (one-vs-one)
exp       the logarithm of the answer (regression with a log link)
"""

from collections.abc import Callable
from itertools import combinations
from math import isqrt
from typing import Any

_LIMIT = 700.0
"""exp() of more overflows a float64."""
_TWO = 2

WITHOUT_PROBABILITIES = frozenset({"margin", "votes"})


def class_count(activation: str, outputs: int) -> int:
    """Return how many classes a classifier with that many raw outputs tells apart.

    0 if there is no such classifier.
    """
    if activation == "exp" or outputs < 1:
        return 0
    if activation == "sigmoid":
        return _TWO if outputs == 1 else 0
    if activation == "margin" and outputs == 1:
        return _TWO
    if activation == "votes":
        count = (1 + isqrt(1 + 8 * outputs)) // 2
        return count if count * (count - 1) // 2 == outputs else 0
    return outputs


def activate(raw: Any, activation: str) -> Any:
    """Return what raw outputs, shape (rows, outputs), say; float64.

    For a classifier one column a class, the greatest being the answer (of equals, the
    first): probabilities, or scores without a unit for `margin` and `votes`. Otherwise
    one column an output.
    """
    import numpy as np

    raw = np.asarray(raw, dtype=np.float64)
    return _APPLY[activation](raw) if activation in _APPLY else raw


def _exp(raw: Any) -> Any:
    import numpy as np

    return np.exp(np.clip(raw, -_LIMIT, _LIMIT))


def _sigmoids(raw: Any) -> Any:
    return 1.0 / (1.0 + _exp(-raw))


def _sigmoid(raw: Any) -> Any:
    import numpy as np

    p = _sigmoids(raw[:, :1])
    return np.concatenate([1.0 - p, p], axis=1)


def _softmax(raw: Any) -> Any:
    return _shares(_exp(raw - raw.max(axis=1, keepdims=True)))


def _shares(scores: Any) -> Any:
    return scores / scores.sum(axis=1, keepdims=True)


def _margin(raw: Any) -> Any:
    import numpy as np

    return np.concatenate([-raw, raw], axis=1) if raw.shape[1] == 1 else raw


def _votes(raw: Any) -> Any:
    import numpy as np

    classes = class_count("votes", raw.shape[1])
    votes = np.zeros((len(raw), classes))
    for column, (first, second) in enumerate(combinations(range(classes), 2)):
        wins = raw[:, column] > 0
        votes[:, first] += wins
        votes[:, second] += ~wins
    return votes


_APPLY: dict[str, Callable[[Any], Any]] = {
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "ovr": lambda raw: _shares(_sigmoids(raw)),
    "margin": _margin,
    "votes": _votes,
    "exp": _exp,
}
ACTIVATIONS = ("none", *_APPLY)
