"""Native engines run in child processes, never here: they abort, hang and leak.

The parent holds a `Child` and calls it; the child loads one handler and answers. They
speak JSON lines over a socket: `{"id", "request"}` down; `{"id", "progress"}`, then
`{"id", "result"}` or `{"id", "error"}` up. Bulk data travels as file paths. A child
that dies, or is killed for taking too long, is a `ChildDied`: the caller decides
whether the work may be tried again.
"""

import importlib
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from privacy.encoding import Json
from privacy.errors import BackendError, PrivacyError, error_from

Progress = Callable[[Json], None]
Handler = Callable[[Json, Progress], Json]

_MAX_LINE = 1 << 26
_OURS = {
    "PRIVACY_CHILD_STDERR",
    "PRIVACY_HOME",
    "PRIVACY_SOLC",
    "PRIVACY_WARM_BYTES",
}
"""Of our own settings, those that children read."""
_NOT_THEIRS = ("PRIVACY_", "RAY_")
_SECRET = (
    "KEY",
    "KEYS",
    "PASSPHRASE",
    "PASSWORD",
    "SECRET",
    "TOKEN",
    "CREDENTIALS",
    "HEADERS",
)


LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has the C library ask for pages of 2 MiB where the kernel gives them on request.

Engines stream through keys and weights of tens to hundreds of megabytes.
"""


class ChildDied(BackendError):  # noqa: N818 - it says what happened
    """The child process ended before it answered.

    Attributes:
        by_itself: It crashed on what it was given (a fault or an abort), rather than
            being killed from outside.
    """

    default_code = "worker-died"

    def __init__(self, message: str, *, by_itself: bool) -> None:
        """Keep whether the child's own work is the likely cause."""
        super().__init__(message)
        self.by_itself = by_itself


def child_environment() -> dict[str, str]:
    """Return the environment without what children have no use for: secrets.

    They read inputs of strangers in native code, and what takes one over could look
    for the node's passwords here. Their memory is in large pages, unless the operator
    has set the C library otherwise.
    """
    return LARGE_PAGES | {
        name: value
        for name, value in os.environ.items()
        if name in _OURS
        or not (name.startswith(_NOT_THEIRS) or name.upper().endswith(_SECRET))
    }


