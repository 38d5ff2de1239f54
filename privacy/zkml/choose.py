"""A model made ready for circuits, a circuit of it, and the check of its answers.

Answers come from witnesses, which are cheap and equal to what a proof would say: on
held rows, and on the corners of the input range, beyond every sample.
"""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.encoding import Json
from privacy.errors import BackendError, FormatError
from privacy.publishing import PartRequest, accuracy
from privacy.zkml.candidates import Grade, shortfall
from privacy.zkml.corners import far_corners, widened_range
from privacy.zkml.field import dequantize, quantize
from privacy.zkml.onnx_prep import fix_batch, open_session
from privacy.zkml.rewrite import rewrite
from privacy.zkml.salt import ELEMENTS, LARGEST, widen_input
from privacy.zkml.scratch import memory_file
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFacts,
    CircuitFiles,
    ProofSystem,
    Visibility,
)

_CALIBRATION_ROWS = 40
_CHECKED_ROWS = 100
_AT_ONCE = 5
_MARGIN = 0.25
_AT_CORNERS = Grade(part=1.0, share=0.9)
"""Corners are far from the data: a few may differ, but a wrapping circuit fails."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model with a batch of one, and the rows it is tried on.

    `calibration`, `corners` and `held` are as the circuit takes them: less `offset`, by
    `scale`. `low` and `high`, the range that jobs may use, are before that.
    The circuit's outputs are 2**output_bits times the model's.
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
    output_bits: int
    task: str
    activation: str
    salted: bool


@dataclass(frozen=True, slots=True)
class Circuit:
    """A choice, compiled; and how close it came, once it was checked."""

    choice: CircuitChoice
    facts: CircuitFacts
    files: CircuitFiles
    salted: bool
    accuracy: Json = field(default_factory=dict)

    def inputs(self, rows: Any) -> list[list[int]]:
        """Return rows as the circuit takes them, with the largest salt there is."""
        return _inputs(rows, self.facts.input_scale_bits, salted=self.salted)


@dataclass(frozen=True, slots=True)
class Checked:
    """How close a circuit came, and its raw outputs at the corners."""

    accuracy: Json
    at_corners: Any


def prepare(request: PartRequest, scratch: Path, *, salted: bool = False) -> Model:
    """Return the model with a batch of one, and rows to calibrate and check it on.

    Args:
        request: The model and its rows.
        scratch: A folder for the model as circuits are made of it.
        salted: See `privacy.zkml.salt`.

    Raises:
        FormatError: The model or the rows are not of the expected shape.
    """
    onnx, plain = scratch / "model.onnx", scratch / "plain.onnx"
    features = fix_batch(request.onnx, plain)
    shutil.copyfile(plain, onnx)
    calibration, held = np.load(request.calibration), np.load(request.held)
    if calibration.shape[1:] != (features,) or held.shape[1:] != (features,):
        msg = f"the model takes {features} features, the calibration rows differ"
        raise FormatError(msg, code="wrong-feature-count")
    low, high = widened_range(np.concatenate([calibration, held]), margin=_MARGIN)
    made = rewrite(onnx, low, high)
    offset, scale = made.offset, made.scale
    corners = far_corners(onnx, (low - offset) / scale, (high - offset) / scale)
    corners_clear = run_onnx(plain, corners * scale + offset)
    if salted:
        widen_input(onnx, features)
    return Model(
        onnx=onnx,
        calibration=(calibration[:_CALIBRATION_ROWS] - offset) / scale,
        corners=corners,
        held=(held[:_CHECKED_ROWS] - offset) / scale,
        clear=np.load(request.clear)[:_CHECKED_ROWS],
        corners_clear=corners_clear,
        low=low,
        high=high,
        offset=offset,
        scale=scale,
        output_bits=made.output_bits,
        task=request.task,
        activation=request.activation,
        salted=salted,
    )


def run_onnx(onnx: Path, rows: Any) -> Any:
    """Return the raw outputs of ONNX Runtime, float64, shape (rows, outputs)."""
    session, name = open_session(onnx.read_bytes())
    made = [
        session.run(None, {name: np.asarray(row, dtype=np.float32)[None]})[0].ravel()
        for row in rows
    ]
    return np.array(made, dtype=np.float64)


def _inputs(rows: Any, scale_bits: int, *, salted: bool) -> list[list[int]]:
    tail = [LARGEST] * (ELEMENTS if salted else 0)
    return [[*row, *tail] for row in quantize(rows, scale_bits=scale_bits)]


def compile_circuit(
    backend: ProofSystem,
    model: Model,
    choice: CircuitChoice,
    visibility: Visibility,
    root: Path,
) -> Circuit:
    """Return the circuit of a choice, in a new folder.

    Raises:
        BackendError: The engine cannot express the model with this choice.
        FormatError: A calibration row or a corner leaves the circuit's range.
    """
    root.mkdir()
    files = CircuitFiles(root)
    rows = np.concatenate([model.corners, model.calibration])
    quantized = _inputs(rows, choice.scale_bits, salted=model.salted)
    facts = backend.compile(model.onnx, quantized, choice, visibility, files)
    if facts.input_scale_bits != choice.scale_bits:
        raise BackendError("the engine changed the input's scale")
    bits = facts.output_scale_bits + model.output_bits
    facts = replace(facts, output_scale_bits=bits)
    return Circuit(choice, facts, files, model.salted)


def check(
    backend: ProofSystem, model: Model, circuit: Circuit, grade: Grade
) -> Checked:
    """Return how close a circuit comes.

    Args:
        backend: The proof system.
        model: What the answers are compared with.
        circuit: Compiled.
        grade: What is asked of the held rows.

    Raises:
        FormatError: It does not pass the gate (`inaccurate`), has other outputs, or
            rows leave its range (`out-of-range`).
    """
    made = judged(backend, circuit, model, model.held, model.clear, grade)
    far, grade_there = model.corners_clear, _AT_CORNERS
    try:
        there = judged(backend, circuit, model, model.corners, far, grade_there)
    except FormatError as exc:
        if exc.code != "inaccurate":
            raise
        msg = f"at the corners of the input range, {exc.message}"
        raise FormatError(msg, code="inaccurate") from exc
    found = accuracy(made, model.clear, activation=model.activation, task=model.task)
    return Checked(found, there)


def judged(
    backend: ProofSystem,
    circuit: Circuit,
    model: Model,
    rows: Any,
    clear: Any,
    grade: Grade,
) -> Any:
    """Return a circuit's raw outputs on rows, or stop at what no other row mends.

    Raises:
        FormatError: They do not pass (`inaccurate`), have another shape
            (`wrong-output-count`), or leave its range (`out-of-range`).
    """
    made = np.empty((0, clear.shape[1]))
    for start in range(0, len(rows), _AT_ONCE):
        more = answers(backend, circuit, rows[start : start + _AT_ONCE])
        if more.shape[1] != clear.shape[1]:
            msg = f"the circuit has {more.shape[1]} outputs, not {clear.shape[1]}"
            raise FormatError(msg, code="wrong-output-count")
        made = np.concatenate([made, more])
        reason = shortfall(  # were the rest as the clear model says
            np.concatenate([made, clear[len(made) :]]),
            clear,
            activation=model.activation,
            task=model.task,
            grade=grade,
        )
        if reason:
            raise FormatError(reason, code="inaccurate")
    return made


def answers(backend: ProofSystem, circuit: Circuit, rows: Any) -> Any:
    """Return the circuit's raw outputs, from witnesses, without proofs.

    Raises:
        FormatError: A row leaves the circuit's range.
    """
    outputs = []
    facts, files = circuit.facts, circuit.files
    bits = facts.input_scale_bits
    with memory_file() as path:
        for row in circuit.inputs(rows):
            made = backend.witness(files, row, path, scale_bits=bits)
            outputs.append(
                dequantize(list(made.outputs), scale_bits=facts.output_scale_bits)
            )
    return np.array(outputs)
