"""Tiny models for the enclave."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from privacy.tee.client import TeeSession
from privacy.tee.measure import measure

MODEL_SHA256 = "ab" * 32
WEIGHTS = np.array([[1, 0], [-2, 0.5], [3, 0]], dtype=np.float32)


def linear_model(weights=WEIGHTS, features=None):
    """Return a model that multiplies by `weights`, as ONNX bytes."""
    features = features or weights.shape[0]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "w"], ["raw"])],
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def attested_session(enclave, model_dir, now):
    """Return a client's session with an enclave whose evidence it has checked."""
    session = TeeSession(
        model_sha256=enclave.model_sha256,
        reference=measure(model_dir / "model.onnx").as_dict(),
        columns=3,
        allow_simulated=True,
    )
    session.check_evidence(enclave.evidence(session.nonce), now=now)
    return session
