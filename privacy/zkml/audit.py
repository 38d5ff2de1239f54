"""Rebuild a published circuit from its ONNX file and compare: whose key is it?

A proof says that a circuit gave an answer. That the circuit is the model is the
publisher's word, until somebody who may see the model has done this.

Plan:
    1. Every file is the one that the manifest pins.
    2. The ONNX file is the one that the manifest names.
    3. The SRS is the one it names, of the kind it names, and the verifier's part is cut
       from it.
    4. The settings are those that the choice in the manifest leads to, to the switch.
    5. Compile the ONNX file with them and make the keys: the verifying key is equal.
    6. The circuit's answers are the model's, on rows drawn from the declared range.

A key that binds no weights, of a model that was published with `--hide model`, would
be equal whatever network was shipped: nothing is said of such a bundle
(`model-hidden`).

How models are rewritten is a matter of the release, which counts its ways in the
manifest's `circuit_format`; how they are compiled is one of the engine. A key that
differs says nothing of a bundle that others made (`other-release`).

The choice is taken as it is: it decides how coarse the circuit is, which step 6
measures, and what it can hold. The compiled circuit itself differs from one compilation
to the next in the order of its tables; the verifying key does not.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle, Manifest, open_bundle
from privacy.child import Handler, Progress, run_in_child
from privacy.encoding import Json, sha256_file
from privacy.errors import CannotVerifyError, VerificationError
from privacy.modes import Mode
from privacy.publishing import TOOL, accuracy
from privacy.zkml.candidates import Grade, shortfall
from privacy.zkml.choose import run_onnx
from privacy.zkml.field import dequantize
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.rewrite import CIRCUIT_FORMAT, rewrite
from privacy.zkml.salt import widen_input
from privacy.zkml.srs import (
    check_verifier_srs,
    is_public,
    srs_facts,
    verifier_srs,
)
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFiles,
    ProofSystem,
    load_backend,
)

_OF_THE_RELEASE = frozenset({"wrong-settings", "wrong-verifying-key"})
_ROWS = 32
_IN_RANGE = Grade(part=1.0, share=0.9)
"""Rows are drawn from the whole range, far from the data: a few may differ."""


def audit(
    root: Path,
    *,
    onnx: Path | None = None,
    srs: Path | None = None,
    timeout_s: float = 3600.0,
    progress: Progress = lambda _: None,
) -> Json:
    """Return what was compared, and found equal.

    Args:
        root: The bundle.
        onnx: The model, where the bundle does not hold it.
        srs: The prover's SRS, likewise.
        timeout_s: Wall limit of it all.
        progress: Told how far it is.

    Returns:
        `checks`: a list of `name` and `detail`; `accuracy` as in a manifest.

    Raises:
        VerificationError: Something differs; the code says what: `bundle-changed`,
            `wrong-onnx`, `wrong-srs`, `wrong-settings`, `wrong-verifying-key` or
            `wrong-answers`.
        CannotVerifyError: The key binds no weights (`model-hidden`), the ONNX file or
            the SRS is not here, the engine failed, or another release or engine made
            the bundle, and leads to another key.
    """
    request = {
        "root": str(root),
        "onnx": str(onnx) if onnx else "",
        "srs": str(srs) if srs else "",
    }
    return run_in_child(
        "privacy.zkml.audit:handler", request, timeout_s=timeout_s, progress=progress
    )


def handler() -> Handler:
    """Return what serves one audit in a child process."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        bundle = open_bundle(Path(request["root"]), check_files=False)
        given = {n: Path(request[n]) if request[n] else None for n in ("onnx", "srs")}
        with tempfile.TemporaryDirectory() as scratch, _as_made(backend, bundle):
            return _audit(backend, bundle, given, Path(scratch), progress)

    return serve


