"""`python -m benchmarks.waiting`: a gateway whose jobs wait instead of computing.

The input says for how many seconds. So the throughput of many nodes can be measured on
a machine that could not compute for them.
"""

import time
from pathlib import Path

from gateway.app import run
from gateway.executors.base import Engines
from gateway.settings import Settings
from privacy.child import Handler, Progress
from privacy.encoding import Json


def handler() -> Handler:
    """Return what the worker processes serve."""

    def wait(request: Json, _progress: Progress) -> Json:
        time.sleep(float(Path(request["input"]).read_bytes().split()[0]))
        Path(request["output"]).write_bytes(b"waited")
        return {"evidence_kind": ""}

    return wait


if __name__ == "__main__":
    run(
        Settings(),
        announce=lambda key: print(f"shown once: {key}", flush=True),
        engines=Engines("benchmarks.waiting:handler"),
    )