class Child:
    """One child process that serves calls to a handler, one at a time."""

    def __init__(
        self,
        target: str,
        *,
        memory_bytes: int | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Start the child.

        Args:
            target: `module:function`; called once without arguments, gives a `Handler`.
            memory_bytes: Address-space limit (RLIMIT_AS), none by default.
            env: Environment variables to add to those of `child_environment`.
        """
        ours, theirs = socket.socketpair()
        debug = os.environ.get("PRIVACY_CHILD_STDERR")  # never set in production
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [
                    sys.executable,
                    "-m",
                    "privacy.child",
                    target,
                    str(theirs.fileno()),
                    str(memory_bytes or 0),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if debug else subprocess.DEVNULL,
                env={**child_environment(), **(env or {})},
            )
        self._socket = ours
        self._lines = ours.makefile("rb")
        self._lock = threading.Lock()
        self._calls = 0

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def call(
        self,
        request: Json,
        *,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> Json:
        """Return the handler's answer to one request; blocks.

        Raises:
            ChildDied: The process ended, or was killed after `timeout_s`.
            PrivacyError: Whatever the handler raised, as the same class.

        Whoever stops listening before the answer (`progress` raised, the answer was
        not one) ends the child: what it still says must not answer a later call.
        """
        with self._lock:
            self._calls += 1
            timer = threading.Timer(timeout_s, self.kill) if timeout_s else None
            if timer:
                timer.start()
            try:
                line = json.dumps({"id": self._calls, "request": request})
                self._socket.sendall(line.encode() + b"\n")
                answer = self._answer(progress)
            except ValueError as exc:  # it babbles: it will not end by itself
                self.kill()
                raise self._died() from exc
            except OSError as exc:
                raise self._died() from exc
            except BaseException:
                self.kill()
                raise
            finally:
                if timer:
                    timer.cancel()
        if "error" in answer:
            raise error_from(**answer["error"])
        result: Json = answer["result"]
        return result

    def _answer(self, progress: Progress | None) -> Json:
        """Return the message that ends the call."""
        while True:
            line = self._lines.readline(_MAX_LINE)
            if not line.endswith(b"\n"):
                raise self._died()
            message = _checked(json.loads(line), self._calls)
            if "progress" not in message:
                return message
            if progress:
                progress(message["progress"])

    def _died(self) -> ChildDied:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # its socket closed, yet it lives: end it
            self.kill()
            code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            own = -code in {
                signal.SIGSEGV,
                signal.SIGABRT,
                signal.SIGBUS,
                signal.SIGFPE,
                signal.SIGILL,
            }
            return ChildDied(f"the worker process ended by {name}", by_itself=own)
        return ChildDied(f"the worker process ended with status {code}", by_itself=True)

    def kill(self) -> None:
        """End the process at once; native code does not listen to anything gentler."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        self.kill()
        self._process.wait()
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


def _checked(message: Any, call_id: int) -> Json:
    """Return a message if it is one of this call; a child that babbles is ended."""
    if isinstance(message, dict) and message.get("id") == call_id:
        kinds = {"progress": dict, "result": dict, "error": dict}
        if any(isinstance(message.get(k), t) for k, t in kinds.items()):
            return message
    msg = "a worker's message belongs to no call"
    raise ValueError(msg)


def run_in_child(
    target: str,
    request: Json,
    *,
    timeout_s: float,
    progress: Progress | None = None,
    memory_bytes: int | None = None,
) -> Json:
    """Return one answer of a handler in a fresh process that is ended afterwards."""
    with Child(target, memory_bytes=memory_bytes) as child:
        return child.call(request, timeout_s=timeout_s, progress=progress)


class Children:
    """Child processes kept for the next request, one for each handler.

    For many requests in a row: engines take seconds to load.
    """

    def __init__(self) -> None:
        """Start none yet."""
        self._kept: dict[str, Child] = {}

    def run(
        self,
        target: str,
        request: Json,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> Json:
        """Return one answer of a handler; see `run_in_child`."""
        child = self._kept.get(target)
        if child is None or not child.alive:
            if child:
                child.close()
            child = self._kept[target] = Child(target)
        return child.call(request, timeout_s=timeout_s, progress=progress)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for child in self._kept.values():
            child.close()


def _serve(target: str, fd: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold inputs
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    connection = socket.socket(fileno=fd)
    requests: queue.SimpleQueue[Json] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    module, _, function = target.partition(":")
    try:
        handler: Handler | PrivacyError = getattr(
            importlib.import_module(module), function
        )()
    except PrivacyError as exc:
        handler = exc
    except ImportError as exc:
        handler = BackendError(f"engine not installed: {exc}", code="engine-missing")
    while True:
        message = requests.get()
        _answer_one(handler, message["request"], _sender(connection, message["id"]))


def _answer_one(
    handler: Handler | PrivacyError, request: Json, send: Callable[[Json], None]
) -> None:
    try:
        if isinstance(handler, PrivacyError):
            send({"error": _describe(handler)})
        else:
            send({"result": handler(request, lambda p: send({"progress": p}))})
    except PrivacyError as exc:
        send({"error": _describe(exc)})
    except BaseException as exc:  # noqa: BLE001 - pyo3 panics are BaseException
        if os.environ.get("PRIVACY_CHILD_STDERR"):
            sys.excepthook(type(exc), exc, exc.__traceback__)
        # Only the type: an engine's message may quote the input.
        send(
            {
                "error": _describe(
                    BackendError(f"the engine raised {type(exc).__name__}")
                )
            }
        )


def _describe(exc: PrivacyError) -> Json:
    return {"family": type(exc).__name__, "code": exc.code, "message": exc.message}


def _sender(connection: socket.socket, call_id: int) -> Callable[[Json], None]:
    def send(body: Json) -> None:
        connection.sendall(json.dumps({"id": call_id, **body}).encode() + b"\n")

    return send


def _receive(connection: socket.socket, requests: "queue.SimpleQueue[Any]") -> None:
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                requests.put(json.loads(line))
    finally:  # the parent is gone, perhaps with a reset; engines crash at a normal exit
        os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
