"""Compile a model into a circuit with keys, and measure it.

Plan:
    1. Fix the batch to one row; find the corners of the declared input range.
    2. Compile every choice of settings; take the smallest circuit that passes the gate.
    3. Get an SRS, make the keys.
    4. Prove held rows for real, verify them, and see that a changed output is refused.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.child import Handler, Progress
from privacy.encoding import Json, sha256_file
from privacy.errors import FormatError, PrivacyError
from privacy.publishing import PartRequest, PartResult
from privacy.zkml.candidates import CANDIDATES
from privacy.zkml.choose import Circuit, Model, choose, prepare
from privacy.zkml.measure import measure
from privacy.zkml.params import SrsFacts, ZkmlParams, instance_names
from privacy.zkml.srs import obtain_srs, verifier_srs
from privacy.zkml.system import CircuitChoice, CircuitFiles, ProofSystem, load_backend
from privacy.zkml.verify import PUBLIC_FILES

_PROVEN_ROWS = 3


def handler() -> Handler:
    """Return what serves a `PartRequest` in a child process.

    Options: `srs`, as `obtain_srs` takes it (`development` by default), and `settings`,
    a list of `CircuitChoice` members to try instead of our own.
    """

    def serve(request: Json, progress: Progress) -> Json:
        part = PartRequest.from_json(request)
        try:
            return _publish(part, progress).to_json()
        except PrivacyError as exc:
            for left in part.out.iterdir():
                left.unlink()
            return PartResult(available=False, reason=exc.message).to_json()

    return serve


def _publish(request: PartRequest, progress: Progress) -> PartResult:
    srs_choice, choices = _options(request.options)
    backend = load_backend()
    files = CircuitFiles(request.out)
    progress({"stage": "prepare"})
    with tempfile.TemporaryDirectory() as scratch:
        model = prepare(request, Path(scratch))
        circuit, reason = choose(backend, model, choices, Path(scratch), progress)
        if circuit is None:
            return PartResult(available=False, reason=reason)
        shutil.copyfile(circuit.files.network, files.network)
        shutil.copyfile(circuit.files.settings, files.settings)
        shutil.copyfile(request.onnx, files.onnx)
        progress({"stage": "setup"})
        srs = obtain_srs(srs_choice, circuit.facts.logrows, files.srs, backend=backend)
        files.verifier_srs.write_bytes(verifier_srs(files.srs))
        backend.setup(files)
        circuit = replace(circuit, files=files)
        size, cost = measure(backend, circuit, model.held[:_PROVEN_ROWS], progress)
    return PartResult(
        available=True,
        accuracy=circuit.accuracy,
        cost=cost,
        params=_params(backend, model, circuit, srs, size).to_json(),
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


def _params(
    backend: ProofSystem,
    model: Model,
    circuit: Circuit,
    srs: SrsFacts,
    proof_bytes: int,
) -> ZkmlParams:
    choice, facts = circuit.choice, circuit.facts
    outputs = model.clear.shape[1]
    return ZkmlParams(
        system=backend.name,
        system_version=backend.version,
        input_scale_bits=facts.input_scale_bits,
        output_scale_bits=facts.output_scale_bits,
        features=len(model.low),
        outputs=outputs,
        instances=instance_names(outputs),
        proof_bytes=proof_bytes,
        input_minimum=tuple(model.low.tolist()),
        input_maximum=tuple(model.high.tolist()),
        input_offset=tuple(model.offset.tolist()),
        input_scale=tuple(model.scale.tolist()),
        visibility={"input": "hashed", "output": "public", "params": "fixed"},
        logrows=facts.logrows,
        decomp_base=choice.decomp_base,
        decomp_legs=choice.decomp_legs,
        num_inner_cols=choice.num_inner_cols,
        scale_rebase_multiplier=choice.scale_rebase_multiplier,
        srs=srs,
        insecure_srs=srs.kind != "public",
        onnx_sha256=sha256_file(circuit.files.onnx),
    )
