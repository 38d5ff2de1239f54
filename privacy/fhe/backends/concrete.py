"""Concrete at run time, through the native module beneath `concrete.compiler`.

Importing it takes a third of a second; Concrete-ML, which compiled the circuit, takes
nine and brings torch. Neither a client nor a node needs that. `concrete.compiler` adds
names of its own, `pkg_resources` (twice the time) and an exit handler that ends a
process with status 0, whatever status it was to have, once anything was encrypted.
"""

import ctypes
import signal
from pathlib import Path
from typing import Any

import numpy as np
from mlir._mlir_libs._concretelang import _compiler as native

from privacy.errors import BackendError
from privacy.fhe.backend import Ints

_SIG_IGN = 1


class Backend:
    """See `privacy.fhe.backend.FheBackend`."""

    name = "concrete"

    def generate_keyset(self, program: str) -> "ConcreteKeyset":
        """Return fresh keys; seeds of 0 mean the system's own randomness."""
        info = _program_info(program)
        return ConcreteKeyset(native.Keyset(info, None, 0, 0, 0, 0, None))

    def load_keyset(self, raw: bytes) -> "ConcreteKeyset":
        """Return the keys that `to_bytes` gave."""
        return ConcreteKeyset(native.Keyset.deserialize(raw))

    def load_circuit(self, folder: Path) -> "ConcreteCircuit":
        """Return the circuit in a folder of `sharedlib.so` and its program info."""
        return ConcreteCircuit(folder)


class ConcreteKeyset:
    """See `privacy.fhe.backend.Keyset`."""

    def __init__(self, keyset: Any) -> None:
        """Keep the keys."""
        self._keyset = keyset

    def to_bytes(self) -> bytes:
        """Return everything, the secret keys included."""
        return bytes(self._keyset.serialize())

    def evaluation_keys(self) -> bytes:
        """Return what the node needs to compute."""
        return bytes(self._keyset.get_server_keys().serialize())

    def cipher(self, program: str) -> "ConcreteCipher":
        """Return what encrypts for a program of this key set."""
        info = _program_info(program)
        return ConcreteCipher(
            native.ClientProgram.create_encrypted(info, self._keyset),
            info.function_list(),
        )


class ConcreteCipher:
    """See `privacy.fhe.backend.Cipher`."""

    def __init__(self, program: Any, functions: list[str]) -> None:
        """Keep a client circuit for each function of a program."""
        self._circuits = {f: program.get_client_circuit(f) for f in functions}

    def encrypt(self, function: str, values: Ints) -> bytes:
        """Return the ciphertext of as many rows as the function takes."""
        circuit = self._circuits[function]
        return bytes(circuit.prepare_input(native.Value(values), 0).serialize())

    def decrypt(self, function: str, ciphertext: bytes) -> Ints:
        """Return the integers in a function's result."""
        value = native.TransportValue.deserialize(ciphertext)
        found = self._circuits[function].process_output(value, 0).to_py_val()
        return np.asarray(found, dtype=np.int64)


class ConcreteCircuit:
    """See `privacy.fhe.backend.Circuit`."""

    def __init__(self, folder: Path) -> None:
        """Load the native library."""
        try:
            self._library = native.Library(str(folder))  # must outlive the program
            names = self._library.get_program_info().function_list()
            self._program = native.ServerProgram(self._library, False)  # noqa: FBT003
            self._circuits = {n: self._program.get_server_circuit(n) for n in names}
        except RuntimeError as exc:
            msg = "the compiled circuit cannot be loaded here: publish the model again"
            raise BackendError(msg, code="fhe-circuit-unloadable") from exc

    def load_keys(self, raw: bytes) -> Any:
        """Return evaluation keys in the form `run` takes."""
        return native.ServerKeyset.deserialize(raw)

    def run(self, function: str, ciphertext: bytes, evaluation_keys: Any) -> bytes:
        """Return a function's encrypted result."""
        value = native.TransportValue.deserialize(ciphertext)
        (result,) = self._circuits[function].call([value], evaluation_keys)
        _ignore_broken_pipes()
        return bytes(result.serialize())


def _ignore_broken_pipes() -> None:
    """Undo what running a circuit does to SIGPIPE: a lost connection ended the process.

    Concrete's runtime installs a handler that aborts; Python's `signal.signal` could
    undo that in the main thread only.
    """
    ctypes.CDLL(None).signal(signal.SIGPIPE, ctypes.c_void_p(_SIG_IGN))


def _program_info(program: str) -> Any:
    try:
        return native.ProgramInfo.deserialize(program.encode())
    except RuntimeError as exc:
        msg = "the circuit's description is not one this version of Concrete reads"
        raise BackendError(msg, code="fhe-program-unreadable") from exc
