"""The node's side of an enclave: start it, find it again, ask it, end it. Linux only.

The enclave is a process of its own session. It survives the node process, also a
`kill -9`, and a restarted node attaches to it. A node holds one connection open for as
long as it uses an enclave; an enclave that nobody holds ends by itself.
"""

import json
import os
import socket
import subprocess
import threading
import time
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Self

from privacy.child import LARGE_PAGES, Progress, child_environment
from privacy.encoding import Json, canonical_json, parse_object
from privacy.errors import BackendError, LimitError, PrivacyError, UnavailableError
from privacy.runs import RunResult
from privacy.tee.harden import DEFAULT_LIMITS, Limits
from privacy.tee.measure import TEE, Program, measure_folder, search_path
from privacy.tee.process import INTERPRETER, ProcessIdentity
from privacy.tee.seal import parse_sealed
from privacy.tee.sources import DEFAULT, EvidenceSource
from privacy.tee.wire import (
    RECORD,
    SOCKET,
    raise_described,
    receive_message,
    send_message,
)

IDLE_S = 600.0
_QUICK_S = 10.0
_EVIDENCE_S = 45.0  # hardware's host may take 30
_LOAD_S = 120.0
_SHORTEST_S = 0.001
_SPARE = 4
_DEBUG = "PRIVACY_CHILD_STDERR"  # never set in production
_HOOKS = {"LD_PRELOAD", "LD_AUDIT", "OPENSSL_CONF", "OPENSSL_MODULES"}  # load code
_GONE = "the enclave is gone: ask for new evidence and seal the input again"


