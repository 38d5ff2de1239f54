"""Publish a trained model once, for every privacy mode that can serve it.

    from privacy.publish import publish
    bundle = publish(estimator, X, name="breast-cancer", store=Path("models"))

The engines run in child processes; this one stays light and reports progress.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import (
    Bundle,
    Column,
    Manifest,
    ModePart,
    check_name,
    list_files,
    open_bundle,
)
from privacy.child import Progress, run_in_child
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, PrivacyError
from privacy.fhe.spec import parse_spec
from privacy.files import default_home
from privacy.modes import Mode
from privacy.publish.data import names_of, table_from_array
from privacy.publish.put import next_version, put_bundle, version_taken
from privacy.publish.quantized import has_quantized_layers, portable, qonnx_of
from privacy.publish.seal import Seal, beside, deposit, modes_to_publish, seal_part
from privacy.publisher import publisher_key, signer_of
from privacy.publishing import TOOL, PartRequest, PartResult
from privacy.tee.measure import measure_folder
from privacy.tee_zkml.program import PROGRAM
from privacy.tee_zkml.publish import compose
from privacy.zkml.params import parse_params

PREPARE_TIMEOUT_S = 600.0
PART_TIMEOUT_S = 3600.0

__all__ = ["Seal", "is_current", "publish"]

Run = Callable[..., Json]
"""How a handler is asked in a child process; see `privacy.child.run_in_child`."""


def publish(  # noqa: PLR0913 - every one is a choice of the publisher's
    model: Any,
    data: Any,
    *,
    name: str,
    store: Path,
    version: str | None = None,
    modes: Sequence[Mode] | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
    classes: Sequence[str] = (),
    task: str = "",
    activation: str = "",
    options: Mapping[Mode, Json] | None = None,
    seal: Seal | None = None,
    home: Path | None = None,
    progress: Progress = lambda _: None,
    run: Run = run_in_child,
) -> Bundle:
    """Compile a model into a bundle under `store/name/version` and return it.

    Args:
        model: A model file (see `privacy.publish.export.load_core`), a fitted
            scikit-learn, XGBoost or Concrete-ML estimator, or a PyTorch or Brevitas
            module. docs/models.md lists what each mode can serve.
        data: Calibration rows, raw as users have them: a `.csv` or `.npy` file, or an
            array or data frame of shape (rows, features).
        name: The model's name.
        store: Folder of published models.
        version: By default one more than the newest.
        modes: Which modes to try; by default all, or only `tee` if it is sealed, since
            the others show the weights to the node operator.
        label: A CSV column holding the true classes, for the clear model's accuracy.
        columns: Feature names, where `data` has none of its own.
        classes: Class names in output order, to replace the estimator's own.
        task: For networks: `classification` or `regression`; raw outputs by default.
        activation: For networks: one of `privacy.activations`.
        options: Choices for one mode; see the mode's `publish` module.
        seal: Encrypt the model of mode `tee`, and who has its key.
        home: Holds the publisher's key, made at the first publish; by default
            `$PRIVACY_HOME` or `~/.privacy`.
        progress: Called with `{"mode", "stage", …}` as work goes on.
        run: `privacy.child.Children.run` keeps engines loaded between publishes.

    Raises:
        FormatError: The model or the data cannot be used.
        ConflictError: That version exists already.
        BackendError: No mode can serve the model; the message has every reason.
    """
    check_name(name)
    columns, store = columns or names_of(data), Path(store)
    if version is not None and (store / name / check_name(version)).exists():
        raise version_taken(name, version)
    modes, home = modes_to_publish(modes, seal), home or default_home()
    private_key = publisher_key(home)  # before the long work
    (store / name).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(  # a store may be the node operator's
            dir=home if seal else store / name, prefix=".publishing-"
        ) as scratch,
        ExitStack() as ends,
    ):
        work, root = Path(scratch) / "work", Path(scratch) / "bundle"
        work.mkdir()
        schema = run(
            "privacy.publish.prepare:handler",
            {
                "model": str(_model_file(model, data, work)),
                "data": str(_data_file(data, work, columns)),
                "out": str(work),
                "label": label,
                "names": list(columns),
                "classes": list(classes),
                "task": task,
                "activation": activation,
            },
            timeout_s=PREPARE_TIMEOUT_S,
            progress=lambda p: progress({"mode": "", **p}),
        )
        parts, public = _parts(
            work,
            root,
            schema,
            modes,
            options or {},
            progress,
            run,
            cache=store / ".tuned",
        )
        if not any(part.available for part in parts.values()):
            reasons = "; ".join(f"{m}: {part.reason}" for m, part in parts.items())
            msg = f"no mode can serve this model ({reasons})"
            raise BackendError(msg, code="no-mode-serves")
        content_key = b""
        if seal:
            parts[Mode.TEE], content_key = seal_part(root, parts[Mode.TEE], seal)
            reason = "the model is sealed: the circuit would show its weights"
            parts[Mode.TEE_ZKML] = ModePart(available=False, reason=reason)
            root = ends.enter_context(beside(root, store / name))
        manifest = Manifest(
            name=name,
            version=version or next_version(store / name),
            task=schema["task"],
            columns=tuple(Column(**c) for c in schema["columns"]),
            outputs=schema["outputs"],
            activation=schema["activation"],
            classes=tuple(schema["classes"]),
            clear_accuracy=schema["clear_accuracy"],
            modes=parts,
            files=list_files(root, frozenset(public)),
            published_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            tool=TOOL,
        )
        final = put_bundle(
            root, manifest, store, private_key, fixed=version is not None
        )
    bundle = open_bundle(final)
    bundle = replace(bundle, publisher=signer_of(bundle))
    if seal:
        deposit(bundle, content_key, seal)
    return bundle


def is_current(bundle: Bundle) -> bool:
    """Return whether this installation can serve a bundle as it was published.

    It has to be signed, its FHE and ZKML parts of this format, and this installation's
    enclave the one it expects. The enclave's measurement covers our code, the
    interpreter and its libraries: after an upgrade a bundle has to be published again
    to be served in mode `tee`.
    """
    if not signer_of(bundle):
        return False
    try:
        part = bundle.manifest.modes.get(Mode.FHE)
        if part is not None and part.available:
            parse_spec(bundle.path("fhe/client.json").read_bytes())
        part = bundle.manifest.modes.get(Mode.ZKML)
        if part is not None and part.available:
            parse_params(part.params)
    except FormatError:
        return False
    part = bundle.manifest.modes.get(Mode.TEE)
    if part is None or not part.available:
        return True
    here = bundle.root / Mode.TEE
    if measure_folder(here).as_dict() != part.params["measurements"]:
        return False
    part = bundle.manifest.modes.get(Mode.TEE_ZKML)
    if part is None or not part.available:
        return True
    return bool(measure_folder(here, PROGRAM).as_dict() == part.params["measurements"])


def _parts(  # noqa: PLR0913 - all that a mode is told
    work: Path,
    root: Path,
    schema: Json,
    modes: Sequence[Mode],
    options: Mapping[Mode, Json],
    progress: Progress,
    run: Run,
    *,
    cache: Path,
) -> tuple[dict[str, ModePart], list[str]]:
    parts: dict[str, ModePart] = {}
    public: list[str] = []
    for mode in Mode:
        if mode is Mode.TEE_ZKML:
            parts[mode] = _composed(root, parts, asked=mode in modes)
            continue
        out = root / mode
        out.mkdir(parents=True)
        if mode not in modes:
            parts[mode] = ModePart(available=False, reason="not asked for")
            continue
        request = PartRequest(
            out=out,
            onnx=work / "core.onnx",
            estimator=work / "estimator.joblib" if schema["estimator"] else None,
            calibration=work / "calibration.npy",
            held=work / "held.npy",
            clear=work / "clear.npy",
            outputs=schema["outputs"],
            activation=schema["activation"],
            task=schema["task"],
            options=options.get(mode, {}),
            truth=work / "truth.npy" if (work / "truth.npy").exists() else None,
            cache=cache,
        )
        result = _part(mode, request, progress, run)
        if not result.available:
            shutil.rmtree(out)
        public += [f"{mode}/{file}" for file in result.public]
        parts[mode] = ModePart(
            available=result.available,
            reason=result.reason,
            accuracy=result.accuracy,
            cost=result.cost,
            params=result.params,
        )
    return parts, public


def _composed(root: Path, parts: Mapping[str, ModePart], *, asked: bool) -> ModePart:
    """Return the part of mode tee+zkml, which adds no files to those it stands on."""
    if not asked:
        return ModePart(available=False, reason="not asked for")
    return compose(root, parts)


def _part(mode: Mode, request: PartRequest, progress: Progress, run: Run) -> PartResult:
    """Return a mode's part; a mode that fails says why and fails nothing else."""
    try:
        answer = run(
            f"privacy.{mode}.publish:handler",
            request.to_json(),
            timeout_s=PART_TIMEOUT_S,
            progress=lambda p: progress({"mode": mode, **p}),
        )
    except PrivacyError as exc:
        return PartResult(available=False, reason=exc.message)
    result = PartResult(**{**answer, "public": tuple(answer["public"])})
    return result if result.available else replace(result, public=())


