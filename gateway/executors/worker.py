"""The worker process: the only place of the gateway where engines load."""

import importlib
import resource
from pathlib import Path
from typing import Protocol

from privacy.bundle import Bundle, open_bundle
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, ConflictError
from privacy.modes import Mode, parse_mode
from privacy.publisher import signer_of
from privacy.runs import RowStore, RunResult
from privacy.warm import SHARED

_RUNNER_GUESS_BYTES = 1 << 27


class Runner(Protocol):
    """One mode's engine, loaded for one model."""

    def run(
        self,
        input_blob: bytes,
        keys: Path | None,
        progress: Progress,
        rows: RowStore | None,
    ) -> RunResult:
        """Return the output for an input blob."""


def handler() -> Handler:
    """Return what a worker process serves; see `Pool` for the request."""
    return _run


def _run(request: Json, progress: Progress) -> Json:
    mode = parse_mode(request["mode"])
    runner = SHARED.get(
        (mode, request["model_sha256"], request["publisher"]),
        lambda: _load(mode, request, progress),
        name=request["model_sha256"],
        like=mode,
        guess=_RUNNER_GUESS_BYTES,
    )
    keys = Path(request["keys"]) if request["keys"] else None
    rows = RowStore(Path(request["rows"])) if request["rows"] else None
    try:
        result = runner.run(Path(request["input"]).read_bytes(), keys, progress, rows)
    finally:
        SHARED.settle()
    Path(request["output"]).write_bytes(result.output)
    if result.evidence_kind:
        Path(request["evidence"]).write_bytes(result.evidence)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "evidence_kind": result.evidence_kind,
        "memory_bytes": peak,
        "warm": SHARED.names(),
    }


def _check(bundle: Bundle, mode: Mode, model_sha256: str, publisher: str) -> None:
    """Refuse a bundle that is not the one the gateway trusted, before it is loaded."""
    if bundle.sha256 != model_sha256 or signer_of(bundle) != publisher:
        msg = f"the bundle of {bundle.manifest.name} was replaced: submit the job again"
        raise ConflictError(msg, code="model-changed")
    files = [n for n in bundle.manifest.files if n.startswith(f"{mode}/")]
    bundle.check_files(files)


def _load(mode: Mode, request: Json, progress: Progress) -> Runner:
    progress({"stage": "load"})
    bundle = open_bundle(Path(request["bundle"]), check_files=False)
    _check(bundle, mode, request["model_sha256"], request["publisher"])
    name = f"privacy.{mode}.runner"
    try:
        module = importlib.import_module(name)
    except ImportError as exc:
        msg = (
            f"mode {mode} is not installed here: pip install 'privacy-compute[{mode}]'"
        )
        raise BackendError(msg, code="engine-missing") from exc
    runner: Runner = module.Runner(bundle)
    progress({"stage": "loaded"})
    return runner
