"""What a contract knows an input by: the Poseidon hash of its quantised row."""

from typing import Any

from privacy.bundle import Bundle
from privacy.child import Handler, Progress, run_in_child
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.zkml.field import from_hex, to_hex
from privacy.zkml.params import parse_params
from privacy.zkml.system import load_backend

_TIMEOUT_S = 120.0


def input_commitments(bundle: Bundle, rows: Any, *, salt: bytes) -> list[int]:
    """Return each row's commitment: the first instance of its proofs.

    Args:
        bundle: The model; its manifest suffices.
        rows: Standardised rows, shape (rows, features).
        salt: That of the input blob, which salted circuits commit to as well.

    Raises:
        FormatError: The rows could not have been an input of this circuit.
        UnavailableError: The proof system is not installed.
    """
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    params.check_range(rows)
    request = {"rows": params.circuit_rows(rows, salt)}
    answer = run_in_child(
        "privacy.zkml.evm.commit:handler", request, timeout_s=_TIMEOUT_S
    )
    return [from_hex(h, what="an input hash") for h in answer["hashes"]]


def handler() -> Handler:
    """Return what the child serves; see `input_commitments`."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        progress({"stage": "hash the input"})
        return {"hashes": [to_hex(backend.hash_input(r)) for r in request["rows"]]}

    return serve