def _data_file(data: Any, work: Path, columns: Sequence[str]) -> Path:
    if isinstance(data, str | Path):
        return Path(data)
    path = work / "data.npy"
    np.save(path, table_from_array(data, names=columns).rows)
    return path


def _model_file(model: Any, data: Any, work: Path) -> Path:
    """Return the model as a file; an object is saved for the child to load."""
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise FormatError(f"there is no file {path}", code="no-such-file")
        return path
    if hasattr(model, "state_dict"):
        import torch

        if isinstance(data, str | Path):
            msg = "give the calibration data of a torch module as an array"
            raise FormatError(msg)
        if has_quantized_layers(model):
            path = work / "model.onnx"
            path.write_bytes(qonnx_of(model, table_from_array(data).rows[:20]))
            return path
        path = work / "model.pt"
        rows = torch.tensor(table_from_array(data).rows[:2], dtype=torch.float32)
        try:
            torch.jit.save(torch.jit.trace(model.eval(), rows), str(path))
        except Exception as exc:
            msg = f"the module does not take these rows: {type(exc).__name__}"
            raise FormatError(msg, code="unsupported-model") from exc
        return path
    import joblib

    path = work / "model.joblib"
    try:
        joblib.dump(portable(model), path)
    except Exception as exc:
        msg = f"the model cannot be saved with joblib: {type(exc).__name__}"
        raise FormatError(msg, code="unsupported-model") from exc
    return path
