"""Compile a model into a circuit with keys, and measure it.

Plan:
    1. Fix the batch to one row; find the corners of the declared input range.
    2. Try settings from fast to safe until one passes the gate: on held rows, and on
       the corners, beyond every sample.
    3. Get an SRS, make the keys.
    4. Prove held rows for real, verify them, and see that a changed output is refused.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, PrivacyError, VerificationError
from privacy.publishing import PartRequest, PartResult, accuracy
from privacy.zkml.blobs import Proof
from privacy.zkml.candidates import CANDIDATES, shortfall
from privacy.zkml.corners import far_corners, widened_range
from privacy.zkml.field import MODULUS, dequantize, quantize
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.params import SrsFacts, ZkmlParams, instance_names
from privacy.zkml.prove import prove_row
from privacy.zkml.srs import obtain_srs, verifier_srs
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFacts,
    CircuitFiles,
    ProofSystem,
    load_backend,
)
from privacy.zkml.verify import PUBLIC_FILES

_CALIBRATION_ROWS = 40
_CHECKED_ROWS = 100
_PROVEN_ROWS = 3
_MARGIN = 0.25
_CORNER_SHARE = 0.9
"""Corners are far from the data: a few may differ, a circuit that wraps may not pass."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A model with one-row batch, and the rows it is tried on."""

    onnx: Path
    calibration: Any
    corners: Any
    held: Any
    clear: Any
    corners_clear: Any
    low: Any
    high: Any
    task: str
    activation: str


@dataclass(frozen=True, slots=True)
class _Circuit:
    """A choice that passed the gate, compiled."""

    choice: CircuitChoice
    facts: CircuitFacts
    accuracy: Json


def handler() -> Handler:
    """Return what serves a `PartRequest` in a child process.

    Options: `srs`, as `obtain_srs` takes it (`development` by default), and `settings`,
    a list of `CircuitChoice` members to try instead of our own.
    """

    def serve(request: Json, progress: Progress) -> Json:
        try:
            return _publish(PartRequest.from_json(request), progress).to_json()
        except PrivacyError as exc:
            return PartResult(available=False, reason=exc.message).to_json()

    return serve


def _publish(request: PartRequest, progress: Progress) -> PartResult:
    srs_choice, choices = _options(request.options)
    backend = load_backend()
    files = CircuitFiles(request.out)
    progress({"stage": "prepare"})
    with tempfile.TemporaryDirectory() as scratch:
        model = _prepare(request, Path(scratch))
        circuit, reason = _choose(backend, model, choices, files, progress)
        if circuit is None:
            return PartResult(available=False, reason=reason)
        progress({"stage": "setup"})
        srs = obtain_srs(srs_choice, circuit.facts.logrows, files.srs, backend=backend)
        files.verifier_srs.write_bytes(verifier_srs(files.srs))
        backend.setup(files)
        proof, cost = _measure(backend, files, model, circuit, Path(scratch), progress)
    return PartResult(
        available=True,
        accuracy=circuit.accuracy,
        cost=cost,
        params=_params(backend, model, circuit, srs, proof).to_json(),
        public=PUBLIC_FILES,
    )


def _options(options: Mapping[str, Any]) -> tuple[str, Sequence[CircuitChoice]]:
    unknown = sorted(set(options) - {"srs", "settings"})
    srs = options.get("srs", "development")
    settings = options.get("settings")
    if unknown or not isinstance(srs, str):
        msg = f"zkml takes the options srs and settings, not {', '.join(unknown)[:100]}"
        raise FormatError(msg, code="bad-option")
    if settings is None:
        return srs, CANDIDATES
    try:
        choices = [CircuitChoice(**s) for s in settings]
    except TypeError as exc:
        names = ", ".join(CircuitChoice.__slots__)
        msg = f"zkml's option settings is a list of objects with {names}"
        raise FormatError(msg, code="bad-option") from exc
    for choice in choices:
        _check_choice(choice)
    return srs, choices


def _check_choice(choice: CircuitChoice) -> None:
    """Refuse what EZKL's Python interface takes without a look (a base of 0, say)."""
    limits = {
        "scale_bits": (1, 20),
        "decomp_base": (2, 1 << 16),
        "decomp_legs": (1, 16),
        "num_inner_cols": (1, 16),
        "scale_rebase_multiplier": (1, 16),
    }
    for name, (least, most) in limits.items():
        value = getattr(choice, name)
        if type(value) is not int or not least <= value <= most:
            msg = f"zkml's setting {name} is not a whole number from {least} to {most}"
            raise FormatError(msg, code="bad-option")


def _prepare(request: PartRequest, scratch: Path) -> _Model:  # 1
    onnx = scratch / "model.onnx"
    features = fix_batch(request.onnx, onnx)
    calibration, held = np.load(request.calibration), np.load(request.held)
    if calibration.shape[1:] != (features,) or held.shape[1:] != (features,):
        msg = f"the model takes {features} features, the calibration rows differ"
        raise FormatError(msg, code="wrong-feature-count")
    low, high = widened_range(np.concatenate([calibration, held]), margin=_MARGIN)
    corners = far_corners(onnx, low, high)
    return _Model(
        onnx=onnx,
        calibration=calibration[:_CALIBRATION_ROWS],
        corners=corners,
        held=held[:_CHECKED_ROWS],
        clear=np.load(request.clear)[:_CHECKED_ROWS],
        corners_clear=_run_onnx(onnx, corners),
        low=low,
        high=high,
        task=request.task,
        activation=request.activation,
    )


