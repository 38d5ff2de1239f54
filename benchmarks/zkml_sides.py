"""The two sides of a comparison of proofs, each in a child process of its own."""

import asyncio
import inspect
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from privacy.activations import activate
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.publishing import PartRequest, accuracy
from privacy.zkml.choose import Circuit, Model, answers, prepare
from privacy.zkml.field import dequantize, quantize
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.prove import prove_row
from privacy.zkml.system import Visibility, load_backend
from privacy.zkml.tune import parse_options, tune


class Side(Protocol):
    """One way to make a circuit of a model."""

    def facts(self) -> Json:
        """Return sizes, how it was made, and how close its answers are."""

    def prove(self) -> Json:
        """Return what a proof took."""


class Tuned:
    """Our tuner's circuit."""

    def __init__(self, part: PartRequest, model: Model, visibility: Visibility) -> None:
        """Tune, with nothing in the cache."""
        self._backend = load_backend()
        self._circuit: Circuit
        options = parse_options({}, visibility)
        quiet: Progress = lambda _: None  # noqa: E731
        self._tuned = tune(self._backend, model, options, part.out, quiet)
        self._circuit = self._tuned.circuit
        bits = self._circuit.facts.input_scale_bits
        self._row = quantize(model.held[:1], scale_bits=bits)[0]
        made = answers(self._backend, self._circuit, model.held)
        self._close = _close(made, model)

    def facts(self) -> Json:
        """See `Side`."""
        report, files = self._tuned.report, self._circuit.files
        kept = ("considered", "proofs", "seconds", "chosen")
        return {
            **{name: report[name] for name in kept},
            "proving_key_bytes": files.proving_key.stat().st_size,
            **self._close,
        }

    def prove(self) -> Json:
        """See `Side`."""
        bits, files = self._circuit.facts.input_scale_bits, self._circuit.files
        start, cpu = time.perf_counter(), time.process_time()
        proof = prove_row(self._backend, files, self._row, files.root, scale_bits=bits)
        took = time.perf_counter() - start
        spent = time.process_time() - cpu
        start = time.perf_counter()
        self._backend.verify(files, proof)
        return {
            "prove_s": took,
            "cpu_s": spent,
            "verify_s": time.perf_counter() - start,
            "proof_bytes": len(proof.proof),
        }


class Default:
    """EZKL as its manual shows it: default arguments, calibrated for resources."""

    def __init__(self, part: PartRequest, model: Model, visibility: Visibility) -> None:
        """Make the circuit and its keys."""
        import ezkl

        self._at = part.out / "default"
        self._at.mkdir()
        fix_batch(part.onnx, self._at / "model.onnx")
        args: Any = ezkl.PyRunArgs()
        args.input_visibility = visibility.input
        args.output_visibility, args.param_visibility = "public", "fixed"
        self._call(ezkl.gen_settings, "model.onnx", "settings.json", py_run_args=args)
        rows = np.load(part.held)[:100].astype(np.float64)
        calibration = np.load(part.calibration)[:40].astype(np.float64)
        self._write("calibration.json", calibration.ravel())
        names = ("calibration.json", "model.onnx", "settings.json")
        self._call(ezkl.calibrate_settings, *names, target="resources")
        self._call(ezkl.compile_circuit, "model.onnx", "net.ezkl", "settings.json")
        self._settings = json.loads((self._at / "settings.json").read_text())
        logrows = self._settings["run_args"]["logrows"]
        ezkl.gen_srs(str(self._at / "srs"), logrows)
        self._call(ezkl.setup, "net.ezkl", "vk", "pk", "srs")
        self._close = _close(self._answers(rows), model)
        self._write("input.json", rows[0])

    def _call(self, function: Any, *names: str, **options: Any) -> Any:
        async def go() -> Any:
            here = [str(self._at / name) for name in names]
            made = function(*here, **options)
            return await made if inspect.isawaitable(made) else made

        return asyncio.run(go())

    def _write(self, name: str, row: Any) -> None:
        (self._at / name).write_text(json.dumps({"input_data": [row.tolist()]}))

    def _answers(self, rows: Any) -> Any:
        import ezkl

        bits, made = self._settings["model_output_scales"][0], []
        for row in rows:
            self._write("row.json", row)
            found = self._call(ezkl.gen_witness, "row.json", "net.ezkl", "row.witness")
            felts = [
                int.from_bytes(bytes.fromhex(f), "little")
                for tensor in found["outputs"]
                for f in tensor
            ]
            made.append(dequantize(felts, scale_bits=bits))
        return np.array(made)

    def facts(self) -> Json:
        """See `Side`."""
        key = (self._at / "pk").stat().st_size
        return {"proving_key_bytes": key, **self._close}

    def prove(self) -> Json:
        """See `Side`."""
        import ezkl

        start, cpu = time.perf_counter(), time.process_time()
        self._call(ezkl.gen_witness, "input.json", "net.ezkl", "witness")
        self._call(ezkl.prove, "witness", "net.ezkl", "pk", "proof", "srs")
        took = time.perf_counter() - start
        spent = time.process_time() - cpu
        start = time.perf_counter()
        self._call(ezkl.verify, "proof", "settings.json", "vk", "srs")
        proof = json.loads((self._at / "proof").read_text())["proof"]
        return {
            "prove_s": took,
            "cpu_s": spent,
            "verify_s": time.perf_counter() - start,
            "proof_bytes": len(proof),
        }


def _close(made: Any, model: Model) -> Json:
    """Return how close answers are, or that they are of another shape."""
    if made.shape != model.clear.shape or not np.isfinite(activate(made, "none")).all():
        return {"max_error": float("nan")}
    return accuracy(made, model.clear, activation=model.activation, task=model.task)


def handler() -> Handler:
    """Return what serves one side: first made from a request, then asked to prove."""
    held: list[Side] = []
    scratch = tempfile.TemporaryDirectory()

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        if "side" in request:
            part = PartRequest.from_json({**request["part"], "out": scratch.name})
            model = prepare(part, Path(scratch.name))
            sides: dict[str, Any] = {"tuned": Tuned, "default": Default}
            visibility = Visibility(input=request["input"])
            held.append(sides[request["side"]](part, model, visibility))
            return held[0].facts()
        made = held[0].prove()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {**made, "peak_rss_bytes": peak}

    return serve
