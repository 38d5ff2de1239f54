"""A worker that computes honestly and then gives the first and last rows' answers
in each other's place: a lie that no ciphertext shows."""

from pathlib import Path

from gateway.executors import worker
from privacy.child import Handler, Progress
from privacy.encoding import Json, pack, unpack


def handler() -> Handler:
    honest = worker.handler()

    def run(request: Json, progress: Progress) -> Json:
        answer = honest(request, progress)
        output = Path(request["output"])
        frames = unpack(output.read_bytes(), what="output")
        frames[0], frames[-1] = frames[-1], frames[0]
        output.write_bytes(pack(frames))
        return answer

    return run
