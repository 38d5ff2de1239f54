"""The enclave process: `python -m privacy.tee.enclave`, started by `privacy.tee.host`.

    1. Read the model's bytes; load the libraries.
    2. Measure what was read, and what reads it.
    3. Say where it can be reached: a record file and a unix socket.
    4. Harden the process; from here on it opens no file.
    5. Load the model; make the keys, in memory only.
    6. Answer: evidence for a nonce, inference on sealed inputs.

It outlives the node process that started it, so that a restarted node finds it again,
and ends by itself when nobody has been connected for a while. It logs nothing.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol

# Imported here because `cryptography` would look for it once files are shut off.
import cryptography.hazmat.backends.openssl.backend  # noqa: F401
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.bundle import MANIFEST, Manifest, parse_manifest
from privacy.encoding import Json, canonical_json, sha256_hex
from privacy.errors import (
    BackendError,
    FormatError,
    LimitError,
    PrivacyError,
    VerificationError,
)
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.onchain import Terms, terms_of
from privacy.tee.attester import Attester
from privacy.tee.batches import Batches
from privacy.tee.composite import devices_to_bytes
from privacy.tee.contract import Answerer
from privacy.tee.engine import Engine, Rows, load_libraries
from privacy.tee.evidence import Evidence, Statement, check_nonce, with_job
from privacy.tee.harden import DEFAULT_LIMITS, Limits, harden
from privacy.tee.kem import KemKey, supported
from privacy.tee.key_release import open_release
from privacy.tee.measure import (
    TEE,
    Program,
    measure_loaded,
    measure_policy,
    measure_unloaded,
)
from privacy.tee.parse import Measurements
from privacy.tee.process import identify
from privacy.tee.replay import UsedJobs
from privacy.tee.runtime_log import RuntimeEvent, RuntimeLog, register_of
from privacy.tee.seal import SealedInput, open_input, parse_sealed, seal_answer
from privacy.tee.sealed_engine import SealedEngine
from privacy.tee.sealed_model import SEALED_MODEL, SealedFile, sealing_of
from privacy.tee.sources import DEFAULT, NO_DEVICES, Devices, EvidenceSource
from privacy.tee.wire import (
    MODEL,
    RECORD,
    SOCKET,
    describe_error,
    receive_message,
    send_message,
)

_MAX_CONNECTIONS = 64
_BACKLOG = 1024
_MOST_QUOTES = 64
_QUOTE_S = 600.0  # a Nitro document counts for three hours: a job may end late
_POLL_S = 1.0
_FULL_POLL_S = 0.01

Answer = tuple[Json, list[bytes]]
_QuoteOf = tuple[bytes, Measurements]
Tell = Callable[[Json], None]
"""How a job says how far it is; raises if nobody listens any more."""


class Prover(Protocol):
    """Makes proofs of the model's answers, in mode tee+zkml.

    Attributes:
        circuit_sha256: What it proves with; see `privacy.tee_zkml.circuit`.
        sandbox: The policy that was applied to it.
    """

    circuit_sha256: str
    sandbox: Json

    def prove(self, rows: Rows, salt: bytes, tell: Tell) -> bytes:
        """Return proofs; see `privacy.tee_zkml.proving`."""


StartProver = Callable[..., Prover]
"""Takes a bundle's folder, `model_sha256` and `limits`."""


