"""The engine's own tables: made before the sandbox shuts, then held in memory.

EZKL writes a circuit's look-up tables below `EZKL_REPO_PATH` when it first proves, and
reads them there for every later proof. They depend on the circuit alone. So one row is
proven before any input can come, in a process of its own; what it wrote is copied into
memory, and links to the copies take its place. Who owns the disk can break these links,
and proving with them, but read nothing there and put no other table in: a link leads
into the prover's memory or, past the sandbox, nowhere.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from privacy.errors import BackendError
from privacy.tee_zkml.circuit import hold

FOLDER = "tables"


def hold_tables(folder: Path, prove: Callable[[], object]) -> None:
    """Have the engine write its tables below a folder, and hold them in memory.

    Args:
        folder: For the links; what is there is removed.
        prove: Proves some row.

    Raises:
        BackendError: That row could not be proven.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755, parents=True)
    folder.chmod(0o755)  # whatever the umask: the sandbox may change the user
    # Through a descriptor: the folders above may be closed to the prover's user.
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    os.environ["EZKL_REPO_PATH"] = f"/proc/self/fd/{place}"
    pid = os.fork()
    if not pid:
        os.umask(0o022)
        _prove_and_exit(prove)
    _, status = os.waitpid(pid, 0)
    if status:
        msg = (
            "the prover could not prove a row of its own before it started "
            f"(status {os.waitstatus_to_exitcode(status)}): publish the model again"
        )
        raise BackendError(msg, code="enclave-start")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            fd, _ = hold(path)
            path.unlink()
            path.symlink_to(f"/proc/self/fd/{fd}")


def _prove_and_exit(prove: Callable[[], object]) -> None:
    try:
        prove()
    except BaseException:  # noqa: BLE001 - a panic is no exception; told by status
        os._exit(1)
    os._exit(0)
