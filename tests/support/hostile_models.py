"""Models that ask for more than a model may have."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SECRET = "secret.bin"
"""A file beside the process: weights of a model of `reads_a_file`, 24 bytes."""


def _model(nodes, initializers=(), *, columns=3, opsets=(("", 17),)):
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, [None, None])],
        list(initializers),
    )
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    return model.SerializeToString()


def reads_a_file(location=SECRET):
    """Its weights are bytes of a file: every answer tells what that file holds."""
    weights = onnx.TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[3, 2], data_location=1
    )
    weights.external_data.add(key="location", value=location)
    return _model([helper.make_node("MatMul", ["rows", "w"], ["raw"])], [weights])


def needs_code_of_its_own():
    """One of its operators is in a library that somebody would have to load."""
    node = helper.make_node("OpenSocket", ["rows"], ["raw"], domain="com.example")
    return _model([node], opsets=(("", 17), ("com.example", 1)))


def claims_huge_weights():
    """Weights of four terabytes, of which the file holds eight bytes."""
    weights = onnx.TensorProto(
        name="w",
        data_type=TensorProto.FLOAT,
        dims=[1 << 20, 1 << 20],
        raw_data=bytes(8),
    )
    return _model([helper.make_node("MatMul", ["rows", "w"], ["raw"])], [weights])


def fills_memory_at_load():
    """A constant of four terabytes, which is computed when the model is loaded."""
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "shape")
    return _model([helper.make_node("ConstantOfShape", ["shape"], ["raw"])], [shape])


def fills_memory_at_run():
    """An answer of four terabytes to each row."""
    repeats = numpy_helper.from_array(np.array([1, 1 << 38]), "repeats")
    return _model([helper.make_node("Tile", ["rows", "repeats"], ["raw"])], [repeats])


def never_ends():
    """A loop of 2**62 turns."""
    turns = numpy_helper.from_array(np.array(1 << 62), "turns")
    truth = numpy_helper.from_array(np.array(1, dtype=bool), "yes")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Sin", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3]),
        ],
    )
    loop = helper.make_node("Loop", ["turns", "yes", "rows"], ["raw"], body=body)
    return _model([loop], [turns, truth])


REFUSED_AT_LOAD = (
    reads_a_file,
    needs_code_of_its_own,
    claims_huge_weights,
)
REFUSED_AT_RUN = (fills_memory_at_load, fills_memory_at_run)
"""The first computes its constant when it is loaded, or at the latest here."""
