"""The attempts of `sandbox_attempts` in a process as the prover's jobs have it.

    python -S -P prover_probes.py FOLDER

Prints one JSON object: by attempt, what came of it; and under "channels" the numbers of
those that a job on channel 1 holds.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from sandbox_attempts import ATTEMPTS, MEMORY_BYTES, Scene
from sandbox_probes import child

from privacy.tee.harden import Limits
from privacy.tee_zkml.channel import START, receive, send
from privacy.tee_zkml.prover import Prover
from privacy.tee_zkml.sandbox import restrict_job, restrict_prover


def in_a_job(function, scene):
    """Run where the prover forks a job's process: two filters, one after the other."""

    def run():
        scene.prepare()
        restrict_prover(Limits(memory_bytes=MEMORY_BYTES))
        restrict_job(filtered=True)
        function(scene)

    return child(run)


def channels_of_a_job():
    ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    theirs = [end for _, end in pairs]
    numbers = [end.fileno() for end in theirs]

    def prove(_):
        held = [
            i for i, fd in enumerate(numbers) if Path(f"/proc/self/fd/{fd}").exists()
        ]
        return json.dumps(held).encode()

    prover = os.fork()
    if prover == 0:
        ours.close()
        Prover(control, theirs, prove, filtered=False).serve()
        os._exit(0)
    control.close()
    try:
        ours.send(START + bytes([1]))
        send(pairs[1][0], b"[]")
        return json.loads(receive(pairs[1][0]))
    finally:
        ours.close()
        os.waitpid(prover, 0)


def main(folder):
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(b"")
        abstract.listen()
        neighbour = os.fork()
        if neighbour == 0:
            while True:
                time.sleep(60)
        scene = Scene(folder, neighbour, abstract)
        try:
            found = {name: in_a_job(f, scene) for name, f in ATTEMPTS.items()}
            found["channels"] = channels_of_a_job()
            sys.stdout.write(json.dumps(found))
        finally:
            os.kill(neighbour, signal.SIGKILL)
            os.waitpid(neighbour, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