def _run_onnx(onnx: Path, rows: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(onnx), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    made = [session.run(None, {name: row[None]})[0].ravel() for row in rows]
    return np.array(made, dtype=np.float64)


def _choose(
    backend: ProofSystem,
    model: _Model,
    choices: Sequence[CircuitChoice],
    files: CircuitFiles,
    progress: Progress,
) -> tuple[_Circuit | None, str]:  # 2
    reasons: dict[str, str] = {}
    for i, choice in enumerate(choices):
        progress({"stage": "compile", "done": i, "total": len(choices)})
        try:
            found = _try(backend, model, choice, files)
        except (BackendError, FormatError) as exc:
            if exc.code == "engine-panicked":  # its state is unknown: go no further
                raise
            found = exc.message
        if isinstance(found, _Circuit):
            return found, ""
        bits, base, legs = choice.scale_bits, choice.decomp_base, choice.decomp_legs
        reasons.setdefault(found, f"{bits} bits, base {base}^{legs}: {found}")
        files.network.unlink(missing_ok=True)
        files.settings.unlink(missing_ok=True)
    tried = "; ".join(reasons.values())
    return None, f"no circuit came close enough to the clear model. Tried {tried}"


def _try(
    backend: ProofSystem, model: _Model, choice: CircuitChoice, files: CircuitFiles
) -> _Circuit | str:
    """Return the circuit if it passes the gate, else why not."""
    rows = np.concatenate([model.calibration, model.corners])
    quantized = quantize(rows, scale_bits=choice.scale_bits)
    facts = backend.compile(model.onnx, quantized, choice, files)
    if facts.input_scale_bits != choice.scale_bits:
        return "the engine changed the input's scale"
    how = {"activation": model.activation, "task": model.task}
    made = _answers(backend, files, facts, model.corners)
    reason = shortfall(made, model.corners_clear, share=_CORNER_SHARE, **how)
    if reason:
        return f"at the corners of the input range, {reason}"
    made = _answers(backend, files, facts, model.held)
    reason = shortfall(made, model.clear, **how)
    return reason or _Circuit(choice, facts, accuracy(made, model.clear, **how))


def _answers(
    backend: ProofSystem, files: CircuitFiles, facts: CircuitFacts, rows: Any
) -> Any:
    """Return the circuit's raw outputs, from witnesses, without proofs."""
    outputs = []
    bits = facts.input_scale_bits
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "row.witness"
        for row in quantize(rows, scale_bits=bits):
            made = backend.witness(files, row, path, scale_bits=bits).instances[1:]
            outputs.append(dequantize(list(made), scale_bits=facts.output_scale_bits))
    return np.array(outputs)


def _measure(  # noqa: PLR0913 - one measurement, many givens
    backend: ProofSystem,
    files: CircuitFiles,
    model: _Model,
    circuit: _Circuit,
    scratch: Path,
    progress: Progress,
) -> tuple[Proof, Json]:  # 4
    bits = circuit.facts.input_scale_bits
    rows = quantize(model.held[:_PROVEN_ROWS], scale_bits=bits)
    proofs, prove_s, verify_s = [], [], []
    for i, row in enumerate(rows):
        progress({"stage": "prove", "done": i, "total": len(rows)})
        start = time.perf_counter()
        proofs.append(prove_row(backend, files, row, scratch, scale_bits=bits))
        prove_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        backend.verify(files, proofs[-1])
        verify_s.append(time.perf_counter() - start)
    if len({len(p.proof) for p in proofs}) != 1:
        raise BackendError("the engine's proofs of one circuit differ in length")
    _check_refusal(backend, files, proofs[0])
    cost = {
        "latency_s": float(np.median(prove_s)),
        "verify_s": float(np.median(verify_s)),
        "proof_bytes": len(proofs[0].proof),
        "proving_key_bytes": files.proving_key.stat().st_size,
        "verifying_key_bytes": files.verifying_key.stat().st_size,
        "srs_bytes": files.srs.stat().st_size,
        "client_bytes": sum((files.root / n).stat().st_size for n in PUBLIC_FILES),
        "cpus": os.cpu_count() or 1,
    }
    return proofs[0], cost


def _check_refusal(backend: ProofSystem, files: CircuitFiles, proof: Proof) -> None:
    *rest, last = proof.instances
    forged = Proof((*rest, (last + 1) % MODULUS), proof.proof)
    try:
        backend.verify(files, forged)
    except VerificationError:
        return
    msg = "the engine verified a proof whose output was changed: do not use it"
    raise BackendError(msg, code="engine-unsound")


def _params(
    backend: ProofSystem,
    model: _Model,
    circuit: _Circuit,
    srs: SrsFacts,
    proof: Proof,
) -> ZkmlParams:
    choice, facts = circuit.choice, circuit.facts
    outputs = len(proof.instances) - 1
    return ZkmlParams(
        system=backend.name,
        system_version=backend.version,
        input_scale_bits=facts.input_scale_bits,
        output_scale_bits=facts.output_scale_bits,
        features=len(model.low),
        outputs=outputs,
        instances=instance_names(outputs),
        proof_bytes=len(proof.proof),
        input_minimum=tuple(float(x) for x in model.low),
        input_maximum=tuple(float(x) for x in model.high),
        visibility={"input": "hashed", "output": "public", "params": "fixed"},
        logrows=facts.logrows,
        decomp_base=choice.decomp_base,
        decomp_legs=choice.decomp_legs,
        num_inner_cols=choice.num_inner_cols,
        scale_rebase_multiplier=choice.scale_rebase_multiplier,
        srs=srs,
    )
