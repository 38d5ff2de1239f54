"""Networks trained with quantization: compiled with Concrete-ML as they were trained.

Nothing is quantized anew. What is chosen here is to how many bits accumulators are
rounded before a look-up: few bits make small, fast tables. The fewest that keep the
trained network's answers on the calibration rows are taken.
"""

from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.backends.plain import input_quantizers, output_steps
from privacy.fhe.compiled import Compiled, circuit_members
from privacy.publishing import accuracy
from privacy.quantized import QuantizedNetwork

_ROUNDINGS = (4, 5, 6, 7)
_BITS = {"model_inputs": 8, "op_inputs": 8, "op_weights": 8, "model_outputs": 8}
"""Of what the network itself does not quantize: its outputs, if anything."""
_SIMULATED_ROWS = 200
_AGREEMENT = 0.99
_ERROR = 0.05


def compile_quantized(
    network: QuantizedNetwork,
    calibration: Floats,
    *,
    p_error: float,
    activation: str,
    task: str,
) -> Compiled:
    """Compile a quantized network with the coarsest rounding that keeps its answers.

    Args:
        network: The trained graph.
        calibration: Standardised rows, (rows, features).
        p_error: Chance that one table look-up errs.
        activation: See `privacy.activations`.
        task: See `privacy.bundle.Manifest`.

    Raises:
        BackendError: None does, or none has secure parameters.
    """
    rows = calibration[:_SIMULATED_ROWS]
    exact = _module(network, calibration, None)
    clear = _answers(exact, rows, fhe="disable")
    why = ""
    for rounding in _ROUNDINGS:
        module = _module(network, calibration, rounding)
        try:
            circuit = module.compile(calibration, p_error=p_error)
        except RuntimeError as exc:
            if "NoParametersFound" not in str(exc):
                raise
            why = f"rounded to {rounding} bits: no secure parameters exist"
            continue
        close = accuracy(
            _answers(module, rows, fhe="simulate"),
            clear,
            activation=activation,
            task=task,
        )
        spread = float(clear.max() - clear.min())
        kept = close.get("label_agreement", 1.0) >= _AGREEMENT
        if kept and (task == "classification" or close["max_error"] <= _ERROR * spread):
            return _compiled(module, circuit, calibration, rounding)
        why = f"rounded to {rounding} bits it loses the network's answers"
    raise BackendError(f"the quantized network: {why}", code="fhe-compile-failed")


def _module(network: QuantizedNetwork, rows: Floats, rounding: int | None) -> Any:
    import onnx
    from concrete.ml.torch.compile import build_quantized_module

    how = {"n_bits": rounding, "method": "approximate"} if rounding else None
    return build_quantized_module(
        onnx.load_from_string(network.qonnx),
        rows,
        import_qat=True,
        n_bits=dict(_BITS),
        rounding_threshold_bits=how,
    )


def _answers(module: Any, rows: Floats, *, fhe: str) -> Floats:
    integers = module.quantized_forward(module.quantize_input(rows), fhe=fhe)
    found: Floats = module.dequantize_output(integers).reshape(len(rows), -1)
    return found


def _compiled(
    module: Any, circuit: Any, calibration: Floats, rounding: int
) -> Compiled:
    def integers(values: Ints) -> Ints:
        return np.asarray(module.quantized_forward(values, fhe="simulate"))

    return Compiled(
        circuit="concrete-ml",
        family="quantized network",
        n_bits={"rounding": rounding},
        **circuit_members(circuit),
        features=calibration.shape[1],
        quantizers=input_quantizers(module.input_quantizers),
        output=output_steps(module.output_quantizers[0]),
        theirs_quantize=module.quantize_input,
        theirs_integers=integers,
        theirs_outputs=module.dequantize_output,
        exact=False,
    )
