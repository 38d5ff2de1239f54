"""The gateway's end of the driver: calls to it, and a new one when it has ended."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.executors.base import NodeLostError
from privacy.child import child_environment
from privacy.encoding import Json
from privacy.errors import error_from

_log = structlog.get_logger()
_MAX_LINE = 1 << 26
REACH_S = 60.0
"""How long a driver may take to reach the cluster."""
_UNREACHED = (
    "no answer: does this machine run a node of the cluster, and are its token and "
    "certificate the cluster's?"
)
_AGAIN_S = 1.0
_MAX_AGAIN_S = 15.0
_PROGRAM = "gateway.executors.ray.driver"


@dataclass(slots=True)
class _Call:
    """A call under way."""

    answer: "asyncio.Future[Json]"
    event: Callable[[Json], None]


class Link:
    """A driver process, kept running."""

    def __init__(
        self,
        *,
        address: str,
        node_ip: str,
        worker_target: str,
        env: Mapping[str, str],
        nodes: Callable[[list[Json]], None],
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            address: Of the cluster's head, HOST:PORT.
            node_ip: Of this machine's own Ray node; "" to find it.
            worker_target: The handler of nodes' worker processes.
            env: What Ray reads: where token and certificates lie.
            nodes: Told every second which nodes there are; none if Ray is gone.
        """
        self._arguments = [address, node_ip, worker_target]
        self._env = dict(env)
        self._nodes = nodes
        self._calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the driver, and a new one whenever it ends."""
        self._keeping = asyncio.create_task(self._keep())

    async def call(
        self, op: str, *, event: Callable[[Json], None] = lambda _: None, **body: Any
    ) -> Json:
        """Return the driver's answer.

        Raises:
            NodeLostError: The node, or the driver, has ended.
            PrivacyError: As a node described it.
        """
        if self._writer is None:
            raise _gone()
        call_id = next(self._ids)
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = _Call(answer, event)
        try:
            self._send(id=call_id, op=op, **body)
            return await answer
        finally:
            del self._calls[call_id]

    def tell(self, op: str, **body: Any) -> None:
        """Send a call whose answer does not matter."""
        if self._writer:
            self._send(id=0, op=op, **body)

    async def close(self) -> None:
        """End the driver; calls under way end with `asyncio.CancelledError`."""
        for call in self._calls.values():
            call.answer.cancel()
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def _send(self, **message: Any) -> None:
        if self._writer:
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _keep(self) -> None:
        wait_s = _AGAIN_S
        while True:
            if await self._one_life():
                wait_s = _AGAIN_S
            _log.warning("ray-away", again_in_s=wait_s)
            self._nodes([])
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_AGAIN_S)

    async def _one_life(self) -> bool:
        """Serve one driver until it ends; tell whether it reached the cluster."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE)
        process = await asyncio.to_thread(self._spawn, theirs)
        reached = False
        try:
            line = await asyncio.wait_for(reader.readline(), REACH_S)
            while line:
                message = json.loads(line)
                if "nodes" in message:
                    self._writer = writer
                    reached = True
                self._take(message)
                line = await reader.readline()
        except TimeoutError:  # Ray's own code holds it up, and would for minutes
            _log.warning("ray-unreachable", problem=_UNREACHED)
        except (OSError, ValueError) as exc:  # it babbles, or ended within a line
            _log.warning("ray-driver", problem=type(exc).__name__)
        finally:
            self._writer = None
            process.kill()
            process.wait()  # it was killed: at once
            writer.close()
            for call in self._calls.values():
                if not call.answer.done():
                    call.answer.set_exception(_gone())
        return reached

    def _spawn(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        debug = os.environ.get("PRIVACY_CHILD_STDERR")
        with theirs:
            return subprocess.Popen(  # noqa: S603 - our own interpreter
                [
                    sys.executable,
                    "-m",
                    _PROGRAM,
                    str(theirs.fileno()),
                    *self._arguments,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if debug else subprocess.DEVNULL,
                env={**child_environment(), **self._env},
            )

    def _take(self, message: Json) -> None:
        if "nodes" in message:
            self._nodes(message["nodes"])
        elif "failed" in message:
            _log.warning("ray-unreachable", problem=message["failed"])
        elif call := self._calls.get(message["id"]):
            if "event" in message:
                call.event(message["event"])
            elif call.answer.done():
                return
            elif "result" in message:
                call.answer.set_result(message["result"])
            else:
                call.answer.set_exception(_error(message["error"]))


def _error(described: Json) -> Exception:
    if described["family"] == NodeLostError.__name__:
        return NodeLostError(described["message"])
    return error_from(**described)


def _gone() -> NodeLostError:
    return NodeLostError("the Ray cluster cannot be reached from here now")
