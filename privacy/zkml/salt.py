"""Salted inputs: a proof's commitment that nobody can guess, and of one job only.

A salted circuit takes a row with eight more elements, which it ignores. The commitment
covers them: 128 bits derived from the job's salt, which only the parties to the job
know. So nobody finds the row by trying rows, and a proof of another job, even about
the same row, has another commitment.
"""

from pathlib import Path

import numpy as np

from privacy.salt import ELEMENTS, LARGEST, elements
from privacy.zkml.onnx_prep import input_name

__all__ = ["ELEMENTS", "LARGEST", "elements", "widen_input"]


def widen_input(path: Path, features: int) -> None:
    """Rewrite a model with a batch of one to take the salt's elements, and ignore them.

    Args:
        path: The ONNX model, changed in place.
        features: Width of its input.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph, name = model.graph, input_name(model.graph)
    wide = f"{name}_salted"
    limits = {"start": 0, "end": features, "axis": 1}
    for what, value in limits.items():
        tensor = numpy_helper.from_array(np.array([value], np.int64), f"salt_{what}")
        graph.initializer.append(tensor)
    names = [wide, *(f"salt_{what}" for what in limits)]
    graph.node.insert(0, helper.make_node("Slice", names, [name], name="drop_salt"))
    (given,) = [value for value in graph.input if value.name == name]
    given.name = wide
    given.type.tensor_type.shape.dim[1].dim_value = features + ELEMENTS
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