@contextmanager
def _as_made(backend: ProofSystem, bundle: Bundle) -> Iterator[None]:
    """Say of a circuit that differs which release and engine would tell."""
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    maker = _named(bundle.manifest.tool, params.circuit_format, params.system)
    maker += f" {params.system_version}"
    here = _named(TOOL, CIRCUIT_FORMAT, backend.name) + f" {backend.version}"
    try:
        yield
    except VerificationError as exc:
        if maker == here or exc.code not in _OF_THE_RELEASE:
            raise
        msg = (
            f"the bundle was made by {maker}, this is {here}, which may write the same "
            f"model as another circuit: audit it with what made it ({exc.message})"
        )
        raise CannotVerifyError(msg, code="other-release") from exc


def _named(tool: str, circuit_format: int, system: str) -> str:
    return f"{tool} (circuits of format {circuit_format}) with {system}"


def _audit(
    backend: ProofSystem,
    bundle: Bundle,
    given: dict[str, Path | None],
    scratch: Path,
    progress: Progress,
) -> Json:
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    _check_bound(params)
    kept = CircuitFiles(bundle.root / "zkml")
    onnx = _source(given["onnx"], kept.onnx, what="ONNX file", option="--onnx")
    srs = _source(given["srs"], kept.srs, what="SRS", option="--srs")
    made = CircuitFiles(scratch)
    shutil.copyfile(kept.settings, made.settings)
    progress({"stage": "compare digests"})
    checks = {
        "files": _check_files(bundle),  # 1
        "onnx": _check_onnx(onnx, params),  # 2
        "srs": _check_srs(srs, kept, params),  # 3
    }
    fixed, plain = scratch / "fixed.onnx", scratch / "plain.onnx"
    fix_batch(onnx, plain)
    shutil.copyfile(plain, fixed)
    low, high = np.array(params.input_minimum), np.array(params.input_maximum)
    bits = rewrite(fixed, low, high).output_bits
    if params.visibility.salted:
        widen_input(fixed, params.features)
    checks["settings"] = _check_settings(backend, fixed, made, params, bits)  # 4
    progress({"stage": "rebuild the circuit and its keys"})
    shutil.copyfile(srs, made.srs)
    backend.recompile(fixed, made)
    backend.setup(made)
    checks["verifying key"] = _check_key(made, kept)  # 5
    progress({"stage": "compare answers"})
    found = _compare(backend, made, plain, params, bundle.manifest)  # 6
    checks["answers"] = f"as the model's, within {found['max_error']:.3g}"
    listed = [{"name": k, "detail": v} for k, v in checks.items()]
    return {"checks": listed, "accuracy": found}


def _check_bound(params: ZkmlParams) -> None:
    if params.visibility.params == "private":
        msg = (
            "the proofs hide the weights, so the verifying key is that of every model "
            "of this shape, and an audit can say nothing: ask the publisher to publish "
            "with --commit model, which shows a hash of the weights and no weight"
        )
        raise CannotVerifyError(msg, code="model-hidden")


def _source(given: Path | None, kept: Path, *, what: str, option: str) -> Path:
    path = given or kept
    if not path.is_file():
        msg = f"the {what} is not in the bundle: ask the publisher, and give {option}"
        raise CannotVerifyError(msg, code="audit-file-missing")
    return path


def _check_files(bundle: Bundle) -> str:
    names = [n for n in bundle.manifest.files if n.startswith("zkml/")]
    here = [n for n in names if bundle.path(n).is_file()]
    for name in ("zkml/settings.json", "zkml/vk.key", "zkml/verifier.srs"):
        if name not in here:
            msg = f"{name} is not here: get the model's public files"
            raise CannotVerifyError(msg, code="audit-file-missing")
    bundle.check_files(here)
    return f"{len(here)} of {len(names)} are here, each as pinned"


def _check_onnx(onnx: Path, params: ZkmlParams) -> str:
    found = sha256_file(onnx)
    if found != params.onnx_sha256:
        msg = (
            f"the ONNX file is {found[:12]}, the bundle is of "
            f"{params.onnx_sha256[:12]}: it is another model"
        )
        raise VerificationError(msg, code="wrong-onnx")
    return f"sha256 {found}"


