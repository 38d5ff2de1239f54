"""Compile a model into a circuit with keys, and measure it.

Plan:
    1. Fix the batch to one row; find the corners of the declared input range.
    2. Tune: find the circuit that costs least and passes the gate.
    3. Get the SRS that was asked for, make the keys.
    4. Prove held rows for real, verify them, and see that a changed output is refused.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.child import Handler, Progress
from privacy.encoding import Json, sha256_file
from privacy.errors import FormatError, PrivacyError
from privacy.publishing import PartRequest, PartResult
from privacy.zkml.blobs import Proof
from privacy.zkml.choose import Circuit, Model, prepare
from privacy.zkml.field import to_hex
from privacy.zkml.measure import measure
from privacy.zkml.params import SrsFacts, ZkmlParams
from privacy.zkml.rewrite import CIRCUIT_FORMAT
from privacy.zkml.srs import obtain_srs, verifier_srs
from privacy.zkml.system import CircuitFiles, ProofSystem, Visibility, load_backend
from privacy.zkml.tune import TuneOptions, parse_options, tune
from privacy.zkml.visibility import OPTIONS as WORDS
from privacy.zkml.visibility import (
    instance_names,
    parse_visibility,
    public_files,
    verifier_learns,
)

_PROVEN_ROWS = 3
_OPTIONS = frozenset(
    {"srs", "settings", "objective", "memory_bytes", "max_gas", *WORDS}
)


def handler() -> Handler:
    """Return what serves a `PartRequest` in a child process.

    Options: `srs`, as `obtain_srs` takes it (`development` by default), and what
    `privacy.zkml.tune.options` takes: `objective`, `memory_bytes`, `max_gas`, and
    `settings`, a list of `CircuitChoice` members to try instead of a search. `hide`,
    `commit` and `show` are lists of `input` and `model`, `salt` is true or false; see
    `privacy.zkml.visibility`.
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
    srs_choice, options = tuning_options(request.options)
    backend = load_backend()
    files = CircuitFiles(request.out)
    progress({"stage": "prepare"})
    with tempfile.TemporaryDirectory() as scratch:
        model = prepare(request, Path(scratch), salted=options.visibility.salted)
        tuned = tune(backend, model, options, Path(scratch), progress)
        circuit = tuned.circuit
        shutil.copyfile(circuit.files.network, files.network)
        shutil.copyfile(circuit.files.settings, files.settings)
        shutil.copyfile(request.onnx, files.onnx)
        progress({"stage": "setup"})
        srs = obtain_srs(srs_choice, circuit.facts.logrows, files.srs, backend=backend)
        files.verifier_srs.write_bytes(verifier_srs(files.srs))
        if srs.kind == "development":
            shutil.copyfile(circuit.files.proving_key, files.proving_key)
            shutil.copyfile(circuit.files.verifying_key, files.verifying_key)
        else:
            backend.setup(files)
        circuit = replace(circuit, files=files)
        public = public_files(options.visibility)
        rows = model.held[:_PROVEN_ROWS]
        proof, cost = measure(backend, circuit, rows, public, progress)
    return PartResult(
        available=True,
        accuracy=circuit.accuracy,
        cost={**cost, "memory_bytes": tuned.memory_bytes},
        params=_params(
            backend, model, circuit, srs, proof, options.visibility
        ).to_json(),
        public=public,
    )


def tuning_options(options: Mapping[str, Any]) -> tuple[str, TuneOptions]:
    """Return which SRS to use, and what the tuner should look for.

    Raises:
        FormatError: A member is not one, or is out of its limits.
    """
    unknown = sorted(set(options) - _OPTIONS)
    srs = options.get("srs", "development")
    if unknown or not isinstance(srs, str):
        known, odd = ", ".join(sorted(_OPTIONS)), ", ".join(unknown)[:100]
        msg = f"zkml takes the options {known}, not {odd or 'such an srs'}"
        raise FormatError(msg, code="bad-option")
    return srs, parse_options(options, parse_visibility(options))


def _params(
    backend: ProofSystem,
    model: Model,
    circuit: Circuit,
    srs: SrsFacts,
    proof: Proof,
    visibility: Visibility,
) -> ZkmlParams:
    choice, facts = circuit.choice, circuit.facts
    outputs = model.clear.shape[1]
    params_hash = ""
    if visibility.params == "hashed":
        params_hash = to_hex(proof.instances[visibility.input == "hashed"])
    return ZkmlParams(
        system=backend.name,
        system_version=backend.version,
        input_scale_bits=facts.input_scale_bits,
        output_scale_bits=facts.output_scale_bits,
        features=len(model.low),
        outputs=outputs,
        instances=instance_names(visibility, features=len(model.low), outputs=outputs),
        proof_bytes=len(proof.proof),
        input_minimum=tuple(model.low.tolist()),
        input_maximum=tuple(model.high.tolist()),
        input_offset=tuple(model.offset.tolist()),
        input_scale=tuple(model.scale.tolist()),
        visibility=visibility,
        verifier_learns=verifier_learns(visibility),
        params_hash=params_hash,
        logrows=facts.logrows,
        decomp_base=choice.decomp_base,
        decomp_legs=choice.decomp_legs,
        num_inner_cols=choice.num_inner_cols,
        scale_rebase_multiplier=choice.scale_rebase_multiplier,
        srs=srs,
        insecure_srs=srs.kind != "public",
        onnx_sha256=sha256_file(circuit.files.onnx),
        circuit_format=CIRCUIT_FORMAT,
    )
