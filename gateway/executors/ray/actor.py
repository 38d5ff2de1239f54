"""The actor of one node: its workers and enclaves, for whichever gateways ask.

It is detached, so it outlives the gateways that made it. A job it was given goes on
when its gateway dies, and whoever asks for that job next is told how it goes. It ends
by itself when it has had no job for a while.
"""

import asyncio
import base64
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.executors.base import Done, Engines, Watch, Work
from gateway.executors.node import LocalNode
from gateway.executors.ray.cache import Cache
from gateway.settings import Settings
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, NotFoundError, PrivacyError
from privacy.modes import Mode, parse_mode

CHUNK_BYTES = 16 << 20
INLINE_BYTES = 1 << 20
"""Results up to this size come with the word that the job is done."""
KEEP_S = 600.0
"""How long the result of a job is kept that nobody fetches."""
LINGER_S = 30.0
"""How long the result of a job is kept that somebody fetched."""
GATHER_S = 0.1
"""How long words about a job are gathered before they are sent; its end is not."""
_LOOK_EVERY_S = 5.0
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(slots=True)
class _Job:
    """A job here, and the words about it: `started`, `progress`, and then its end."""

    folder: Path
    words: list[Json] = field(default_factory=list)
    kept_until: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, word: Json, *, last: bool = False) -> None:
        self.words.append(word)
        if last:
            self.kept_until = time.monotonic() + KEEP_S
            self.over.set()
        told, self.changed = self.changed, asyncio.Event()
        told.set()

    async def news(self, seen: int) -> Json:
        """Return the words after so many, once there are some; a few at a time."""
        while len(self.words) <= seen:
            await self.changed.wait()
        with suppress(TimeoutError):  # most jobs end soon: one answer tells all
            await asyncio.wait_for(self.over.wait(), GATHER_S)
        return {"words": self.words[seen:], "seen": len(self.words)}