def _check_srs(srs: Path, kept: CircuitFiles, params: ZkmlParams) -> str:
    cut = verifier_srs(srs)
    check_verifier_srs(cut)
    said = params.srs
    found = srs_facts(srs, development=said.kind == "development")
    if found != said or cut != kept.verifier_srs.read_bytes():
        msg = (
            f"the SRS is {found.sha256[:12]} ({found.kind}), the manifest says "
            f"{said.sha256[:12]} ({said.kind}), or the verifier's part is of another"
        )
        raise VerificationError(msg, code="wrong-srs")
    kind = "public ceremony" if is_public(cut) else f"{said.kind}: its maker can forge"
    return f"sha256 {found.sha256}, {kind}"


def _check_settings(
    backend: ProofSystem,
    onnx: Path,
    made: CircuitFiles,
    params: ZkmlParams,
    output_bits: int,
) -> str:
    choice = CircuitChoice(
        scale_bits=params.input_scale_bits,
        decomp_base=params.decomp_base,
        decomp_legs=params.decomp_legs,
        num_inner_cols=params.num_inner_cols,
        scale_rebase_multiplier=params.scale_rebase_multiplier,
        logrows=params.logrows,
    )
    try:
        found = backend.describe(made.settings)
        found["output_scale_bits"] += output_bits
        stated = params.to_json()
        wrong = [k for k, v in found.items() if stated[k] != v]
        wrong += backend.deviations(onnx, choice, params.visibility, made)
    except (ArithmeticError, KeyError, TypeError, ValueError) as exc:
        msg = "the settings are not those of a circuit"
        raise VerificationError(msg, code="wrong-settings") from exc
    if wrong:
        msg = f"settings and manifest disagree on {', '.join(sorted(wrong))}"
        raise VerificationError(msg, code="wrong-settings")
    return "every switch as the manifest's choice leads to it"


def _check_key(made: CircuitFiles, kept: CircuitFiles) -> str:
    ours, theirs = sha256_file(made.verifying_key), sha256_file(kept.verifying_key)
    if ours != theirs:
        msg = (
            f"the ONNX file leads to the verifying key {ours[:12]}, the bundle has "
            f"{theirs[:12]}: its circuit is another one, do not rely on its proofs"
        )
        raise VerificationError(msg, code="wrong-verifying-key")
    return f"rebuilt, sha256 {ours}"


def _compare(
    backend: ProofSystem,
    made: CircuitFiles,
    plain: Path,
    params: ZkmlParams,
    manifest: Manifest,
) -> Json:
    low, high = np.array(params.input_minimum), np.array(params.input_maximum)
    rows = np.random.default_rng(0).uniform(low, high, (_ROWS, len(low)))
    clear = run_onnx(plain, rows)
    path, bits = made.root / "row.witness", params.input_scale_bits
    answers = []
    for row in params.circuit_rows(rows, bytes(32)):
        witness = backend.witness(made, row, path, scale_bits=bits)
        outputs = list(witness.outputs)
        answers.append(dequantize(outputs, scale_bits=params.output_scale_bits))
        if params.params_hash and params.model_hash_of(witness.instances) != int(
            params.params_hash, 16
        ):
            msg = "the manifest's hash of the weights is not this model's"
            raise VerificationError(msg, code="wrong-model-hash")
    raw: Any = np.array(answers)
    if raw.shape != clear.shape:
        msg = f"the circuit has {raw.shape[1]} outputs, the model {clear.shape[1]}"
        raise VerificationError(msg, code="wrong-answers")
    activation, task = manifest.activation, manifest.task
    reason = shortfall(raw, clear, activation=activation, task=task, grade=_IN_RANGE)
    if reason:
        msg = f"the circuit does not answer as the model: {reason}"
        raise VerificationError(msg, code="wrong-answers")
    return accuracy(raw, clear, activation=activation, task=task)
