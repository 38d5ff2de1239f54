"""The process that talks to Ray for a gateway, and ends when Ray or the gateway does.

JSON lines over a socket, many calls at a time. Down: `{"id", "op", …}`; `id` 0 expects
no answer. Up: `{"id", "event"}` as a job goes on; `{"id", "result"}` or
`{"id", "error"}` at its end; and of its own accord `{"nodes": [...]}` every second, or
`{"failed": …}` before it gives up. Bulk data is read from and written to files.
"""

import asyncio
import json
import os
import resource
import secrets
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gateway.executors.ray.actor import CHUNK_BYTES, NodeActor
from gateway.executors.ray.labels import NODE_RESOURCE, node_view
from privacy.encoding import Json
from privacy.errors import BackendError, JobFailedError, PrivacyError, error_from

NAMESPACE = "privacy"
_EVERY_S = 1.0
_STATUS_WAIT_S = 5.0
_MAX_SENDS = 4
_SMALL_BYTES = 1 << 18
_MAX_LINE = 1 << 26
_LEFT = "it has left the cluster"


class _LostError(Exception):
    """The node, or the actor on it, is gone."""


class _Node:
    """A node of the cluster that is alive, and its actor once somebody needs it."""

    def __init__(self, view: Json) -> None:
        self.view = view
        self.id = str(view["id"])
        self.lost = asyncio.Event()
        self.status: Json | None = None
        self.known = False  # whether we could ask what it does already
        self.asking: asyncio.Task[None] | None = None
        self.sending: dict[str, asyncio.Task[None]] = {}
        self.fetched: list[str] = []  # jobs of which it may forget what is left
        self._actor: Any = None

    async def actor(self, worker_target: str) -> Any:
        """Return the actor, made if there is none."""
        if self._actor is None:
            self._actor = await asyncio.to_thread(self._made, worker_target)
        return self._actor

    def find(self) -> Any:
        """Return the actor if there is one."""
        if self._actor is None:
            try:
                self._actor = ray.get_actor(self._name, namespace=NAMESPACE)
            except ValueError:
                return None
        return self._actor

    def forget_actor(self) -> None:
        """Look for the actor anew next time."""
        self._actor = self.status = None

    def sent(self, sha256: str, _: "asyncio.Task[None]") -> None:
        """Note that a blob is on its way no more."""
        del self.sending[sha256]

    @property
    def _name(self) -> str:
        return f"node-{self.id}"

    def _made(self, worker_target: str) -> Any:
        view = self.view
        return (
            ray.remote(NodeActor)
            .options(
                name=self._name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_concurrency=1000,
                enable_task_events=False,  # of each call, for Ray's dashboard
                num_cpus=view["cpus"],  # our jobs have the whole node
                num_gpus=view["gpus"],
                resources={NODE_RESOURCE: 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(self.id, soft=False),
            )
            .remote(view["name"], list(view["modes"]), view["gpus"], worker_target)
        )


class Driver:
    """What the process holds."""

    def __init__(self, worker_target: str, writer: asyncio.StreamWriter) -> None:
        """Answer over `writer`."""
        self._worker_target = worker_target
        self._writer = writer
        self._nodes: dict[str, _Node] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, bool] = {}  # by job: whether it was cancelled
        self._ops = {
            "run": self._run,
            "cancel": self._cancel,
            "evidence": self._evidence,
        }

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer calls until the gateway is gone."""
        self._start(self._watch())
        while line := await reader.readline():
            call = json.loads(line)
            self._start(self._answer(call))

    def send(self, **message: Any) -> None:
        """Tell the gateway."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: Json) -> None:
        node = self._nodes.get(call["node"])
        try:
            result = await self._result(node, call)
            self.send(id=call["id"], result=result)
        except Exception as exc:  # noqa: BLE001 - the caller must not wait for ever
            lost = isinstance(exc, _LostError | RayError)
            if node and lost and not isinstance(exc, RayTaskError):
                node.forget_actor()
            if os.environ.get("PRIVACY_CHILD_STDERR"):
                sys.excepthook(type(exc), exc, exc.__traceback__)
            self.send(id=call["id"], error=_described(exc, call["name"]))

    async def _result(self, node: _Node | None, call: Json) -> Json:
        """Return what a call gives, unless the node dies first: Ray is slow to say."""
        if node is None:
            raise _LostError(_LEFT)
        working = asyncio.ensure_future(self._ops[call["op"]](node, call))
        losing = asyncio.ensure_future(node.lost.wait())
        try:
            await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _LostError(_LEFT)
            return working.result()
        finally:
            losing.cancel()
            working.cancel()

    async def _run(self, node: _Node, call: Json) -> Json:
        job_id = call["request"]["job_id"]
        self._runs[job_id] = False
        try:
            return await self._run_there(node, call)
        finally:
            self._runs.pop(job_id, None)

    async def _run_there(self, node: _Node, call: Json) -> Json:
        request, files = call["request"], call["files"]
        request |= {"input": _small(Path(files[request["input_sha256"]]))}
        for _ in range(_MAX_SENDS):
            if self._runs.get(request["job_id"]):
                raise JobFailedError("the job was cancelled", code="cancelled")
            actor = await node.actor(self._worker_target)
            said: Json = await actor.run.remote(request)
            if "missing" in said:
                await self._send_all(node, actor, said["missing"], files)
            elif end := await self._followed(node, actor, call, said):
                return end
        raise _never_enough()

    async def _followed(
        self, node: _Node, actor: Any, call: Json, said: Json
    ) -> Json | None:
        """Pass on what a node says about a job until it has ended.

        None if the node knows it no more: another gateway had it, and forgot it.
        """
        job_id = call["request"]["job_id"]
        while "words" in said:
            for word in said["words"]:
                if "done" in word:
                    await _fetch(actor, job_id, word["done"], call["folder"])
                    node.fetched.append(job_id)
                    return {"kind": word["done"]["kind"]}
                if "error" in word:
                    node.fetched.append(job_id)
                    raise error_from(**word["error"])
                self.send(id=call["id"], event=word)
            said = await actor.follow.remote(job_id, said["seen"])
        return None

    async def _evidence(self, node: _Node, call: Json) -> Json:
        for _ in range(_MAX_SENDS):
            actor = await node.actor(self._worker_target)
            answer: Json = await actor.evidence.remote(call["request"])
            if "error" in answer:
                raise error_from(**answer["error"])
            if "missing" not in answer:
                return answer
            await self._send_all(node, actor, answer["missing"], call["files"])
        raise _never_enough()

    async def _cancel(self, node: _Node, call: Json) -> Json:
        if call["job_id"] in self._runs:  # it may not have reached the node yet
            self._runs[call["job_id"]] = True
        if actor := await asyncio.to_thread(node.find):
            await actor.cancel.remote(call["job_id"])
        return {}

    async def _send_all(
        self, node: _Node, actor: Any, missing: list[str], files: Json
    ) -> None:
        for sha256 in missing:
            sending = node.sending.get(sha256)
            if sending is None:  # else another job sends it already
                sending = asyncio.create_task(_send(actor, sha256, Path(files[sha256])))
                node.sending[sha256] = sending
                sending.add_done_callback(partial(node.sent, sha256))
            await asyncio.shield(sending)

    async def _watch(self) -> None:
        """Tell every second which nodes there are and what they do."""
        while True:
            found = {}
            for raw in await asyncio.to_thread(ray.nodes):
                view = node_view(raw)
                if view:
                    found[view["id"]] = view
            for node_id in self._nodes.keys() - found:
                self._nodes.pop(node_id).lost.set()
            for node_id, view in found.items():
                node = self._nodes.setdefault(node_id, _Node(view))
                if node.asking is None or node.asking.done():
                    node.asking = asyncio.create_task(_ask(node, self._worker_target))
            known = [node for node in self._nodes.values() if node.known]
            self.send(nodes=[{**node.view, "status": node.status} for node in known])
            await asyncio.sleep(_EVERY_S)


