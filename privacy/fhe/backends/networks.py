"""Networks of any shape with Concrete-ML: quantized after training, rounded roughly.

Dense ones become circuits of our own instead; see `privacy.fhe.dense_plan`.
"""

from pathlib import Path

import numpy as np

from privacy.encoding import Json
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.backends.plain import extremes, input_quantizers, output_steps
from privacy.fhe.compiled import Compiled, circuit_members
from privacy.fhe.quantizers import quantize

NETWORK_BITS = (
    ({"model_inputs": 6, "op_inputs": 6, "op_weights": 3, "model_outputs": 6}, 5),
    ({"model_inputs": 5, "op_inputs": 4, "op_weights": 3, "model_outputs": 6}, 4),
    ({"model_inputs": 4, "op_inputs": 3, "op_weights": 2, "model_outputs": 5}, 3),
)
"""Bits for the parts of a network, and the bits its accumulators are rounded to."""
NETWORK_CLIP = 0.99
"""Quantile of |x| beyond which a network's inputs are clipped: one quantizer serves all
features, and without this an outlier in one takes the precision of all (.88 to .95 of
labels agree on a small network, .98 with it)."""


def compile_network(
    onnx: Path, parts: Json, rounding: int, calibration: Floats, p_error: float
) -> Compiled:
    """Compile a network.

    Args:
        onnx: The core model.
        parts: Bits for its parts, as in `NETWORK_BITS`.
        rounding: Bits that accumulators are rounded to.
        calibration: Standardised rows, (rows, features).
        p_error: Chance that one table look-up errs.
    """
    import onnx as onnx_library
    from concrete.ml.torch.compile import build_quantized_module

    limit = np.quantile(np.abs(calibration), NETWORK_CLIP)
    calibration = np.clip(calibration, -limit, limit)
    module = build_quantized_module(
        onnx_library.load(str(onnx)),
        calibration,
        n_bits=dict(parts),
        rounding_threshold_bits={"n_bits": rounding, "method": "approximate"},
    )
    quantizers = input_quantizers(module.input_quantizers)
    seen = quantize(calibration, quantizers)  # all corners at once cost twice the time
    circuit = module.compile(
        np.concatenate(
            [calibration, *extremes(quantizers, seen.min(axis=0), seen.max(axis=0))]
        ),
        p_error=p_error,
    )

    def integers(values: Ints) -> Ints:
        found: Ints = module.quantized_forward(values, fhe="simulate")
        return found

    return Compiled(
        circuit="concrete-ml",
        family="network",
        n_bits={**parts, "rounding": rounding},
        **circuit_members(circuit),
        features=calibration.shape[1],
        quantizers=quantizers,
        output=output_steps(module.output_quantizers[0]),
        theirs_quantize=module.quantize_input,
        theirs_integers=integers,
        theirs_outputs=module.dequantize_output,
        exact=False,
    )
