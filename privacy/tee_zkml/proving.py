"""The enclave's side of its prover: rows in, proofs out, and nobody waits for ever.

The prover is started before the enclave is shut, for afterwards nothing can be. While a
proof is made the client is told, every second: if nobody listens any more, the job's
process is ended.
"""

import json
import os
import queue
import select
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NoReturn

from privacy.bundle import Bundle
from privacy.child import Progress
from privacy.encoding import Json, parse_object
from privacy.errors import BackendError, FormatError
from privacy.modes import Mode
from privacy.tee.harden import DEFAULT_LIMITS, Limits
from privacy.tee.process import INTERPRETER
from privacy.tee.wire import raise_described
from privacy.tee_zkml.channel import (
    END,
    START,
    ProcessEnded,
    receive,
    send,
    skip_to_clear,
)
from privacy.tee_zkml.circuit import circuit_sha256, hold_circuit
from privacy.zkml.blobs import (
    Evidence,
    Proof,
    make_evidence,
    proof_from_bytes,
)
from privacy.zkml.params import parse_params

ENTRY = "privacy.tee_zkml.prover"

_START_S = 600.0  # it proves a row
_BEAT_S = 1.0
_TRIES = 2
_PLACES = 4  # processes at once; the node lets in as many as it has memory for


@dataclass(slots=True)
class _Place:
    """One job at a time; `is_used` until the last is known to be over."""

    number: int
    channel: socket.socket
    is_used: bool = False


class Proving:
    """Makes proofs of one model's answers; safe to use from several threads.

    Attributes:
        circuit_sha256: What it proves with, as the event log names it.
        sandbox: What the prover was confined to, as it is measured.
    """

    def __init__(self, bundle: Bundle, limits: Limits = DEFAULT_LIMITS) -> None:
        """Start the prover; the bundle's circuit is held in memory from now on.

        Raises:
            VerificationError: A file of the circuit was changed.
            PrivacyError: The prover could not start.
        """
        self._model_sha256 = bundle.sha256
        self.circuit_sha256 = circuit_sha256(bundle.manifest)
        self._params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
        self._control, control = _pair()
        pairs = [_pair() for _ in range(_PLACES)]
        self._free: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        for number, (ours, _) in enumerate(pairs):
            self._free.put(_Place(number, ours))
        circuit = hold_circuit(bundle)
        theirs = [control, *(one for _, one in pairs)]
        _launch(control, [*circuit.descriptors.values(), *(s.fileno() for s in theirs)])
        task = {
            "params": self._params.to_json(),
            "circuit": dict(circuit.descriptors),
            "channels": [one.fileno() for _, one in pairs],
            "limits": asdict(limits),
        }
        for one in theirs:
            one.close()
        for fd in circuit.descriptors.values():  # the prover has them
            os.close(fd)
        self.sandbox: Json = self._begin(task)["sandbox"]

    def prove(self, rows: Any, salt: bytes, progress: Progress) -> bytes:
        """Return proofs of the answers about rows; see `privacy.zkml.blobs`.

        Args:
            rows: Standardised features, shape (rows, features).
            salt: The job's.
            progress: Told how far it is, at least every second; if it raises, the job
                is ended.

        Raises:
            FormatError: A row is out of the circuit's range.
            BackendError: The engine failed, or its process died at the input, twice.
        """
        params = self._params
        try:
            params.check_range(rows)
            quantized = params.circuit_rows(rows, salt)
        except FormatError:  # its message says which row and column: the node reads it
            msg = "a row is outside the range that the circuit was built for"
            raise FormatError(msg, code="out-of-range") from None
        proofs: list[Proof] = []
        for left in reversed(range(_TRIES)):
            try:
                with self._place(progress) as place:
                    for row in quantized[len(proofs) :]:
                        told = {"stage": "prove", "done": len(proofs)}
                        beat = partial(progress, {**told, "total": len(quantized)})
                        proofs.append(self._row(place, row, beat))
            except ProcessEnded as exc:
                if left:
                    continue
                msg = f"the process that proves died {_TRIES} times at this input"
                raise BackendError(msg, code="worker-died") from exc
            break
        insecure = params.insecure_srs
        return make_evidence(Evidence(self._model_sha256, insecure, tuple(proofs)))

    def _row(self, place: _Place, row: list[int], beat: Callable[[], None]) -> Proof:
        beat()
        send(place.channel, json.dumps(row).encode())
        self._wait(place, beat)
        answer = receive(place.channel)
        value = parse_object(answer, what="prover's answer")
        raise_described(value)
        return proof_from_bytes(
            answer,
            instances=len(self._params.instances),
            proof_bytes=self._params.proof_bytes,
        )

    @contextmanager
    def _place(self, progress: Progress) -> Iterator[_Place]:
        """Hold a place for a job, with a fresh process that ends with it."""
        while True:
            with suppress(queue.Empty):
                place = self._free.get(timeout=_BEAT_S)
                break
            progress({"stage": "wait for a prover"})
        try:
            if place.is_used:
                skip_to_clear(place.channel)
            place.is_used = True
            self._tell(START, place)
            yield place
        except EOFError:
            _end_enclave()
        finally:
            self._tell(END, place)
            self._free.put(place)

    def _wait(self, place: _Place, beat: Callable[[], None]) -> None:
        """Wait until there is something to read."""
        poll = select.poll()
        poll.register(place.channel, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while not (ready := poll.poll(int(1000 * _BEAT_S))):
            beat()
        if self._control.fileno() in {fd for fd, _ in ready}:
            _end_enclave()  # the prover never speaks there: it is gone

    def _tell(self, word: bytes, place: _Place) -> None:
        try:
            self._control.send(word + bytes([place.number]))
        except OSError:
            _end_enclave()

    def _begin(self, task: Json) -> Json:
        """Give the prover its task, and return what it says when it is ready."""
        self._control.settimeout(_START_S)
        try:
            send(self._control, json.dumps(task).encode())
            status = parse_object(receive(self._control), what="prover's answer")
        except (OSError, EOFError) as exc:
            msg = f"the prover was not ready within {_START_S:g} s, or ended"
            raise BackendError(msg, code="enclave-start") from exc
        self._control.settimeout(None)
        raise_described(status)
        return status


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _launch(control: socket.socket, descriptors: Sequence[int]) -> None:
    """Start the prover; it ends when the enclave does, and needs no more of it."""
    debug = os.environ.get("PRIVACY_CHILD_STDERR")  # never set in production
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [*INTERPRETER, "-m", ENTRY, str(control.fileno())],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if debug else subprocess.DEVNULL,
    )
    process.returncode = 0  # never waited for: an enclave without it ends, too


def _end_enclave() -> NoReturn:
    """End this process: clients attest a new enclave, whose prover is alive."""
    os._exit(1)
