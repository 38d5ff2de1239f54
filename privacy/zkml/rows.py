"""Rows of one job proven side by side, in processes of their own.

The engine keeps Python's lock while it proves, so threads would take turns; and one
proof of a small circuit does not keep all cores busy. Processes take a moment to load
the engine, and memory each, so a job must be worth them.
"""

import ctypes
import os
import queue
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from privacy.child import Child, Handler, Progress
from privacy.encoding import Json
from privacy.zkml.blobs import proof_to_bytes
from privacy.zkml.memory import available_memory
from privacy.zkml.prove import prove_row
from privacy.zkml.system import CircuitFiles, load_backend

_TARGET = "privacy.zkml.rows:handler"
_THREADS = "RAYON_NUM_THREADS"
_WORTH_S = 4.0
"""What proofs must take together before processes are started for them."""
_MOST = 8
_PR_SET_PDEATHSIG = 1


def processes_for(rows: int, *, row_s: float, memory_bytes: int) -> int:
    """Return how many processes to prove rows with; 1 for none but this one.

    As many as this process has cores, of at most half of the memory that is free: other
    jobs' proofs may start meanwhile.

    Args:
        rows: How many are to be proven.
        row_s: What one takes, about.
        memory_bytes: What proving one takes, at most; 0 if unknown.
    """
    if not memory_bytes or rows * row_s < _WORTH_S:
        return 1
    fitting = available_memory() // (2 * memory_bytes)
    return max(1, min(rows, _cores(), fitting, _MOST))


def _cores() -> int:
    given = os.environ.get(_THREADS, "")
    return int(given) if given.isdecimal() else len(os.sched_getaffinity(0))


def prove_side_by_side(
    root: Path,
    rows: Mapping[int, list[int]],
    *,
    scale_bits: int,
    processes: int,
    before: Callable[[], None],
) -> Iterator[tuple[int, bytes]]:
    """Yield the index and the proof of each row, in the order they are done.

    After one that fails no other is begun; those that are under way are yielded, and
    then its own error is raised.

    Args:
        root: The circuit's folder.
        rows: Quantised rows by index.
        scale_bits: Fixed-point bits of the rows.
        processes: How many at once.
        before: Called before every row, which fails if it raises.

    Raises:
        ChildDied: A process ended at its row.
        PrivacyError: See `prove_row`.
    """
    free: queue.SimpleQueue[Child] = queue.SimpleQueue()
    threads = max(1, _cores() // processes)
    task = {"root": str(root), "scale_bits": scale_bits}

    def prove(index: int, row: list[int]) -> tuple[int, bytes]:
        child = free.get()
        try:
            before()
            made = child.call({**task, "row": row})
        finally:
            free.put(child)
        return index, str(made["proof"]).encode()

    with ThreadPoolExecutor(processes) as pool, ExitStack() as children:
        for _ in range(processes):
            child = Child(_TARGET, env={_THREADS: str(threads)})
            free.put(children.enter_context(child))
        futures = [pool.submit(prove, i, row) for i, row in rows.items()]
        failed: BaseException | None = None
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                if not future.exception():
                    yield future.result()
                elif not failed:
                    failed = future.exception()
                    _cancel(futures)
        finally:
            _cancel(futures)
        if failed:
            raise failed


def _cancel(futures: Iterable[Future[tuple[int, bytes]]]) -> None:
    for future in futures:
        future.cancel()


def handler() -> Handler:
    """Return what proves one row, in a process that ends with the one that asked."""
    if sys.platform == "linux":  # native code does not see that a socket was closed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        files = CircuitFiles(Path(request["root"]))
        bits = request["scale_bits"]
        proof = prove_row(backend, files, request["row"], scale_bits=bits)
        return {"proof": proof_to_bytes(proof).decode()}

    return serve
