"""What this mode asks of an FHE engine, and how one is loaded.

An engine lives in `privacy.fhe.backends`, one file each; nobody else names it. It is
imported by `load_backend`, late, so that `import privacy.fhe` stays light.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from privacy.errors import UnavailableError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Cipher(Protocol):
    """A data owner's keys at work for one program; a function is a circuit of it."""

    def encrypt(self, function: str, values: Ints) -> bytes:
        """Return the ciphertext of as many quantized rows as the function takes."""

    def decrypt(self, function: str, ciphertext: bytes) -> Ints:
        """Return the integers in a function's result, (rows, …)."""


class Keyset(Protocol):
    """A data owner's keys; they serve every program of their key set."""

    def to_bytes(self) -> bytes:
        """Return everything, the secret keys included."""

    def evaluation_keys(self) -> bytes:
        """Return what the node needs to compute; it decrypts nothing."""

    def cipher(self, program: str) -> Cipher:
        """Return what encrypts for a program of this key set, and decrypts."""


class Circuit(Protocol):
    """A compiled program, loaded by a node."""

    def load_keys(self, raw: bytes) -> Any:
        """Return evaluation keys in the form `run` takes; malformed bytes may crash."""

    def run(self, function: str, ciphertext: bytes, evaluation_keys: Any) -> bytes:
        """Return a function's encrypted result; malformed bytes may crash."""


class FheBackend(Protocol):
    """One FHE engine. `program` is its own description of circuits, as text."""

    name: str

    def generate_keyset(self, program: str) -> Keyset:
        """Return fresh keys from the system's randomness."""

    def load_keyset(self, raw: bytes) -> Keyset:
        """Return the keys that `to_bytes` gave; malformed bytes may crash."""

    def load_circuit(self, folder: Path) -> Circuit:
        """Return a circuit from its folder. It holds native code: only your own."""


def load_backend(name: str = "concrete") -> FheBackend:
    """Return an engine.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        module = importlib.import_module(f"privacy.fhe.backends.{name}")
    except ImportError as exc:
        msg = (
            f"the FHE engine {name!r} is not installed: "
            "install it with pip install 'privacy-compute[fhe]'"
        )
        raise UnavailableError(msg, code="engine-missing") from exc
    backend: FheBackend = module.Backend()
    return backend
