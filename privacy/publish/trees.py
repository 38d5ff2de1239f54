"""Tree ensembles as tensor operations that ONNX Runtime and EZKL both know.

Every tree is padded to the same numbers of nodes and leaves and computed at once:
which comparisons hold, which leaf all of its path's comparisons lead to, that leaf's
value, summed over trees.
"""

from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of
from privacy.trees import Ensemble, ensemble_of, paths


def express_trees(core: Any) -> Expressed | None:
    """Return a tree or an ensemble of trees; None if it is neither."""
    ensemble = ensemble_of(core)
    if ensemble is None:
        return None
    if ensemble.activation == "none":
        raw = core.predict_proba if hasattr(core, "classes_") else core.predict
    elif hasattr(core, "decision_function"):
        raw = core.decision_function
    else:

        def raw(rows: Any) -> Any:
            return core.predict(rows, output_margin=True)

    return Expressed(
        graph=tree_module(ensemble, core.n_features_in_),
        clear=columns_of(lambda rows: raw(np.asarray(rows, np.float32))),
        activation=ensemble.activation,
        estimator=core,
    )


def tree_module(ensemble: Ensemble, features: int) -> Any:
    """Return a torch module from float32 (rows, features) to (rows, outputs)."""
    import torch

    arrays = _arrays(ensemble, features)

    class Trees(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, array in arrays.items():
                tensor = torch.tensor(array, dtype=torch.float32)
                self.register_buffer(name, tensor)

        def forward(self, x: Any) -> Any:
            trees, nodes, _ = self.path.shape
            holds = (x @ self.select <= self.threshold).float()
            held = holds.reshape(-1, trees, 1, nodes) @ self.path
            leaf = (held == self.needed).float()
            return (leaf @ self.value).sum(dim=1).reshape(
                -1, len(self.base)
            ) + self.base

    return Trees()


def _arrays(ensemble: Ensemble, features: int) -> dict[str, Any]:
    leads = [list(paths(tree, ())) for tree in ensemble.trees]
    splits = [sorted({(f, t) for p, _ in tree for f, t, _ in p}) for tree in leads]
    trees, width = len(leads), len(ensemble.base)
    nodes = max(1, *(len(s) for s in splits))
    leaves = max(len(tree) for tree in leads)
    select = np.zeros((features, trees * nodes))
    threshold = np.zeros(trees * nodes)
    path = np.zeros((trees, nodes, leaves))
    needed = np.full((trees, 1, leaves), -float(nodes) - 1.0)  # padding: never reached
    value = np.zeros((trees, leaves, width))
    for i, tree in enumerate(leads):
        for j, (feature, limit) in enumerate(splits[i]):
            select[feature, i * nodes + j] = 1.0
            threshold[i * nodes + j] = limit
        for k, (steps, leaf) in enumerate(tree):
            for feature, limit, left in set(steps):
                path[i, splits[i].index((feature, limit)), k] += 1.0 if left else -1.0
            needed[i, 0, k] = sum(left for _, _, left in set(steps))
            value[i, k] = leaf
    return {
        "select": select,
        "threshold": threshold,
        "path": path,
        "needed": needed,
        "value": value,
        "base": np.array(ensemble.base),
    }
