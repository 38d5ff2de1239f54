"""Support vector machines with a kernel; those without one are linear models."""

from itertools import combinations
from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of, unsupported

_KERNELS = ("rbf", "poly", "sigmoid")
_FAR = 12.0
"""exp(-12) is 6e-6, as good as nothing: the table of exp() need not go further."""


def express_kernel_machine(core: Any) -> Expressed | None:
    """Return an `SVC`, `NuSVC`, `SVR` or `NuSVR`; None if it is none of them."""
    name = type(core).__name__
    if name not in {"SVC", "NuSVC", "SVR", "NuSVR"}:
        return None
    if core.kernel not in _KERNELS:
        raise unsupported(f"{name} with kernel {str(core.kernel)[:40]}")
    dual, raw, activation = np.asarray(core.dual_coef_), core.predict, "none"
    if hasattr(core, "classes_"):
        raw, activation = pairwise(core), "margin"
        if len(core.classes_) > 2:  # noqa: PLR2004 - one margin tells two apart
            dual, activation = _by_pair(core), "votes"
    return Expressed(
        graph=_module(core, dual),
        clear=columns_of(raw),
        activation=activation,
    )


def pairwise(core: Any) -> Any:
    """Return the function of a classifier's margins, one a pair of classes."""
    import copy

    pairs = copy.copy(core)
    pairs.decision_function_shape = "ovo"
    return pairs.decision_function


def _by_pair(core: Any) -> Any:
    """Return what each support vector weighs in each pair, (pairs, vectors).

    A vector has one weight for each class but its own, in the order of the classes.
    """
    owner = np.repeat(np.arange(len(core.classes_)), core.n_support_)
    rows = [
        np.where(owner == i, core.dual_coef_[j - 1], 0.0)
        + np.where(owner == j, core.dual_coef_[i], 0.0)
        for i, j in combinations(range(len(core.classes_)), 2)
    ]
    return np.array(rows)


def _module(core: Any, dual: Any) -> Any:
    """Return `kernel(x, vectors) @ dual + intercept`.

    A square of a feature is a function of one value, which FHE looks up; a product of
    two would cost twice that.
    """
    import torch

    gamma = float(core._gamma)  # noqa: SLF001 - `gamma` may be the word "scale"
    vectors = np.asarray(core.support_vectors_, np.float64)
    is_rbf = core.kernel == "rbf"
    arrays = {
        "cross": (2.0 if is_rbf else 1.0) * gamma * vectors.T,
        "shift": -gamma * (vectors**2).sum(axis=1) if is_rbf else float(core.coef0),
        "square": np.full(vectors.T.shape, -gamma),
        "dual": dual.T,
        "intercept": core.intercept_,
    }

    class Machine(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, array in arrays.items():
                tensor = torch.tensor(array, dtype=torch.float32)
                self.register_buffer(name, tensor)

        def forward(self, x: Any) -> Any:
            inner = x @ self.cross + self.shift
            if is_rbf:
                inner = torch.relu(inner + x.pow(2) @ self.square + _FAR) - _FAR
                inner = torch.exp(inner)
            elif core.kernel == "poly":
                inner = inner.pow(core.degree)
            else:
                inner = torch.tanh(inner)
            return inner @ self.dual + self.intercept

    return Machine()