class Enclave:
    """What the process answers with; made after it was hardened, keys and all."""

    def __init__(
        self,
        engine: Engine | SealedEngine,
        attester: Attester,
        measurements: Measurements,
        *,
        model_sha256: str,
        terms: Terms | None = None,
        devices: Devices = NO_DEVICES,
        prover: Prover | None = None,
    ) -> None:
        """Make the keys; without `terms` there are no answers for contracts.

        With a `SealedEngine`, measurements are those before the model is there. With a
        prover, answers carry proofs: the mode is tee+zkml.
        """
        self._prover = prover
        self._engine = engine
        self._attester = attester
        self._devices = devices
        self._measurements = measurements
        self._model_sha256 = model_sha256
        self._hpke_keys = tuple(KemKey.generate(kem) for kem in supported())
        self._signing_key = Ed25519PrivateKey.generate()
        self._answerer = Answerer(terms, engine.run) if terms else None
        self._shown = Evidence(
            format=attester.format,
            quote=b"",
            hpke_public_keys=tuple(key.public for key in self._hpke_keys),
            signing_public_key=self._signing_key.public_key().public_bytes_raw(),
            chain_public_key=self._answerer.public_key if self._answerer else b"",
            nonce=b"",
            model_sha256=model_sha256,
        )
        self._used = UsedJobs()
        self._quoted: OrderedDict[_QuoteOf, tuple[float, bytes]] = OrderedDict()
        self._batches = Batches(engine.run)
        self._log = RuntimeLog()
        self._lock = threading.Lock()  # held where measurements and log must agree
        self._note("measured")
        self._note("keys")
        if isinstance(engine, Engine):
            self._note("model")
        if prover:
            self._note("circuit")

    def describe(self) -> Json:
        """Return what the node may know of this enclave."""
        return {
            "model_sha256": self._model_sha256,
            "measurements": self._measurements.as_dict(),
            "format": self._attester.format,
            "simulated": self._attester.simulated,
            "providers": list(self._engine.providers),
            "gpu": self._devices.shows_gpu(self._engine.providers),
            "sealed": isinstance(self._engine, SealedEngine)
            and not self._engine.is_open,
        }

    def unseal(self, release: bytes) -> Json:
        """Load the sealed model with the key that a broker released to this enclave.

        Returns what the node may know of it now.

        Raises:
            FormatError: The release is for another enclave, or the model not sealed.
            VerificationError: The key or the file is not the model's.
            BackendError: ONNX Runtime cannot load the model.
        """
        if not isinstance(self._engine, SealedEngine):
            msg = "the model of this enclave is not sealed"
            raise FormatError(msg, code="not-sealed")
        content_key = open_release(
            release, self._hpke_keys, model_sha256=self._model_sha256
        )
        if digest := self._engine.open(content_key):
            with self._lock:
                self._measurements = replace(self._measurements, rtmr2=digest)
                self._note("model")
        return self.describe()

    def _note(self, name: str) -> None:
        """Log an event of the enclave's start."""
        circuit = self._prover.circuit_sha256 if self._prover else ""
        detail = self._shown.start(self._measurements, circuit)[name]
        self._log.extend(name, **detail)

    def evidence(
        self, nonce: bytes, statement: Statement | None = None, signature: bytes = b""
    ) -> bytes:
        """Return evidence over a quote for `nonce`, one for session and jobs alike."""
        with self._lock:
            events, measured = self._log.events, self._measurements
        registers = replace(measured, rtmr3=register_of(events))
        shown = self._vouched(check_nonce(nonce), events, registers)
        return with_job(shown, statement, signature) if statement else shown

    def _vouched(
        self, nonce: bytes, events: tuple[RuntimeEvent, ...], registers: Measurements
    ) -> bytes:
        """Return evidence without a statement; quoted once for nonce and registers."""
        with self._lock:
            known = self._quoted.get((nonce, registers))
        if known and time.monotonic() - known[0] < _QUOTE_S:
            return known[1]
        devices = self._devices.reports(nonce, self._engine.providers)
        shown = replace(
            self._shown,
            nonce=nonce,
            event_log=events,
            device_evidence=devices_to_bytes(devices) if devices else b"",
        )
        quote = self._attester.quote(shown.report_data, registers)
        made = replace(shown, quote=quote).to_bytes()
        with self._lock:
            self._quoted[nonce, registers] = time.monotonic(), made
            if len(self._quoted) > _MOST_QUOTES:
                self._quoted.popitem(last=False)
        return made

    def infer(self, raw: bytes, tell: Tell = lambda _: None) -> tuple[bytes, bytes]:
        """Return the answer to a sealed input, and the evidence for it.

        The answer is sealed, too, unless the input was sealed for a contract.
        """
        sealed, proofs = parse_sealed(raw), b""
        with self._used.taken(sealed):
            if sealed.order:
                answer = self._for_contract(sealed)
            else:
                answer, proofs = self._private(sealed, tell)
        statement = Statement(
            model_sha256=self._model_sha256,
            nonce=sealed.nonce,
            job=sealed.job,
            input_sha256=sealed.sha256,
            output_sha256=sha256_hex(answer),
            simulated=self._attester.simulated,
            proof_sha256=sha256_hex(proofs) if proofs else "",
        )
        signature = statement.sign(self._signing_key)
        return answer, self.evidence(sealed.nonce, statement, signature)

    def _private(self, sealed: SealedInput, tell: Tell) -> tuple[bytes, bytes]:
        """Return the sealed answer, and the proofs that are in it."""
        mode = Mode.TEE_ZKML if self._prover else Mode.TEE
        purpose = sealed.purpose(self._model_sha256, mode=mode)
        rows, reply_key, salt = open_input(
            sealed, self._hpke_keys, purpose, columns=self._engine.columns
        )
        outputs = self._batches.run(rows, tell)
        proofs = self._prover.prove(rows, salt, tell) if self._prover else b""
        answer = seal_answer(
            outputs,
            reply_key=reply_key,
            purpose=purpose,
            input_sha256=sealed.sha256,
            proofs=proofs,
        )
        return answer, proofs

    def _for_contract(self, sealed: SealedInput) -> bytes:
        if self._answerer is None:
            msg = "this enclave was started without a manifest: no answers to contracts"
            raise FormatError(msg, code="no-chain-key")
        return self._answerer.answer(
            sealed, self._hpke_keys, model_sha256=self._model_sha256
        )


