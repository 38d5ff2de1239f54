"""ONNX Runtime behind one small class: the only place in this mode that names it."""

import os
from typing import Any

from privacy.errors import BackendError

Rows = list[list[float]]

_FEATURES_DIMENSION = 2
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def load_libraries() -> None:
    """Load what `Engine` runs on: afterwards it needs no file.

    Raises:
        BackendError: ONNX Runtime is missing.
    """
    try:
        import numpy as np
        import onnxruntime
    except ImportError as exc:
        msg = "ONNX Runtime is not installed: install privacy-compute[tee]"
        raise BackendError(msg, code="engine-missing") from exc
    _ = np, onnxruntime


class Engine:
    """One model, loaded; safe to run from several threads.

    Attributes:
        columns: How many features the model takes.
        providers: The execution providers in use, the preferred one first.
    """

    def __init__(self, model: bytes, *, may_use_gpu: bool = True) -> None:
        """Load a model.

        Args:
            model: ONNX, float32 input (rows, features), raw outputs (rows, outputs).
            may_use_gpu: Run it on a GPU if ONNX Runtime can, else on the CPU.

        Raises:
            BackendError: ONNX Runtime is missing or cannot load this model.
        """
        load_libraries()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: its messages may quote inputs
        # Stated, so that ONNX Runtime pins no thread to a core: a sandbox denies that.
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _session(model, options, may_use_gpu=may_use_gpu)
        self.providers = tuple(self._session.get_providers())
        self.columns = _columns(self._session.get_inputs())
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def run(self, rows: Rows) -> Rows:
        """Return raw outputs, shape (rows, outputs).

        Args:
            rows: Standardised features, shape (rows, columns).

        Raises:
            BackendError: The engine failed, or an output is not finite.
        """
        import numpy as np

        batch = np.asarray(rows, dtype=np.float32)
        try:
            (raw,) = self._session.run([self._output], {self._input: batch})
            outputs = np.asarray(raw, dtype=np.float64).reshape(len(rows), -1)
        except Exception as exc:  # noqa: BLE001 - any of ONNX Runtime's own
            # Only the type, and no cause: the engine's message may quote the input.
            msg = f"ONNX Runtime failed on the input ({type(exc).__name__})"
            raise BackendError(msg) from None
        if not np.isfinite(outputs).all():
            msg = "the model gave an output that is not finite"
            raise BackendError(msg, code="output-not-finite")
        result: Rows = outputs.tolist()
        return result


def _session(model: bytes, options: Any, *, may_use_gpu: bool) -> Any:
    """Return a session on the GPU, or on the CPU where that cannot be.

    Raises:
        BackendError: Nor can it be on the CPU.
    """
    import onnxruntime

    choices = [[_CPU]]
    if may_use_gpu and _CUDA in onnxruntime.get_available_providers():
        choices.insert(0, [_CUDA, _CPU])  # which a sandbox without devices denies
    failed: Exception | None = None
    for providers in choices:
        try:
            return onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as exc:  # noqa: BLE001 - any of ONNX Runtime's own
            failed = exc
    msg = f"ONNX Runtime cannot load the model ({type(failed).__name__})"
    raise BackendError(msg, code="model-not-loadable") from failed


def _columns(inputs: Any) -> int:
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != _FEATURES_DIMENSION or not isinstance(shape[1], int):
        msg = f"the model's input has shape {shape}, expected (rows, features)"
        raise BackendError(msg, code="model-not-loadable")
    return shape[1]
