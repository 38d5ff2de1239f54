"""The tuner's pick beside the best of what it considered itself, and of nothing else.

The exhaustive side proves a row with every layout that the tuner considers: each base
from 2^6 to 2^13 with the digits that the numbers need, 1 to 3 inner columns, every
number of rows that fills at most 12 blocks, scales cut back at once or late, products
checked or not; less those that cost the same. The tuner proves three of them. How good
the list is, this does not tell.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.zkml_models import MODELS, train
from privacy.child import Child, Handler, Progress
from privacy.encoding import Json
from privacy.publish.tuning import tuning_request
from privacy.publishing import PartRequest
from privacy.zkml.choose import prepare
from privacy.zkml.system import Visibility, load_backend
from privacy.zkml.tune import parse_options, tune

NAMES = ("logistic regression, sigmoid outside", "mlp 30-64-32-1")
_TIMEOUT_S = 3600.0


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return, by model, how far from the best the tuner's pick is.

    Args:
        quick: One model.
        only: Models whose names contain one of these.
    """
    names = NAMES[:1] if quick else NAMES
    if only:
        names = tuple(n for n in NAMES if any(word in n for word in only))
    return summary({name: compare(name) for name in names})


def summary(models: Json) -> Json:
    """Return figures by model with the worst ratio."""
    worst = max((m["ratio"] for m in models.values()), default=None)
    return {"models": models, "worst_ratio": worst}


def compare(name: str) -> Json:
    """Return CPU seconds of a proof: the tuner's pick, the best, and their ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trained = train(MODELS[name], folder)
        said = {"label": None, "task": trained.task, "activation": trained.activation}
        part = tuning_request(trained.model, trained.data, said, folder).to_json()
        env = {"XDG_CACHE_HOME": scratch}
        with Child("benchmarks.zkml_search:handler", env=env) as child:
            return child.call(part, timeout_s=_TIMEOUT_S, progress=_print(name))


def _print(name: str) -> Progress:
    def heard(event: Json) -> None:
        if event["stage"] == "prove" and event["done"] % 10 == 0:
            Console().print(f"{name}: {event['done']} layouts proven")

    return heard


def handler() -> Handler:
    """Return what proves every layout of a model, and says which the tuner would."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        part = PartRequest.from_json(request)
        options = parse_options({}, Visibility(input="private"))
        with tempfile.TemporaryDirectory() as scratch:
            model = prepare(part, Path(scratch))
            every = replace(options, proofs=10_000, proving_s=math.inf)
            tried = tune(backend, model, every, Path(scratch), progress).report["tried"]
        few = tried[: options.proofs]  # in the order of expected cost
        pick = min(few, key=lambda t: t["cpu_s"])
        best = min(tried, key=lambda t: t["cpu_s"])
        return {
            "layouts": len(tried),
            "pick": pick["choice"],
            "best": best["choice"],
            "pick_cpu_s": pick["cpu_s"],
            "best_cpu_s": best["cpu_s"],
            "ratio": pick["cpu_s"] / best["cpu_s"],
        }

    return serve


def show(found: Json) -> None:
    """Print the figures."""
    for name, one in found["models"].items():
        Console().print(
            f"{name}: {one['pick_cpu_s']:.3f} s of CPU, the best of {one['layouts']} "
            f"layouts considered {one['best_cpu_s']:.3f} s: {one['ratio']:.2f} times"
        )
