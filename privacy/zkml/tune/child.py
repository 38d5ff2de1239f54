"""Tuning alone, in a child process: nothing is published."""

import tempfile
from pathlib import Path

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.publishing import PartRequest
from privacy.zkml.choose import prepare
from privacy.zkml.publish import tuning_options
from privacy.zkml.system import load_backend
from privacy.zkml.tune.search import tune


def handler() -> Handler:
    """Return what serves a `PartRequest` with the tuner's report and the accuracy."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        part = PartRequest.from_json(request)
        _, options = tuning_options(part.options)
        progress({"stage": "prepare"})
        with tempfile.TemporaryDirectory() as scratch:
            salted = options.visibility.salted
            model = prepare(part, Path(scratch), salted=salted)
            tuned = tune(backend, model, options, Path(scratch), progress)
        return {**tuned.report, "accuracy": tuned.circuit.accuracy}

    return serve