async def _ask(node: _Node, worker_target: str) -> None:
    """Ask a node's actor for its status; make it when the node has just joined.

    It takes seconds to start, which the first job need not wait for. Later on it may
    have ended for want of work; then the next job makes it.
    """
    try:
        actor = await asyncio.to_thread(node.find)
        if actor is None and node.view["modes"] and not node.known:
            node.known = True
            actor = await node.actor(worker_target)
        if actor:
            fetched = list(node.fetched)
            asked = asyncio.ensure_future(_result(actor.status.remote(fetched)))
            node.status = await asyncio.wait_for(asked, _STATUS_WAIT_S)
            del node.fetched[: len(fetched)]  # now that it knows; others came since
    except (RayError, TimeoutError):
        node.forget_actor()
    node.known = True


async def _result(ref: Any) -> Any:
    return await ref


async def _send(actor: Any, sha256: str, path: Path) -> None:
    """Send a file to a node in pieces, so that no more than one is in memory."""
    size = (await asyncio.to_thread(path.stat)).st_size
    send_id, offset = secrets.token_hex(32), 0
    while True:
        piece = await asyncio.to_thread(_read, path, offset)
        last = offset + len(piece) >= size
        ref = await asyncio.to_thread(
            actor.write.remote, sha256, send_id, offset, piece, last=last
        )
        await ref
        offset += len(piece)
        if last:
            return


