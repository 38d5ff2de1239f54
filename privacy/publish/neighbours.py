"""Nearest neighbours: the training rows are the model."""

from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of, unsupported


def express_neighbours(core: Any) -> Expressed | None:
    """Return a `KNeighborsClassifier` or `KNeighborsRegressor`; None if it is neither.

    Each neighbour counts the same. Of training rows at equal distance the library
    takes some; the graph takes all.
    """
    name = type(core).__name__
    if name not in {"KNeighborsClassifier", "KNeighborsRegressor"}:
        return None
    if core.weights != "uniform":
        raise unsupported(f"{name} with weights other than 'uniform'")
    if core.effective_metric_ != "euclidean":
        raise unsupported(f"{name} with another metric than the Euclidean")
    if hasattr(core, "classes_"):
        if core.outputs_2d_:
            raise unsupported(f"{name} with several labels a row")
        values, raw = np.eye(len(core.classes_))[core._y], core.predict_proba  # noqa: SLF001
    else:
        values, raw = core._y.reshape(len(core._fit_X), -1), core.predict  # noqa: SLF001
    return Expressed(
        graph=_module(core, values),
        clear=columns_of(raw),
        activation="none",
        estimator=core,
        ties=True,
    )


def _module(core: Any, values: Any) -> Any:
    import torch

    rows = torch.tensor(np.asarray(core._fit_X), dtype=torch.float32)  # noqa: SLF001

    class Neighbours(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("rows", rows)
            self.register_buffer("values", torch.tensor(values, dtype=torch.float32))

        def forward(self, x: Any) -> Any:
            apart = (x[:, None, :] - self.rows).pow(2).sum(dim=2)
            far = torch.topk(apart, core.n_neighbors, dim=1, largest=False)[0][:, -1:]
            near = (apart <= far).float()
            return near @ self.values / near.sum(dim=1, keepdim=True)

    return Neighbours()
