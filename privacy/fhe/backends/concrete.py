"""Concrete at run time, through `concrete.compiler` alone.

Importing it takes half a second; Concrete-ML, which compiled the circuit, takes nine
and brings torch. Neither a client nor a node needs that.
"""

import atexit
from pathlib import Path
from typing import Any

import concrete.compiler as native
import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Ints

# At exit Concrete ends its dataflow runtime, which nothing here uses; once anything was
# encrypted, that ends the process with status 0, whatever status it was to have.
atexit.unregister(native._terminate_df_parallelization)  # noqa: SLF001


class Backend:
    """See `privacy.fhe.backend.FheBackend`."""

    name = "concrete"

    def generate_keyset(self, program: str) -> "ConcreteKeyset":
        """Return fresh keys; seeds of 0 mean the system's own randomness."""
        info = _program_info(program)
        return ConcreteKeyset(info, native.Keyset(info, None, 0, 0, 0, 0, None))

    def load_keyset(self, program: str, raw: bytes) -> "ConcreteKeyset":
        """Return the keys that `to_bytes` gave."""
        return ConcreteKeyset(_program_info(program), native.Keyset.deserialize(raw))

    def load_circuit(self, folder: Path) -> "ConcreteCircuit":
        """Return the circuit in a folder of `sharedlib.so` and its program info."""
        return ConcreteCircuit(folder)


class ConcreteKeyset:
    """See `privacy.fhe.backend.Keyset`."""

    def __init__(self, info: Any, keyset: Any) -> None:
        """Keep the keys and a circuit that encrypts with them."""
        self._keyset = keyset
        program = native.ClientProgram.create_encrypted(info, keyset)
        self._circuit = program.get_client_circuit(info.function_list()[0])

    def to_bytes(self) -> bytes:
        """Return everything, the secret keys included."""
        return bytes(self._keyset.serialize())

    def evaluation_keys(self) -> bytes:
        """Return what the node needs to compute."""
        return bytes(self._keyset.get_server_keys().serialize())

    def encrypt(self, values: Ints) -> bytes:
        """Return the ciphertext of one row."""
        return bytes(self._circuit.prepare_input(native.Value(values), 0).serialize())

    def decrypt(self, ciphertext: bytes) -> Ints:
        """Return the integers in a result."""
        value = native.TransportValue.deserialize(ciphertext)
        found = self._circuit.process_output(value, 0).to_py_val()
        return np.asarray(found, dtype=np.int64)


class ConcreteCircuit:
    """See `privacy.fhe.backend.Circuit`."""

    def __init__(self, folder: Path) -> None:
        """Load the native library."""
        try:
            self._library = native.Library(str(folder))  # must outlive the program
            name = self._library.get_program_info().function_list()[0]
            self._program = native.ServerProgram(self._library, False)  # noqa: FBT003
            self._circuit = self._program.get_server_circuit(name)
        except RuntimeError as exc:
            msg = "the compiled circuit cannot be loaded here: publish the model again"
            raise BackendError(msg, code="fhe-circuit-unloadable") from exc

    def load_keys(self, raw: bytes) -> Any:
        """Return evaluation keys in the form `run` takes."""
        return native.ServerKeyset.deserialize(raw)

    def run(self, ciphertext: bytes, evaluation_keys: Any) -> bytes:
        """Return the encrypted result for one row."""
        value = native.TransportValue.deserialize(ciphertext)
        (result,) = self._circuit.call([value], evaluation_keys)
        return bytes(result.serialize())


def _program_info(program: str) -> Any:
    try:
        return native.ProgramInfo.deserialize(program.encode())
    except RuntimeError as exc:
        msg = "the circuit's description is not one this version of Concrete reads"
        raise BackendError(msg, code="fhe-program-unreadable") from exc
