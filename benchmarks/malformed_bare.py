"""Malformed inputs given to the engine itself, without our checks, in a child."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.malformed_inputs import Case, Honest, cases
from privacy.child import Child, ChildDied
from privacy.encoding import Json, unpack
from privacy.errors import PrivacyError

_BARE_TIMEOUT_S = 10.0
_HANDLER = "benchmarks.malformed_bare:bare_handler"


def bare_handler() -> Callable[[Json, Any], Json]:
    """Return the handler of a child that gives bytes to the engine as they come."""
    from privacy.fhe.backend import load_backend

    circuits: dict[str, Any] = {}

    def run(request: Json, _progress: Any) -> Json:
        folder = request["circuit"]
        if folder not in circuits:
            circuits[folder] = load_backend().load_circuit(Path(folder))
        circuit = circuits[folder]
        keys = circuit.load_keys(Path(request["keys"]).read_bytes())
        ciphertext = Path(request["ciphertext"]).read_bytes()
        circuit.run(request["function"], ciphertext, keys)
        return {}

    return run


def bare(
    honest: list[Honest],
    count: int,
    folder: Path,
    *,
    seed: int,
    foreign_keys: bytes = b"",
) -> Json:
    """Give such inputs to the engine itself, half of them keys; return its deaths."""
    rng = random.Random(seed)  # noqa: S311 - to repeat it
    found: Counter[str] = Counter()
    wanted = cases(honest, rng, keys_share=0.5, foreign_keys=foreign_keys)
    child = Child(_HANDLER)
    try:
        for _, case in zip(range(count), wanted, strict=False):
            what = "keys" if case.kind.startswith("keys") else "ciphertexts"
            found[f"{what} {_bare_one(child, case, folder)}"] += 1
            if not child.alive:
                child.close()
                child = Child(_HANDLER)
    finally:
        child.close()
    return {"inputs": count, "outcomes": dict(sorted(found.items()))}


def _bare_one(child: Child, case: Case, folder: Path) -> str:
    try:
        (frame,) = unpack(case.blob, what="input", max_frames=1)
    except PrivacyError:
        frame = case.blob
    constant = case.honest.keys.spec.keys.constant() or b""
    (folder / "ciphertext").write_bytes(frame)
    (folder / "keys").write_bytes(case.keys or constant)
    request: Json = {
        "circuit": str(case.honest.bundle.root / "fhe" / "circuit"),
        "function": case.honest.keys.spec.batches[0].function,
        "ciphertext": str(folder / "ciphertext"),
        "keys": str(folder / "keys"),
    }
    started = time.monotonic()
    try:
        child.call(request, timeout_s=_BARE_TIMEOUT_S)
    except ChildDied:
        hung = time.monotonic() - started > _BARE_TIMEOUT_S
        return "hung" if hung else "died"
    except PrivacyError:
        return "raised"
    return "computed"
