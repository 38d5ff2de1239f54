"""PyTorch models as ONNX files of one row, and what these hold and give."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from privacy.zkml.onnx_prep import fix_batch, open_session


def export(path: Path, module: Any, *, features: int) -> None:
    """Write a module as publishing would have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, features),), str(path), input_names=["x"]
        )
    fix_batch(path, path)


def answers(path: Path, *, rows: Any) -> Any:
    """Return what ONNX Runtime gives for rows, one at a time."""
    session, name = open_session(path.read_bytes())
    return np.concatenate([session.run(None, {name: row[None]})[0] for row in rows])


def operators(path: Path) -> list[str]:
    """Return the operators of a file, in its order."""
    return [str(node.op_type) for node in onnx.load(str(path)).graph.node]