class NodeActor:
    """What Ray runs on a node. Its settings are those of the node's environment."""

    def __init__(
        self, name: str, modes: list[str], gpus: int, worker_target: str
    ) -> None:
        """Describe the node; processes start with the first jobs."""
        settings = Settings().model_copy(update={"node_name": name})
        folder = settings.data_dir.absolute() / "node"
        self._settings = settings
        self._cache = Cache(folder / "cache", limit_bytes=settings.node_cache_bytes)
        self._work = folder / "work"
        _remove(self._work)  # of an actor that died
        self._node = LocalNode(
            settings,
            Engines(worker_target),
            folder / "enclaves",
            modes=[parse_mode(mode) for mode in modes],
            gpus=gpus,
        )
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._used_at = time.monotonic()
        self._caretaker: asyncio.Task[None] | None = None

    async def status(self, fetched: Sequence[str]) -> Json:
        """Return what a scheduler wants to know.

        Args:
            fetched: Jobs whose results somebody has: what is left of them is removed
                soon, but not at once, for a gateway that has taken a job over may ask
                for it, too.
        """
        for job_id in fetched:
            if (job := self._jobs.get(job_id)) and job.over.is_set():
                job.kept_until = time.monotonic() + LINGER_S
        if self._caretaker is None:
            self._caretaker = asyncio.create_task(self._look_after())
        return {
            "node": self._node.describe(),
            "jobs": list(self._jobs),
            "warm": self._node.warm(),
            "pid": os.getpid(),
        }

    async def write(
        self, sha256: str, send_id: str, offset: int, chunk: Any, *, last: bool
    ) -> None:
        """Take a piece of a blob; see `Cache.write`."""
        piece = memoryview(chunk)
        await asyncio.to_thread(
            self._cache.write, sha256, send_id, offset, piece, last=last
        )

    async def run(self, request: Json) -> Json:
        """Begin a job, or find it, and return the first words about it; see `follow`.

        Or return which blobs are `missing`: send them and ask again.
        """
        self._used_at = time.monotonic()
        job = self._jobs.get(request["job_id"])
        if job is None:
            self._take_input(request)
            with self._cache.lock:
                if missing := self._missing(request):
                    return {"missing": missing}
                job = self._begin(request)
            return await job.news(0)
        starts = [i for i, word in enumerate(job.words) if "started" in word]
        return await job.news(starts[-1] if starts else 0)

    async def follow(self, job_id: str, seen: int) -> Json:
        """Return more words about a job: `started`, `progress`, `done` or `error`.

        And no `words` if the job is not known any more.
        """
        job = self._jobs.get(job_id)
        return await job.news(seen) if job else {}

    async def read(self, job_id: str, name: str, offset: int) -> Any:
        """Return a piece of a job's `output` or `evidence`, as bytes in an array."""
        if name not in {"output", "evidence"} or job_id not in self._jobs:
            msg = "the node keeps no such result: run the job again"
            raise NotFoundError(msg, code="unknown-job")
        path = self._jobs[job_id].folder / name
        return await asyncio.to_thread(_piece, path, offset)

    async def cancel(self, job_id: str) -> None:
        """Stop a job if it waits or runs here."""
        self._node.cancel(job_id)

    async def evidence(self, request: Json) -> Json:
        """Return fresh evidence of a model's enclave, or which blobs are `missing`."""
        self._used_at = time.monotonic()
        with self._cache.lock:
            if missing := self._missing(request):
                return {"missing": missing}
            bundle, pins = self._bundle(request), ExitStack()
            pins.enter_context(self._cache.using(bundle.root))
        try:
            raw = await self._node.evidence(
                parse_mode(request["mode"]), bundle, bytes.fromhex(request["nonce"])
            )
        except PrivacyError as exc:
            return _error(exc)
        finally:
            pins.close()
        return {"evidence": base64.b64encode(raw).decode()}

    def _take_input(self, request: Json) -> None:
        """Keep an input that came with its request."""
        sha256, content = request["input_sha256"], request["input"]
        if content is not None and self._cache.missing([sha256]):
            once = secrets.token_hex(32)
            self._cache.write(sha256, once, 0, memoryview(content), last=True)

    def _missing(self, request: Json) -> list[str]:
        blobs = [request.get("input_sha256"), request.get("keys_sha256")]
        mode = parse_mode(request["mode"])
        return [
            *self._cache.missing_of_model(request["model_sha256"], mode),
            *self._cache.missing([sha256 for sha256 in blobs if sha256]),
        ]

    def _bundle(self, request: Json) -> Bundle:
        """Return the model; its worker checks the signature and every file again."""
        bundle = self._cache.model(
            request["model_sha256"],
            parse_mode(request["mode"]),
            signature=request["signature"],
        )
        return Bundle(bundle.root, bundle.manifest, bundle.sha256, request["publisher"])

    def _begin(self, request: Json) -> _Job:
        job_id = request["job_id"]
        folder = self._work / _check_job_id(job_id)
        _remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        keys_sha256 = request["keys_sha256"]
        work = Work(
            job_id=job_id,
            mode=Mode(request["mode"]),
            bundle=self._bundle(request),
            input=self._cache.blob(request["input_sha256"]),
            keys=self._cache.blob(keys_sha256) if keys_sha256 else None,
            folder=folder,
            input_sha256=request["input_sha256"],
            keys_sha256=keys_sha256,
        )
        used = [work.bundle.root, work.input, *([work.keys] if work.keys else [])]
        pins = ExitStack()
        pins.enter_context(self._cache.using(*used))
        job = self._jobs[job_id] = _Job(folder)
        task = asyncio.create_task(self._run(job, work, pins))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(self, job: _Job, work: Work, pins: ExitStack) -> None:
        loop = asyncio.get_running_loop()

        def tell(word: Json) -> None:
            loop.call_soon_threadsafe(job.tell, word)

        watch = Watch(
            started=lambda: tell({"started": True}),
            progress=lambda progress: tell({"progress": progress}),
        )
        try:
            with pins:
                end = _done(await self._node.run(work, watch))
        except PrivacyError as exc:
            end = _error(exc)
        except Exception as exc:  # noqa: BLE001 - followers must hear of a defect
            msg = f"the node failed at this job ({type(exc).__name__})"
            end = _error(BackendError(msg, code="node-failed"))
        self._used_at = time.monotonic()
        job.tell(end, last=True)

    async def _look_after(self) -> None:
        """Remove results that nobody fetched; end if nobody has had use for us."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            await self._remove_old(now)
            await asyncio.to_thread(self._cache.remove_broken)
            idle = not self._tasks and now - self._used_at > self._settings.node_idle_s
            if idle:
                await self._node.close()
                os._exit(0)

    async def _remove_old(self, now: float) -> None:
        for job_id, job in list(self._jobs.items()):
            if job.over.is_set() and now > job.kept_until:
                del self._jobs[job_id]
                await asyncio.to_thread(_remove, job.folder)


def _check_job_id(job_id: str) -> str:
    """Return a job's id if it can be a folder's name."""
    if not _JOB_ID.fullmatch(job_id):
        raise FormatError(f"{job_id[:80]!r} is no job id", code="bad-name")
    return job_id


def _done(done: Done) -> Json:
    end: Json = {"kind": done.evidence_kind, "files": {}, "inline": {}}
    for name, path in (("output", done.output), ("evidence", done.evidence)):
        if path is None:
            continue
        size = end["files"][name] = path.stat().st_size
        if size <= INLINE_BYTES:
            end["inline"][name] = np.frombuffer(path.read_bytes(), np.uint8)
    return {"done": end}


def _error(exc: PrivacyError) -> Json:
    family = next(
        c.__name__ for c in type(exc).__mro__ if c.__module__.endswith("errors")
    )
    return {"error": {"family": family, "code": exc.code, "message": exc.message}}


def _piece(path: Path, offset: int) -> Any:
    with path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(CHUNK_BYTES), np.uint8)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
