"""A worker that computes honestly and then changes what it found: rows swapped under
FHE, outputs of a proof changed. Nothing shows the first, the proof shows the second."""

import json
from pathlib import Path

from gateway.executors import worker
from privacy.child import Handler, Progress
from privacy.encoding import Json, canonical_json, pack, unpack


def handler() -> Handler:
    honest = worker.handler()

    def run(request: Json, progress: Progress) -> Json:
        answer = honest(request, progress)
        output = Path(request["output"])
        raw = output.read_bytes()
        if request["mode"] == "fhe":
            frames = unpack(raw, what="output")
            output.write_bytes(pack([*frames[1:], frames[0]]))
        else:
            told = json.loads(raw)
            told["outputs"][0][0] += 1.0
            output.write_bytes(canonical_json(told))
        return answer

    return run
