"""The process that proves: `python -m privacy.tee_zkml.prover`, a child of the enclave.

It loads the proof system, gives up what the enclave gives up, and waits. For every job
it forks a process, which gives up forking, too, proves the rows it is sent, and is
killed when the job is over: a proof that panics, hangs or takes too much memory ends
with its job and harms no other, and nothing of an input outlives it.

The engine opens files by path. It finds those of the circuit, and its own scratch
files, in memory only (see `circuit`); the disk is shut.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from privacy.encoding import Json
from privacy.errors import BackendError, PrivacyError
from privacy.tee.harden import Limits
from privacy.tee.wire import describe_error
from privacy.tee_zkml.channel import START, clear, receive, send, send_ended
from privacy.tee_zkml.circuit import HeldCircuit
from privacy.tee_zkml.sandbox import restrict_job, restrict_prover
from privacy.tee_zkml.tables import FOLDER, hold_tables
from privacy.zkml.blobs import Proof, proof_to_bytes
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.prove import check_version, prove_row
from privacy.zkml.system import load_backend

_REAP_MS = 20

Prove = Callable[[Sequence[int]], bytes]


class Prover:
    """Forks a process for every job, and reaps it."""

    def __init__(
        self,
        control: socket.socket,
        channels: Sequence[socket.socket],
        prove: Prove,
        *,
        filtered: bool,
    ) -> None:
        """Serve jobs on `channels`, one at a time on each.

        `filtered` says that system calls are, and so those of jobs will be.
        """
        self._control = control
        self._channels = channels
        self._prove = prove
        self._filtered = filtered
        self._jobs: dict[int, int] = {}

    def serve(self) -> None:
        """Obey until the enclave is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            if poll.poll(_REAP_MS if self._jobs else None):
                word = self._control.recv(2)
                if not word:
                    break
                self._obey(word[:1], word[1])
            self._reap()
        for pid in self._jobs:
            os.kill(pid, signal.SIGKILL)

    def _obey(self, word: bytes, number: int) -> None:
        if word == START:
            pid = os.fork()
            if not pid:
                self._control.close()
                for other, channel in enumerate(self._channels):
                    if other != number:  # another job's rows go there
                        channel.close()
                restrict_job(filtered=self._filtered)
                _work(self._channels[number], self._prove)
            self._jobs[pid] = number
            return
        for pid in [pid for pid, n in self._jobs.items() if n == number]:
            del self._jobs[pid]
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        clear(self._channels[number])

    def _reap(self) -> None:
        while self._jobs:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            send_ended(self._channels[self._jobs.pop(pid)])


def _work(channel: socket.socket, prove: Prove) -> NoReturn:
    """Prove what one job sends; what goes wrong is told by type and code only."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            row = json.loads(receive(channel))
            try:
                answer = prove(row)
            except PrivacyError as exc:
                answer = json.dumps(describe_error(exc)).encode()
            except BaseException as exc:  # noqa: BLE001 - panics are no exceptions
                error = BackendError(f"the prover raised {type(exc).__name__}")
                answer = json.dumps(describe_error(error)).encode()
            send(channel, answer)
    os._exit(0)


def _prove(params: ZkmlParams, descriptors: Mapping[str, int]) -> Prove:
    proof_to_bytes(Proof((0,), b""))  # loads codecs while there are files
    backend = load_backend(params.system)
    check_version(backend, params)
    circuit, bits = HeldCircuit(descriptors=descriptors), params.input_scale_bits
    backend.check_proving_key(circuit, logrows=params.logrows)

    def prove(row: Sequence[int]) -> bytes:
        return proof_to_bytes(prove_row(backend, circuit, row, scale_bits=bits))

    return prove


def main(control: socket.socket) -> None:
    """Run the prover: the first message is its task, the answer whether it is ready."""
    task: Json = json.loads(receive(control))
    channels = [socket.socket(fileno=fd) for fd in task["channels"]]
    try:
        params = parse_params(task["params"])
        prove = _prove(params, task["circuit"])
        middle = np.add(params.input_minimum, params.input_maximum) / 2
        (row,) = params.circuit_rows([middle], bytes(32))
        hold_tables(Path(FOLDER), partial(prove, row))
        policy = restrict_prover(Limits(**task["limits"]))
    except PrivacyError as exc:
        _say(control, describe_error(exc))
    except Exception as exc:  # noqa: BLE001 - reported to the enclave by type
        msg = f"the prover could not start ({type(exc).__name__})"
        _say(control, describe_error(BackendError(msg, code="enclave-start")))
    else:
        _say(control, {"sandbox": policy})
        gc.freeze()  # what is here by now is shared with the processes of jobs
        filtered = policy["seccomp"] != "none"
        Prover(control, channels, prove, filtered=filtered).serve()
    os._exit(0)


def _say(control: socket.socket, status: Json) -> None:
    send(control, json.dumps(status).encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
