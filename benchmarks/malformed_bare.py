"""Malformed inputs given to Concrete-ML's own `FHEModelServer.run`, without our checks.

Its circuits are what that library serves by itself. Importing it takes seconds and most
such inputs end the process, so it is imported once, and each input goes to a fork.
"""

import json
import os
import platform
import random
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.malformed_inputs import Case, Honest, cases
from privacy.child import Child
from privacy.encoding import Json, unpack
from privacy.errors import PrivacyError

_BARE_TIMEOUT_S = 10.0
_START_S = 600.0  # of a busy machine: the library takes seconds to import
_HANDLER = "benchmarks.malformed_bare:bare_handler"
_RAISED = 1


def bare_handler() -> Callable[[Json, Any], Json]:
    """Return the handler of a child that gives bytes to the library as they come."""
    from concrete.ml.deployment import FHEModelServer

    servers: dict[str, Any] = {}

    def run(request: Json, _progress: Any) -> Json:
        folder = request["server"]
        if folder not in servers:
            servers[folder] = FHEModelServer(folder)
        ciphertext = Path(request["ciphertext"]).read_bytes()
        keys = Path(request["keys"]).read_bytes()
        return {"outcome": _in_fork(lambda: servers[folder].run(ciphertext, keys))}

    return run


def _in_fork(call: Callable[[], object]) -> str:
    """Return how a call ended: `computed`, `raised`, `died` or `hung`."""
    pid = os.fork()
    if not pid:
        try:
            call()
        except BaseException:  # noqa: BLE001 - whatever it is, the library raised it
            os._exit(_RAISED)
        os._exit(0)
    end = time.monotonic() + _BARE_TIMEOUT_S
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return {0: "computed", _RAISED: "raised"}.get(code, "died")
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def bare(
    honest: list[Honest],
    count: int,
    folder: Path,
    *,
    seed: int,
    foreign_keys: bytes = b"",
) -> Json:
    """Give such inputs to the library itself, half of them keys; return its deaths.

    Args:
        honest: Models whose circuits are Concrete-ML's, with their inputs.
        count: How many inputs.
        folder: For files; empty.
        seed: Decides what is done.
        foreign_keys: Honest keys for other parameters.
    """
    rng = random.Random(seed)  # noqa: S311 - to repeat it
    found: Counter[str] = Counter()
    wanted = cases(honest, rng, keys_share=0.5, foreign_keys=foreign_keys)
    with Child(_HANDLER) as child:
        for one in honest:
            case = Case("honest", one, one.ciphertext, one.evaluation_keys)
            if (outcome := _bare_one(child, case, folder)) != "computed":
                msg = f"the library {outcome} on an honest input of {one.name}"
                raise RuntimeError(msg)
        for _, case in zip(range(count), wanted, strict=False):
            what = "keys" if case.kind.startswith("keys") else "ciphertexts"
            found[f"{what} {_bare_one(child, case, folder)}"] += 1
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
        "server": str(_server_folder(case.honest, folder)),
        "ciphertext": str(folder / "ciphertext"),
        "keys": str(folder / "keys"),
    }
    return str(child.call(request, timeout_s=_START_S)["outcome"])


def _server_folder(honest: Honest, folder: Path) -> Path:
    """Return a folder with the circuit as `FHEModelServer` loads it."""
    made = folder / honest.name
    if not made.is_dir():
        made.mkdir()
        with zipfile.ZipFile(made / "server.zip", "w") as archive:
            for file in (honest.bundle.root / "fhe" / "circuit").iterdir():
                archive.write(file, file.name)
            archive.writestr("is_simulated", "0")
            python = json.dumps({"python": platform.python_version()})
            archive.writestr("versions.json", python)
    return made
