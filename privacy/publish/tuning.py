"""Find a model's best circuit for proofs without publishing it."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.child import Progress, run_in_child
from privacy.encoding import Json
from privacy.publishing import PartRequest

_PREPARE_TIMEOUT_S = 600.0
_TUNE_TIMEOUT_S = 3600.0


def tune_circuit(
    model: Path,
    data: Path,
    *,
    label: str | None = None,
    task: str = "",
    activation: str = "",
    options: dict[str, Any] | None = None,
    progress: Progress = lambda _: None,
) -> Json:
    """Return what the tuner found; publishing the model then finds it in the cache.

    Args:
        model: A model file; see `privacy.publish.publish`.
        data: Calibration rows, raw: `.csv` or `.npy`.
        label: A CSV column that is no feature.
        task: For networks.
        activation: For networks.
        options: As for the mode `zkml`; see `privacy.zkml.publish`.
        progress: Called with `{"stage", …}` as work goes on.

    Returns:
        `chosen` settings, `tried` circuits with what was expected and measured,
        `accuracy`, `considered`, `proofs`, `seconds`, `from_cache`.

    Raises:
        FormatError: The model or the data cannot be used, or no circuit keeps the
            model's answers.
        LimitError: Proving would take more memory than there is.
        BackendError: The engine cannot express the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        said = {"label": label, "task": task, "activation": activation}
        request = tuning_request(model, data, said, Path(scratch), progress=progress)
        request = replace(request, options=options or {})
        return run_in_child(
            "privacy.zkml.tune.child:handler",
            request.to_json(),
            timeout_s=_TUNE_TIMEOUT_S,
            progress=progress,
        )


def tuning_request(
    model: Path,
    data: Path,
    said: Json,
    work: Path,
    *,
    progress: Progress = lambda _: None,
) -> PartRequest:
    """Return what a mode is asked for a model, its files written into a folder.

    Args:
        model: A model file.
        data: Calibration rows, raw.
        said: `label`, `task` and `activation`; see `tune_circuit`.
        work: The folder; the request's `out` is a new one in it.
        progress: Called with `{"stage", …}` as work goes on.
    """
    (work / "out").mkdir()
    schema = run_in_child(
        "privacy.publish.prepare:handler",
        {
            "model": str(model),
            "data": str(data),
            "out": str(work),
            "names": [],
            "classes": [],
            **said,
        },
        timeout_s=_PREPARE_TIMEOUT_S,
        progress=progress,
    )
    return PartRequest(
        out=work / "out",
        onnx=work / "core.onnx",
        estimator=None,
        calibration=work / "calibration.npy",
        held=work / "held.npy",
        clear=work / "clear.npy",
        outputs=schema["outputs"],
        activation=schema["activation"],
        task=schema["task"],
        options={},
    )
