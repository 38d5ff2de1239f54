"""The two sides of a comparison of proofs: who makes the circuit and its keys."""

import asyncio
import inspect
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.activations import activate
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.publishing import PartRequest
from privacy.zkml.choose import Circuit, Model, answers, prepare
from privacy.zkml.field import quantize
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.srs import verifier_srs
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFacts,
    CircuitFiles,
    Visibility,
    load_backend,
)
from privacy.zkml.tune import parse_options, tune

_FEW_ROWS = 8
_LARGE = 200
"""Models of more features are calibrated on few rows by the default side."""


def _tuned(part: PartRequest, model: Model, visibility: Visibility) -> Json:
    """Tune, with nothing in the cache; the circuit then lies in `part.out`."""
    backend, options = load_backend(), parse_options({}, visibility)
    with tempfile.TemporaryDirectory() as scratch:
        tuned = tune(backend, model, options, Path(scratch), lambda _: None)
        shutil.copytree(tuned.circuit.files.root, part.out, dirs_exist_ok=True)
    report = tuned.report
    kept = ("considered", "proofs", "seconds", "chosen")
    circuit = replace(tuned.circuit, files=CircuitFiles(part.out))
    expected = [(t["expected"]["prove_s"], t["prove_s"]) for t in report["tried"]]
    made = {**{name: report[name] for name in kept}, "expected_and_taken_s": expected}
    return {**made, **_facts(circuit, model)}


def _default(part: PartRequest, model: Model, visibility: Visibility) -> Json:
    """Make a circuit as EZKL's manual does: default arguments, then `resources`.

    Calibration keeps the default scale: left to itself it takes finer ones where there
    are lookup tables, and circuits four times as large.
    """
    import ezkl

    files = CircuitFiles(part.out)
    fix_batch(part.onnx, files.onnx)
    args: Any = ezkl.PyRunArgs()
    args.input_visibility = visibility.input
    args.output_visibility, args.param_visibility = "public", "fixed"
    _call(ezkl.gen_settings, files.onnx, files.settings, py_run_args=args)
    rows = np.load(part.calibration)[:40].astype(np.float64)
    if rows.shape[1] > _LARGE:
        rows = rows[:_FEW_ROWS]
    data = part.out / "calibration.json"
    data.write_text(json.dumps({"input_data": [rows.ravel().tolist()]}))
    _call(
        ezkl.calibrate_settings,
        data,
        files.onnx,
        files.settings,
        target="resources",
        scales=[args.input_scale],
        scale_rebase_multiplier=[args.scale_rebase_multiplier],
    )
    _call(ezkl.compile_circuit, files.onnx, files.network, files.settings)
    settings = json.loads(files.settings.read_text())
    logrows = settings["run_args"]["logrows"]
    ezkl.gen_srs(str(files.srs), logrows)
    files.verifier_srs.write_bytes(verifier_srs(files.srs))
    _call(ezkl.setup, files.network, files.verifying_key, files.proving_key, files.srs)
    return _facts(_circuit(settings, files), model)


def _call(function: Any, *paths: Path, **options: Any) -> None:
    async def go() -> None:
        made = function(*map(str, paths), **options)
        if inspect.isawaitable(made):
            await made

    asyncio.run(go())


def _circuit(settings: Json, files: CircuitFiles) -> Circuit:
    args = settings["run_args"]
    names = set(CircuitChoice.__slots__) - {"scale_bits"}
    choice = CircuitChoice(args["input_scale"], **{n: args[n] for n in names})
    return Circuit(
        choice,
        CircuitFacts(
            logrows=args["logrows"],
            table_rows=0,
            input_scale_bits=settings["model_input_scales"][0],
            output_scale_bits=settings["model_output_scales"][0],
        ),
        files,
        salted=False,
    )


def _facts(circuit: Circuit, model: Model) -> Json:
    """Return a circuit's size, how close its answers are, and a row to prove."""
    bits = circuit.facts.input_scale_bits
    made = np.array([_answer(circuit, row, model) for row in model.held])
    ran = np.isfinite(made).all(axis=1)
    first = int(ran.argmax())
    return {
        "root": str(circuit.files.root),
        "row": quantize(model.held[first : first + 1], scale_bits=bits)[0],
        "scale_bits": bits,
        "logrows": circuit.facts.logrows,
        "proving_key_bytes": circuit.files.proving_key.stat().st_size,
        "refused_rows": int((~ran).sum()),
        **_close(made[ran], model.clear[ran], model),
    }


def _answer(circuit: Circuit, row: Any, model: Model) -> Any:
    """Return a row's raw outputs, not numbers if it leaves the circuit's range."""
    try:
        return answers(load_backend(), circuit, row[None])[0]
    except FormatError:
        return np.full(model.clear.shape[1], np.nan)


def _close(made: Any, clear: Any, model: Model) -> Json:
    """Return how close answers are."""
    ours, theirs = (activate(m, model.activation) for m in (made, clear))
    found = {"max_error": float(np.abs(ours - theirs).max()), "rows": len(ours)}
    if model.task == "classification":
        if ours.shape[1] == 1:  # a probability alone
            ours, theirs = (np.hstack([1 - p, p]) for p in (ours, theirs))
        same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        found["label_agreement"] = float(same.mean())
    else:  # values have a unit: relative to their spread
        found["max_error"] /= float(theirs.max() - theirs.min())
    return found


def handler() -> Handler:
    """Return what makes one side's circuit and keys in the folder `part.out`."""
    sides = {"tuned": _tuned, "default": _default}

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        part = PartRequest.from_json(request["part"])
        with tempfile.TemporaryDirectory() as scratch:
            model = prepare(part, Path(scratch))
            if request["side"] == "default":  # it knows no prescaling
                model = replace(
                    model, held=np.load(part.held)[: len(model.held)].astype(float)
                )
            cpu = os.times()
            visibility = Visibility(input=request["input"])
            made = sides[request["side"]](part, model, visibility)
            spent = sum(os.times()[:2]) - sum(cpu[:2])
        return {**made, "making_cpu_s": spent}

    return serve
