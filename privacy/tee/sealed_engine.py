"""An engine that gets its model when a key broker has released the key.

It stands for `privacy.tee.engine.Engine` in an enclave that was started with a sealed
model; until `open` it refuses to run.
"""

import hashlib
import threading

from privacy.errors import UnavailableError
from privacy.tee.engine import Engine, Rows
from privacy.tee.sealed_model import SealedFile


class SealedEngine:
    """One sealed model; safe to use from several threads."""

    def __init__(self, file: SealedFile, *, may_use_gpu: bool = True) -> None:
        """Keep the ciphertext; `may_use_gpu` is for `Engine`."""
        self._file: SealedFile | None = file
        self._may_use_gpu = may_use_gpu
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    @property
    def is_open(self) -> bool:
        """Whether the model is loaded."""
        return self._engine is not None

    @property
    def columns(self) -> int:
        """How many features the model takes."""
        return self._opened().columns

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use; none before the model is loaded."""
        return self._engine.providers if self._engine else ()

    def open(self, content_key: bytes) -> bytes | None:
        """Load the model; return its SHA-384, or None if it was loaded already.

        Raises:
            VerificationError: The key, or the file, is not the model's.
            BackendError: ONNX Runtime cannot load the model.
        """
        with self._lock:
            if self._file is None:
                return None
            model = self._file.open(content_key)
            self._engine = Engine(model, may_use_gpu=self._may_use_gpu)
            self._file = None
            return hashlib.sha384(model).digest()

    def run(self, rows: Rows) -> Rows:
        """Return raw outputs; see `Engine.run`."""
        return self._opened().run(rows)

    def _opened(self) -> Engine:
        if self._engine is None:
            msg = (
                "the model is sealed, and its key was not released to this enclave yet"
            )
            raise UnavailableError(msg, code="model-sealed")
        return self._engine
