"""Tree ensembles as tensor operations that ONNX Runtime and EZKL both know.

All trees are walked at once, a depth at a time: a node is reached if its parent is and
its parent's comparison leads to it. A leaf that is reached counts with its value. Every
comparison is made once, however many trees share it: it is what proofs spend most on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of
from privacy.trees import Ensemble, ensemble_of, float32_after, margin_scale


def express_trees(core: Any) -> Expressed | None:
    """Return a tree or an ensemble of trees; None if it is neither."""
    ensemble = ensemble_of(core)
    if ensemble is None:
        return None
    if ensemble.activation == "none":
        raw = core.predict_proba if hasattr(core, "classes_") else core.predict
    elif hasattr(core, "decision_function"):

        def raw(rows: Any) -> Any:
            return margin_scale(core) * core.decision_function(rows)

    else:

        def raw(rows: Any) -> Any:
            return core.predict(rows, output_margin=True)

    return Expressed(
        graph=tree_module(ensemble),
        clear=columns_of(lambda rows: raw(np.asarray(rows, np.float32))),
        activation=ensemble.activation,
        estimator=core,
    )


@dataclass(frozen=True, slots=True)
class _Level:
    """One depth of all trees at once.

    Attributes:
        inner: Which of the nodes at this depth compare.
        splits: What these compare, as positions among all comparisons.
        leaves: Which of the nodes at this depth are leaves.
    """

    inner: list[int]
    splits: list[int]
    leaves: list[int]


def tree_module(ensemble: Ensemble) -> Any:
    """Return a torch module from float32 (rows, features) to (rows, outputs)."""
    import torch

    splits, levels, values = _levels(ensemble)
    picked = [feature for feature, _ in splits]
    strict = ensemble.strict
    thresholds = [float32_after(t) if strict else t for _, t in splits]
    lone = [tree.value for tree in ensemble.trees if not tree.left]
    constant = np.sum([ensemble.base, *lone], axis=0)

    class Trees(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            limits = torch.tensor(thresholds, dtype=torch.float32)
            self.register_buffer("threshold", limits)
            self.register_buffer("value", torch.tensor(values, dtype=torch.float32))
            base = torch.tensor(constant, dtype=torch.float32)
            self.register_buffer("base", base)

        def forward(self, x: Any) -> Any:
            if not splits:
                return x[:, :1] * 0.0 + self.base
            given = x[:, picked]
            is_above = given >= self.threshold if strict else given > self.threshold
            above = is_above.float()
            right = above[:, levels[0].splits]
            reached, leaves = torch.cat([1.0 - right, right], dim=1), []
            for level in levels[1:]:
                if level.leaves:
                    leaves.append(reached[:, level.leaves])
                if level.inner:
                    here = reached[:, level.inner]
                    right = here * above[:, level.splits]
                    reached = torch.cat([here - right, right], dim=1)
            return torch.cat(leaves, dim=1) @ self.value + self.base

    return Trees()


def _levels(
    ensemble: Ensemble,
) -> tuple[list[tuple[int, float]], list[_Level], list[tuple[float, ...]]]:
    """Return all comparisons, the depths of the trees, and the leaves in their order.

    The nodes at a depth are those left of the comparisons above, then those right of
    them. Trees of one leaf are left out.
    """
    frontier = [tree for tree in ensemble.trees if tree.left]
    found: dict[tuple[int, float], int] = {}
    levels, values = list[_Level](), list[tuple[float, ...]]()
    while frontier:
        inner = [i for i, node in enumerate(frontier) if node.left]
        leaves = [i for i, node in enumerate(frontier) if not node.left]
        splits = [
            found.setdefault((frontier[i].feature, frontier[i].threshold), len(found))
            for i in inner
        ]
        levels.append(_Level(inner, splits, leaves))
        values += [frontier[i].value for i in leaves]
        below = [frontier[i].left for i in inner] + [frontier[i].right for i in inner]
        frontier = [node for node in below if node]
    return list(found), levels, values