async def _fetch(actor: Any, job_id: str, done: Json, folder: str) -> None:
    """Write the results of a job into its folder."""
    for name, size in done["files"].items():
        path = Path(folder) / name
        if name in done["inline"]:
            await asyncio.to_thread(path.write_bytes, done["inline"][name].data)
            continue
        with path.open("wb") as file:
            while file.tell() < size:
                piece = await actor.read.remote(job_id, name, file.tell())
                if not len(piece):
                    raise BackendError(
                        "a node's result is too short", code="node-failed"
                    )
                await asyncio.to_thread(file.write, piece.data)


def _read(path: Path, offset: int) -> Any:
    with path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(CHUNK_BYTES), np.uint8)


def _small(path: Path) -> Any:
    """Return the bytes of a file that is better sent with the request, else None."""
    if path.stat().st_size > _SMALL_BYTES:
        return None
    return np.frombuffer(path.read_bytes(), np.uint8)


def _never_enough() -> BackendError:
    msg = "the node keeps asking for the same files: raise node_cache_bytes there"
    return BackendError(msg, code="node-cache-full")


def _described(exc: Exception, name: str) -> Json:
    """Return what a gateway is told of an error at a node of some name."""
    cause = exc.cause if isinstance(exc, RayTaskError) else exc
    if isinstance(cause, PrivacyError):
        family, code, message = type(cause).__name__, cause.code, cause.message
    elif isinstance(exc, RayTaskError) or not isinstance(exc, _LostError | RayError):
        family, code = "BackendError", "node-failed"
        message = f"node {name} failed at this job ({type(cause).__name__})"
    else:
        family, code = "NodeLostError", "node-lost"
        why = (str(exc).splitlines() or [""])[0][:200]
        message = f"node {name} does not answer ({why})"
    return {"family": family, "code": code, "message": message}


async def _main(fd: int, address: str, node_ip: str, worker_target: str) -> None:
    reader, writer = await asyncio.open_connection(
        sock=socket.socket(fileno=fd), limit=_MAX_LINE
    )
    driver = Driver(worker_target, writer)
    try:
        await asyncio.to_thread(
            ray.init,
            address=address,
            _node_ip_address=node_ip or None,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
        await driver.serve(reader)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the gateway tries again
        driver.send(failed=f"{type(exc).__name__}: {str(exc).splitlines()[0][:300]}")
        await writer.drain()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold inputs
    asyncio.run(_main(int(sys.argv[1]), *sys.argv[2:5]))
    os._exit(0)  # without Ray's own goodbye, which may take seconds
