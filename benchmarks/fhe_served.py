"""A process that serves a bundle's circuit as a node's workers do, and times it."""

from functools import partial
from pathlib import Path

from benchmarks.measure import interleaved
from privacy.bundle import open_bundle
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.fhe.runner import Runner


def handler() -> Handler:
    """Return what runs blobs of a folder in turn, and gives the seconds they took.

    The first one's output is left beside them.
    """

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        folder, keys = Path(request["folder"]), Path(request["keys"])
        runner = Runner(open_bundle(Path(request["bundle"])))
        calls = {
            name: partial(
                runner.run, (folder / name).read_bytes(), keys, lambda _: None
            )
            for name in request["blobs"]
        }
        first = calls[request["blobs"][0]]()
        (folder / "output").write_bytes(first.output)
        timings = interleaved(dict(calls), times=request["times"], warm=1)
        return {name: list(timing.seconds) for name, timing in timings.items()}

    return serve
