"""Find the settings that make a small circuit of a model and keep its answers.

Every choice is compiled; from the smallest circuit up, the first one that passes the
gate is taken: on held rows, and on the corners of the input range, beyond every sample.
Answers come from witnesses, which are cheap and equal to what a proof would say.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError
from privacy.publishing import PartRequest, accuracy
from privacy.zkml.candidates import shortfall
from privacy.zkml.corners import far_corners, widened_range
from privacy.zkml.field import dequantize, quantize
from privacy.zkml.onnx_prep import fix_batch, open_session
from privacy.zkml.prescale import prescale
from privacy.zkml.system import CircuitChoice, CircuitFacts, CircuitFiles, ProofSystem

_CALIBRATION_ROWS = 40
_CHECKED_ROWS = 100
_MARGIN = 0.25
_CORNER_SHARE = 0.9
"""Corners are far from the data: a few may differ, but a wrapping circuit fails."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model with a batch of one, and the rows it is tried on.

    `calibration`, `corners` and `held` are as the circuit takes them: less `offset`, by
    `scale`. `low` and `high`, the range that jobs may use, are before that.
    """

    onnx: Path
    calibration: Any
    corners: Any
    held: Any
    clear: Any
    corners_clear: Any
    low: Any
    high: Any
    offset: Any
    scale: Any
    task: str
    activation: str


@dataclass(frozen=True, slots=True)
class Circuit:
    """A choice, compiled; and how close it came, once it was checked."""

    choice: CircuitChoice
    facts: CircuitFacts
    files: CircuitFiles
    accuracy: Json = field(default_factory=dict)


def prepare(request: PartRequest, scratch: Path) -> Model:
    """Return the model with a batch of one, and rows to calibrate and check it on.

    Raises:
        FormatError: The model or the rows are not of the expected shape.
    """
    onnx = scratch / "model.onnx"
    features = fix_batch(request.onnx, onnx)
    calibration, held = np.load(request.calibration), np.load(request.held)
    if calibration.shape[1:] != (features,) or held.shape[1:] != (features,):
        msg = f"the model takes {features} features, the calibration rows differ"
        raise FormatError(msg, code="wrong-feature-count")
    low, high = widened_range(np.concatenate([calibration, held]), margin=_MARGIN)
    offset, scale = prescale(onnx, low, high)
    corners = far_corners(onnx, (low - offset) / scale, (high - offset) / scale)
    return Model(
        onnx=onnx,
        calibration=(calibration[:_CALIBRATION_ROWS] - offset) / scale,
        corners=corners,
        held=(held[:_CHECKED_ROWS] - offset) / scale,
        clear=np.load(request.clear)[:_CHECKED_ROWS],
        corners_clear=run_onnx(onnx, corners),
        low=low,
        high=high,
        offset=offset,
        scale=scale,
        task=request.task,
        activation=request.activation,
    )


def run_onnx(onnx: Path, rows: Any) -> Any:
    """Return the raw outputs of ONNX Runtime, float64, shape (rows, outputs)."""
    session, name = open_session(onnx.read_bytes())
    made = [
        session.run(None, {name: np.asarray(row, dtype=np.float32)[None]})[0].ravel()
        for row in rows
    ]
    return np.array(made, dtype=np.float64)


def choose(
    backend: ProofSystem,
    model: Model,
    choices: Sequence[CircuitChoice],
    scratch: Path,
    progress: Progress,
) -> tuple[Circuit | None, str]:
    """Return the smallest circuit that passes the gate, or None and why none did.

    Args:
        backend: The proof system.
        model: See `prepare`.
        choices: Settings to try.
        scratch: A folder for the circuits.
        progress: Told how far it is.

    Raises:
        BackendError: The engine panicked.
    """
    reasons: dict[str, str] = {}

    def refuse(choice: CircuitChoice, reason: str) -> None:
        bits, base, legs = choice.scale_bits, choice.decomp_base, choice.decomp_legs
        reasons.setdefault(reason, f"{bits} bits, base {base}^{legs}: {reason}")

    circuits = []
    for i, choice in enumerate(choices):
        progress({"stage": "compile", "done": i, "total": len(choices)})
        try:
            circuits.append(_compile(backend, model, choice, scratch / str(i)))
        except (BackendError, FormatError) as exc:
            if exc.code == "engine-panicked":  # its state is unknown: go no further
                raise
            refuse(choice, exc.message)
    circuits.sort(key=lambda c: c.facts.assignments)
    for i, circuit in enumerate(circuits):
        progress({"stage": "check accuracy", "done": i, "total": len(circuits)})
        try:
            return _check(backend, model, circuit), ""
        except FormatError as exc:
            refuse(circuit.choice, exc.message)
    tried = "; ".join(reasons.values())
    return None, f"no circuit came close enough to the clear model. Tried {tried}"


def _compile(
    backend: ProofSystem, model: Model, choice: CircuitChoice, root: Path
) -> Circuit:
    root.mkdir()
    files = CircuitFiles(root)
    rows = np.concatenate([model.calibration, model.corners])
    quantized = quantize(rows, scale_bits=choice.scale_bits)
    facts = backend.compile(model.onnx, quantized, choice, files)
    if facts.input_scale_bits != choice.scale_bits:
        raise BackendError("the engine changed the input's scale")
    return Circuit(choice, facts, files)


def _check(backend: ProofSystem, model: Model, circuit: Circuit) -> Circuit:
    """Return the circuit with its accuracy.

    Raises:
        FormatError: It does not pass the gate, or rows leave its range.
    """
    activation, task = model.activation, model.task
    made = _answers(backend, circuit, model.corners)
    if made.shape != model.corners_clear.shape or made.shape[1] != model.clear.shape[1]:
        msg = f"the circuit has {made.shape[1]} outputs, not {model.clear.shape[1]}"
        raise FormatError(msg, code="wrong-output-count")
    reason = shortfall(
        made, model.corners_clear, activation=activation, task=task, share=_CORNER_SHARE
    )
    if reason:
        msg = f"at the corners of the input range, {reason}"
        raise FormatError(msg, code="inaccurate")
    made = _answers(backend, circuit, model.held)
    reason = shortfall(made, model.clear, activation=activation, task=task)
    if reason:
        raise FormatError(reason, code="inaccurate")
    return replace(
        circuit, accuracy=accuracy(made, model.clear, activation=activation, task=task)
    )


def _answers(backend: ProofSystem, circuit: Circuit, rows: Any) -> Any:
    """Return the circuit's raw outputs, from witnesses, without proofs."""
    outputs = []
    facts, files = circuit.facts, circuit.files
    bits = facts.input_scale_bits
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "row.witness"
        for row in quantize(rows, scale_bits=bits):
            made = backend.witness(files, row, path, scale_bits=bits).instances[1:]
            outputs.append(dequantize(list(made), scale_bits=facts.output_scale_bits))
    return np.array(outputs)