class Enclave:
    """A running enclave; every method may be called from any thread."""

    program: ClassVar[Program] = TEE
    evidence_kind: ClassVar[str] = "attestation"
    start_s: ClassVar[float] = 120.0

    def __init__(self, run_dir: Path, process: ProcessIdentity) -> None:
        """Connect; `start` and `attach` are the ways to get one.

        Raises:
            UnavailableError: It does not answer.
        """
        self._run_dir = run_dir
        self._process = process
        self._held = _connect(run_dir, timeout_s=_QUICK_S)
        self._spare: list[socket.socket] = []  # connections nobody uses just now
        self._release = weakref.finalize(self, _close, self._held, self._spare)
        self.info, _ = _ask(self._held, {"op": "ping"})

    @classmethod
    def start(
        cls,
        model_dir: Path,
        run_dir: Path,
        *,
        model_sha256: str,
        source: EvidenceSource = DEFAULT,
        limits: Limits = DEFAULT_LIMITS,
        idle_s: float = IDLE_S,
        timeout_s: float | None = None,
    ) -> Self:
        """Return a fresh enclave with the model in `model_dir`.

        Args:
            model_dir: Holds `model.onnx`.
            run_dir: For its socket and record; made if missing, private to this user.
                An enclave that runs there is ended first.
            model_sha256: The model digest, which sealed inputs are bound to.
            source: What makes its evidence; a simulated platform by default.
            limits: Of its memory, and of what its sandbox may lack.
            idle_s: It ends by itself after so long without a connection.
            timeout_s: How long it may take to be ready; `start_s` by default.

        Raises:
            BackendError: It could not start, or not in time.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        _end_in(run_dir)
        command = [str(run_dir.resolve()), str(model_dir.resolve()), model_sha256]
        options = {"source": source.as_dict(), "limits": asdict(limits)}
        as_json = canonical_json(options).decode()
        _launch(
            cls.program,
            [*command, str(idle_s), as_json],
            timeout_s=timeout_s or cls.start_s,
        )
        process, _, _ = _read_record(run_dir)
        return cls(run_dir, process)

    @classmethod
    def attach(
        cls,
        run_dir: Path,
        *,
        source: EvidenceSource = DEFAULT,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Self | None:
        """Return the enclave that runs in `run_dir`.

        None if none does, it does not answer, or it is not what would be started now:
        its code, packages or model changed since, or its evidence comes from elsewhere.
        """
        try:
            process, model_dir, made_by = _read_record(run_dir)
            if not process.alive or made_by != source.as_dict():
                return None
            enclave = cls(run_dir, process)
            expected = measure_folder(model_dir, cls.program)
        except (PrivacyError, OSError):
            return None
        shown = dict(enclave.info.get("measurements", {}))
        if limits.allow_weaker_sandbox:  # its policy may be a weaker one than expected
            shown["rtmr0"] = expected.rtmr0.hex()
        if shown != expected.as_dict():
            enclave.detach()
            return None
        return enclave

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self._process.alive

    @property
    def model_sha256(self) -> str:
        """The model digest it was started with."""
        return str(self.info["model_sha256"])

    @property
    def simulated(self) -> bool:
        """Whether its evidence proves nothing."""
        return bool(self.info["simulated"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def evidence(self, nonce: bytes) -> bytes:
        """Return fresh evidence for a nonce of 32 bytes; see `privacy.tee.evidence`.

        Raises:
            FormatError: The nonce is not 32 bytes.
            UnavailableError: The enclave is gone ("enclave-gone").
        """
        (evidence,) = self._call("evidence", nonce, timeout_s=_EVIDENCE_S)
        return evidence

    def unseal(self, release: bytes) -> None:
        """Give the enclave the key of its sealed model, as the broker sealed it.

        Raises:
            FormatError: It is no release for this enclave.
            VerificationError: The key, or the sealed file, is not the model's.
            BackendError: ONNX Runtime cannot load the model.
            UnavailableError: The enclave is gone ("enclave-gone").
        """
        with _connect(self._run_dir, timeout_s=_LOAD_S) as connection:
            now, _ = _ask(connection, {"op": "unseal"}, release)
        self.info = {**self.info, **now}

    def infer(
        self,
        sealed: bytes,
        *,
        timeout_s: float,
        progress: Progress = lambda _: None,
    ) -> RunResult:
        """Return the sealed answer to a sealed input, and the evidence for it.

        Safe to repeat with the same input. If `progress` raises, the enclave stops
        working on it, as it does when this process ends.

        Raises:
            FormatError: The input is sealed to an enclave that is gone
                ("enclave-gone"), cannot be opened ("unsealable") or is malformed.
            LimitError: No answer within `timeout_s` ("time-limit"); the enclave may
                still be computing: `stop` it to be sure.
            UnavailableError: The enclave is gone ("enclave-gone").
        """
        parse_sealed(sealed)  # refuse here what the enclave would only hang up on
        output, evidence = self._call(
            "infer", sealed, timeout_s=timeout_s, progress=progress
        )
        return RunResult(output, evidence, self.evidence_kind)

    def stop(self) -> None:
        """End it, and its keys with it."""
        self.detach()
        self._process.kill()
        _forget(self._run_dir)

    def detach(self) -> None:
        """Let go of it and leave it running; it ends by itself if nobody attaches."""
        self._release()

    def _call(
        self,
        op: str,
        body: bytes,
        *,
        timeout_s: float,
        progress: Progress = lambda _: None,
    ) -> list[bytes]:
        try:
            connection = self._spare.pop()
            connection.settimeout(timeout_s)
        except IndexError:
            connection = _connect(self._run_dir, timeout_s=timeout_s)
        try:
            answer = _ask(connection, {"op": op}, body, progress=progress)[1]
        except BaseException:  # what is on its way would answer the next question
            connection.close()
            raise
        if len(self._spare) < _SPARE and self._release.alive:
            self._spare.append(connection)
        else:
            connection.close()
        return answer


def _close(held: socket.socket, spare: list[socket.socket]) -> None:
    held.close()
    while spare:
        spare.pop().close()


def _connect(run_dir: Path, *, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
        try:  # a socket's path has at most 107 bytes, a run folder's may have more
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
    except BlockingIOError as exc:
        connection.close()
        msg = "the enclave has too many requests waiting: try again later"
        raise UnavailableError(msg, code="enclave-busy") from exc
    except OSError as exc:
        connection.close()
        raise UnavailableError(_GONE, code="enclave-gone") from exc
    return connection


def _ask(
    connection: socket.socket,
    header: Json,
    *bodies: bytes,
    progress: Progress = lambda _: None,
) -> tuple[Json, list[bytes]]:
    limit_s = connection.gettimeout() or 0.0
    until = time.monotonic() + limit_s
    try:
        send_message(connection, header, *bodies)
        while "progress" in (found := receive_message(connection))[0]:
            progress(found[0]["progress"])
            connection.settimeout(max(_SHORTEST_S, until - time.monotonic()))
        answer, results = found
    except TimeoutError as exc:
        msg = f"the enclave gave no answer within {limit_s:g} s"
        raise LimitError(msg, code="time-limit") from exc
    except (OSError, EOFError) as exc:
        raise UnavailableError(_GONE, code="enclave-gone") from exc
    raise_described(answer)
    return answer, results


def _launch(program: Program, arguments: list[str], *, timeout_s: float) -> None:
    """Start the enclave process and wait until it is ready."""
    status, theirs = socket.socketpair()
    debug = os.environ.get(_DEBUG)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [*INTERPRETER, "-m", program.entry, *arguments, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if debug else subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,
            env=_environment(program),
        )
    # Reaped whenever it ends, so that it never stays behind as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    with status, status.makefile("rb") as lines:
        status.settimeout(timeout_s)
        try:
            line = lines.readline()
        except TimeoutError as exc:
            process.kill()
            msg = f"the enclave was not ready within {timeout_s} s"
            raise BackendError(msg, code="enclave-start") from exc
    if not line:
        msg = "the enclave process ended before it was ready"
        raise BackendError(msg, code="enclave-start")
    raise_described(json.loads(line))


def _environment(program: Program = TEE) -> dict[str, str]:
    """Return where the enclave finds its packages.

    Without other people's hooks, and without our settings: a hostile model could look
    for the node's passwords in them.
    """
    kept = {
        name: value
        for name, value in child_environment().items()
        if name == _DEBUG
        or not (name.startswith(("PYTHON", "PRIVACY_")) or name in _HOOKS)
    }
    folders = [str(folder) for folder in search_path(program)]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(folders),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would start before the sandbox
        **LARGE_PAGES,  # whatever the operator has set
    }


def _read_record(run_dir: Path) -> tuple[ProcessIdentity, Path, Json]:
    try:
        record = parse_object((run_dir / RECORD).read_bytes(), what="enclave record")
        process = ProcessIdentity(**record["process"])
        return process, Path(record["model_dir"]), record["source"]
    except (PrivacyError, OSError, KeyError, TypeError) as exc:
        raise UnavailableError(_GONE, code="enclave-gone") from exc


def _end_in(run_dir: Path) -> None:
    try:
        process, _, _ = _read_record(run_dir)
    except UnavailableError:
        pass
    else:
        process.kill()
    _forget(run_dir)


def _forget(run_dir: Path) -> None:
    for name in (RECORD, SOCKET):
        (run_dir / name).unlink(missing_ok=True)
