"""Enclaves of this node: one process per model, which outlives the gateway's death.

Its keys live in its memory only. If it dies, inputs sealed to it are lost; jobs say so
("enclave-gone") and the next evidence comes from a new enclave.
"""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gateway.executors.base import Done, EnclaveLike, Engines, Watch, Work
from gateway.executors.memory import Memory, needed
from gateway.executors.places import Places
from gateway.executors.unsealing import Unsealer
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.errors import (
    FormatError,
    JobFailedError,
    LimitError,
    UnavailableError,
)
from privacy.modes import Mode
from privacy.tee.harden import DEFAULT_LIMITS, Limits
from privacy.tee.seal import MAX_SEALED_BYTES
from privacy.tee.sources import DEFAULT, EvidenceSource

_EVIDENCE_THREADS = 2


class Enclaves:
    """The enclaves of one node."""

    def __init__(  # noqa: PLR0913 - all that enclaves are kept by
        self,
        mode: Mode,
        folder: Path,
        engines: Engines,
        *,
        size: int,
        time_limit_s: float,
        memory: Memory | None = None,
        source: EvidenceSource = DEFAULT,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Keep each enclave's socket under `folder`; `size` jobs run at once."""
        self._mode = mode
        self._memory = memory or Memory(sys.maxsize)
        self._folder = folder
        self._source = source
        self._limits = limits
        self._engines = engines
        self._time_limit_s = time_limit_s
        self._places = Places(size)
        self._running: dict[str, EnclaveLike] = {}
        self._starting = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._asked: dict[str, asyncio.Lock] = {}
        self._unsealer = Unsealer()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="enclave")
        self._vouching = ThreadPoolExecutor(  # its own, so that it holds up no job
            _EVIDENCE_THREADS, thread_name_prefix="evidence"
        )
        self._jobs: dict[str, asyncio.Event] = {}
        self._busy = 0

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        ended = self._jobs[work.job_id] = asyncio.Event()
        try:
            async with (
                self._places.take(ended),
                self._memory.take(needed(work.mode, work.bundle), ended),
            ):
                if ended.is_set():
                    raise _cancelled()
                return await self._infer(work, watch, ended)
        finally:
            ended.set()  # who let go of the run may have left a prover at work
            del self._jobs[work.job_id]

    async def evidence(self, bundle: Bundle, nonce: bytes) -> bytes:
        """Return fresh evidence of a model's enclave, started if need be."""
        loop = asyncio.get_running_loop()
        if not self._alive(bundle):  # who waits for it must not hold up other models
            async with self._asked.setdefault(bundle.sha256, asyncio.Lock()):
                await loop.run_in_executor(self._vouching, self._open, bundle)
        return await loop.run_in_executor(
            self._vouching, self._evidence_now, bundle, nonce
        )

    def attach(self, bundles: list[Bundle]) -> None:
        """Hold on to enclaves that outlived an earlier gateway; blocks.

        An enclave that no gateway holds ends by itself after a while.
        """
        for bundle in bundles:
            run_dir = self._run_dir(bundle)
            if enclave := self._attached(run_dir):
                self._running[bundle.sha256] = enclave

    def cancel(self, job_id: str) -> None:
        """Stop waiting for a job; the enclave serves others and is not killed."""
        if ended := self._jobs.get(job_id):
            ended.set()

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs run."""
        return {self._mode: self._busy}

    def warm(self) -> set[str]:
        """Return the digests of the models whose enclaves run."""
        return {sha256 for sha256, held in list(self._running.items()) if held.alive}

    def has_warm(self, sha256: str) -> bool:
        """Whether the enclave of a model runs."""
        held = self._running.get(sha256)
        return held is not None and held.alive

    async def close(self) -> None:
        """Stop every enclave."""
        loop = asyncio.get_running_loop()
        for enclave in self._running.values():
            await loop.run_in_executor(None, enclave.stop)
        self._running.clear()
        for threads in (self._threads, self._vouching):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _infer(self, work: Work, watch: Watch, ended: asyncio.Event) -> Done:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(
            self._threads, self._infer_now, work, watch, ended
        )
        stop = asyncio.ensure_future(ended.wait())
        both: set[asyncio.Future[Any]] = {answer, stop}
        self._busy += 1
        try:
            # The enclave keeps the limit itself; ours only catches one that hangs.
            await asyncio.wait(
                both,
                timeout=self._time_limit_s + 10,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended.is_set():
                raise _cancelled()
            if not answer.done():
                msg = f"the enclave did not answer within {self._time_limit_s:g} s"
                raise LimitError(msg, code="time-limit")
            return answer.result()
        finally:
            self._busy -= 1
            stop.cancel()
            answer.cancel()  # of use while it waits for a thread
            answer.add_done_callback(_ignore_late_failure)

    def _evidence_now(self, bundle: Bundle, nonce: bytes) -> bytes:
        enclave = self._open(bundle)
        try:
            return enclave.evidence(nonce)
        except LimitError:
            enclave.stop()  # it hangs; without evidence no job would ever find out
            raise
        except UnavailableError as exc:
            if exc.code != "enclave-gone":
                raise  # it lives: what makes its evidence is not to be had now
            enclave.stop()  # it was dying as we asked; a new one can answer as well
            return self._open(bundle).evidence(nonce)

    def _infer_now(self, work: Work, watch: Watch, ended: asyncio.Event) -> Done:
        watch.started()
        if work.input.stat().st_size > MAX_SEALED_BYTES:
            msg = f"the sealed input has more than {MAX_SEALED_BYTES} bytes"
            raise FormatError(msg, code="too-large")
        sealed = work.input.read_bytes()
        enclave = self._open(work.bundle)
        try:
            result = enclave.infer(
                sealed,
                timeout_s=self._time_limit_s,
                progress=partial(_report, watch, ended),
            )
        except LimitError:
            if self._mode is Mode.TEE:  # native code does not listen: the next job gets
                enclave.stop()  # a new one; a prover ends the job with its connection
            raise
        output, evidence = work.folder / "output", work.folder / "evidence"
        output.write_bytes(result.output)
        evidence.write_bytes(result.evidence)
        return Done(output, evidence, result.evidence_kind)

    def _open(self, bundle: Bundle) -> EnclaveLike:
        """Return the model's enclave: the known one, one that runs, or a new one."""
        if known := self._alive(bundle):
            return known
        with self._opening.setdefault(bundle.sha256, threading.Lock()):
            if known := self._alive(bundle):
                return known
            found = self._attached(self._run_dir(bundle)) or self._started(bundle)
            self._running[bundle.sha256] = found
            return found

    def _started(self, bundle: Bundle) -> EnclaveLike:
        self._unsealer.check(bundle)
        part = [n for n in bundle.manifest.files if n.startswith("tee/")]
        bundle.check_files(part)  # an enclave checks its circuit itself
        run_dir = self._run_dir(bundle)
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._starting:  # one at a time: a start may need much memory
            found = self._engines.enclave(self._mode).start(
                bundle.root / "tee",
                run_dir,
                model_sha256=bundle.sha256,
                source=self._source,
                limits=self._limits,
            )
        self._unsealer.unseal(found, bundle)  # its broker may be slow: no lock of all
        return found

    def _attached(self, run_dir: Path) -> EnclaveLike | None:
        if not run_dir.is_dir():
            return None
        return self._engines.enclave(self._mode).attach(
            run_dir, source=self._source, limits=self._limits
        )

    def _alive(self, bundle: Bundle) -> EnclaveLike | None:
        known = self._running.get(bundle.sha256)
        return known if known and known.alive else None

    def _run_dir(self, bundle: Bundle) -> Path:
        return self._folder / bundle.sha256[:16]


def _report(watch: Watch, ended: asyncio.Event, progress: Json) -> None:
    if ended.is_set():
        raise _cancelled()
    watch.progress(progress)


def _cancelled() -> JobFailedError:
    return JobFailedError("the job was cancelled", code="cancelled")


def _ignore_late_failure(answer: "asyncio.Future[Done]") -> None:
    if not answer.cancelled():
        answer.exception()
