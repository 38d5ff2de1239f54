"""An enclave that runs in this process, for tests of the gateway's side only."""

import json
import threading
import time
from pathlib import Path
from typing import ClassVar

from privacy.child import Progress
from privacy.errors import FormatError, UnavailableError
from privacy.modes import Mode
from privacy.runs import RunResult


class FakeEnclave:
    """Lives in a class-wide table, as a real one lives in a process of its own."""

    living: ClassVar[dict[str, "FakeEnclave"]] = {}
    starts: ClassVar[int] = 0
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, model_sha256: str) -> None:
        self.model_sha256 = model_sha256
        self.stopped = False

    @classmethod
    def start(
        cls,
        model_dir: Path,
        run_dir: Path,
        *,
        model_sha256: str,
        source: object,
        limits: object,
    ) -> "FakeEnclave":
        assert (model_dir / "model.onnx").is_file()
        with cls._lock:
            cls.starts += 1
            enclave = cls.living[str(run_dir)] = cls(model_sha256)
        return enclave

    @classmethod
    def attach(
        cls, run_dir: Path, *, source: object, limits: object
    ) -> "FakeEnclave | None":
        enclave = cls.living.get(str(run_dir))
        return enclave if enclave and enclave.alive else None

    def evidence(self, nonce: bytes) -> bytes:
        return json.dumps({"nonce": nonce.hex(), "model": self.model_sha256}).encode()

    def unseal(self, release: bytes) -> None:
        raise FormatError("nothing is sealed here", code="not-sealed")

    def infer(
        self, sealed: bytes, *, timeout_s: float, progress: Progress
    ) -> RunResult:
        order = json.loads(sealed)
        match order["do"]:
            case "refuse":
                raise FormatError("sealed to another enclave", code="enclave-gone")
            case "die":
                self.stopped = True
                raise UnavailableError("the enclave has ended", code="enclave-gone")
            case "sleep":
                time.sleep(order["seconds"])
        return RunResult(b"sealed answer", b'{"quote":"fake"}', "attestation")

    @property
    def alive(self) -> bool:
        return not self.stopped

    def stop(self) -> None:
        self.stopped = True


def fake_enclave(_mode: Mode) -> type[FakeEnclave]:
    return FakeEnclave