class Server:
    """Accepts connections and hands each to a thread."""

    def __init__(self, listener: socket.socket, enclave: Enclave, info: Json) -> None:
        """Serve `enclave`; `info` is what a ping is answered with."""
        self._listener = listener
        self._enclave = enclave
        self._info = info
        self._lock = threading.Lock()
        self._open = 0

    def serve(self, *, idle_s: float) -> None:
        """Answer until nobody has been connected for `idle_s` seconds."""
        self._listener.settimeout(min(_POLL_S, idle_s / 4))
        since = time.monotonic()
        while time.monotonic() - since < idle_s:
            if self._open >= _MAX_CONNECTIONS:  # later ones wait in the backlog
                time.sleep(_FULL_POLL_S)
                since = time.monotonic()
                continue
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                connection = None
            if connection is not None:
                self._start(connection)
            if self._open:
                since = time.monotonic()

    def _start(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        with self._lock:
            self._open += 1
        threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection:
                while True:
                    header, bodies = receive_message(connection)
                    tell = partial(_send_progress, connection)
                    answer, results = self._answer(header, bodies, tell)
                    send_message(connection, answer, *results)
        except (EOFError, OSError, FormatError):
            pass  # the node went away, or does not speak this protocol
        finally:
            with self._lock:
                self._open -= 1

    def _answer(self, header: Json, bodies: list[bytes], tell: Tell) -> Answer:
        operations: dict[object, Callable[..., Answer]] = {
            "ping": lambda: ({**self._enclave.describe(), **self._info}, []),
            "unseal": lambda release: (self._enclave.unseal(release), []),
            "evidence": lambda nonce: ({}, [self._enclave.evidence(nonce)]),
            "infer": lambda sealed: ({}, [*self._enclave.infer(sealed, tell)]),
        }
        try:
            return operations[header.get("op")](*bodies)
        except PrivacyError as exc:
            return describe_error(exc), []
        except MemoryError:
            msg = "the enclave has not enough memory for this: send fewer rows"
            return describe_error(LimitError(msg, code="memory-limit")), []
        except Exception as exc:  # noqa: BLE001 - only the type: it may quote inputs
            error = BackendError(f"the enclave raised {type(exc).__name__}")
            return describe_error(error), []


def _send_progress(connection: socket.socket, progress: Json) -> None:
    send_message(connection, {"progress": progress})


def start(
    run_dir: Path,
    model_dir: Path,
    *,
    model_sha256: str,
    source: EvidenceSource = DEFAULT,
    limits: Limits = DEFAULT_LIMITS,
    program: Program = TEE,
    start_prover: StartProver | None = None,
) -> Server:
    """Return this process as a hardened enclave, ready to serve.

    With `start_prover` its answers carry proofs; it is called while processes can be
    started.

    Raises:
        PrivacyError: The model cannot be loaded, nothing makes the evidence, or the
            process cannot be hardened.
    """
    is_sealed = (model_dir / SEALED_MODEL).is_file()
    name = SEALED_MODEL if is_sealed else MODEL
    model = (model_dir / name).read_bytes()
    load_libraries()
    manifest = _manifest(
        model_dir.parent / MANIFEST, name, model, model_sha256=model_sha256
    )
    terms = terms_of(manifest) if manifest else None
    measurements = (
        measure_unloaded(program) if is_sealed else measure_loaded(model, program)
    )
    listener = _listen(run_dir)
    identity = identify(os.getpid())
    if identity is None:
        raise BackendError("the enclave cannot see its own process in /proc")
    record = {
        "process": asdict(identity),
        "model_dir": str(model_dir),
        "source": source.as_dict(),
    }
    write_atomic(run_dir / RECORD, canonical_json(record), private=True)
    prover = None
    if start_prover:
        prover = start_prover(
            model_dir.parent, model_sha256=model_sha256, limits=limits
        )
    attester, devices = source.open(), source.open_devices()  # may open files
    hardened = harden(limits=limits)
    policy = hardened.policy | ({"prover": prover.sandbox} if prover else {})
    measurements = replace(measurements, rtmr0=measure_policy(policy))
    engine: Engine | SealedEngine  # only now: a model may be a hostile one
    if is_sealed:
        file = SealedFile(model, _onnx_sha256(manifest))
        engine = SealedEngine(file, may_use_gpu=source.may_use_gpu)
    else:
        engine = Engine(model, may_use_gpu=source.may_use_gpu)
    enclave = Enclave(
        engine,
        attester,
        measurements,
        model_sha256=model_sha256,
        terms=terms,
        devices=devices,
        prover=prover,
    )
    return Server(listener, enclave, {**hardened.as_dict(), "sandbox": policy})


def _manifest(
    path: Path, name: str, model: bytes, *, model_sha256: str
) -> Manifest | None:
    """Return the manifest of the model file of that name, if there is one.

    What the manifest says is attested by its digest, which the quote covers.

    Raises:
        VerificationError: It is another manifest, or one of another model file.
    """
    if not path.is_file():
        return None
    raw = path.read_bytes()
    manifest = parse_manifest(raw)
    entry = manifest.files.get(f"{Mode.TEE}/{name}")
    if sha256_hex(raw) != model_sha256 or (
        entry is None or entry.sha256 != sha256_hex(model)
    ):
        msg = f"{path.name} is of another model: publish it again"
        raise VerificationError(msg, code="bundle-changed")
    return manifest


def _onnx_sha256(manifest: Manifest | None) -> str:
    sealing = sealing_of(manifest) if manifest else None
    if sealing is None:
        msg = "the model is sealed, but no manifest says with what: publish it again"
        raise FormatError(msg, code="bundle-format")
    return sealing.onnx_sha256


def _listen(run_dir: Path) -> socket.socket:
    os.chdir(run_dir)  # a socket's path has at most 107 bytes: use a relative one
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen(_BACKLOG)
    return listener


def main(
    argv: list[str],
    program: Program = TEE,
    start_prover: StartProver | None = None,
) -> None:
    """Run the enclave: run folder, model folder, model digest, idle limit, options, fd.

    The options are JSON: source of evidence and limits. The status descriptor
    takes one JSON line: empty when ready, else the error.
    """
    run_dir, model_dir, model_sha256, idle_s, options, status_fd = argv
    status: Json = {}
    server = None
    try:
        server = start(
            Path(run_dir),
            Path(model_dir),
            model_sha256=model_sha256,
            source=EvidenceSource.from_dict(json.loads(options)["source"]),
            limits=Limits(**json.loads(options)["limits"]),
            program=program,
            start_prover=start_prover,
        )
    except PrivacyError as exc:
        status = describe_error(exc)
    except Exception as exc:  # noqa: BLE001 - reported to the node by type
        msg = f"the enclave could not start ({type(exc).__name__})"
        status = describe_error(BackendError(msg, code="enclave-start"))
    with contextlib.suppress(OSError):  # the node may be gone already
        os.write(int(status_fd), json.dumps(status).encode() + b"\n")
    os.close(int(status_fd))
    if server is not None:
        server.serve(idle_s=float(idle_s))
    os._exit(0 if server else 1)  # engines crash at a normal exit


if __name__ == "__main__":
    main(sys.argv[1:])
