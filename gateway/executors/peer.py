"""Another operator's gateway as a node: jobs go over its public HTTP API.

1. The pinned receipt key is fetched; its id is its digest, so nobody can swap it.
2. Input and keys are uploaded by digest, unless they are there.
3. The job is submitted under an idempotency key made from ours: a retry after any
   crash, here or there, comes back to the same job.
4. It is followed to its end. A cancelled one is cancelled there, too.
5. The receipt is verified and compared with what was asked; then output and evidence
   are fetched and compared with the receipt. Only then is the answer taken.
6. Output and input are deleted there.

A peer that cannot be reached or is busy is a node that was lost; one at which a job
fails loses that job. One that lies gets no job for a while, and what it said is kept.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from gateway.executors.base import Done, NodeDeclinedError, NodeLostError, Watch, Work
from gateway.peers.check import Asked, check_receipt
from gateway.peers.config import Peer
from gateway.peers.hops import passed_on
from gateway.peers.link import Link, PeerLiedError, PeerRefusedError, plain
from privacy.bundle import Bundle
from privacy.client.wire import Reply, problem_exception
from privacy.encoding import Json, b64url
from privacy.errors import (
    FormatError,
    JobFailedError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    error_from,
)
from privacy.key_history import ReceiptKey, read_history
from privacy.modes import Mode
from privacy.receipt import Receipt, parse_receipt

_log = structlog.get_logger()
_WAIT_S = 2
_SOON_S = 0.2
_PAUSE_S = 0.5
_SLOW_S = 600.0
"""How long a peer gets no job of a model that it did not end in time."""
_RESTART_S = 15.0
"""How long a peer may be away in the middle of a job."""
_REFUSED_S = 60.0
"""How long a peer that refused a model or our key is not asked for it again."""
_LIST_BYTES = 1 << 23
_EVIDENCE_BYTES = 1 << 22
_CANCEL_S = 5.0
_UPLOADS = 3
_EXPIRED = {"unknown-blob", "unknown-keys"}
_MAX_TEXT = 200
_CODE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_OPEN, _ENDED = {"queued", "running"}, {"succeeded", "failed", "cancelled"}


@dataclass(slots=True)
class _Told:
    """What a peer said of itself when it was asked last; none of it is believed."""

    problem: str = "it was not asked yet"
    models: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Remote:
    """A job of ours over there."""

    id: str = ""
    cancelled: bool = False
    flow: "asyncio.Task[Done] | None" = None


class PeerNode:
    """A peer as a node; see `gateway.executors.base.Node`."""

    gpus = 0
    is_foreign = True

    def __init__(
        self,
        peer: Peer,
        link: Link,
        *,
        gateway: str,
        time_limit_s: Callable[[Mode], float],
        max_answer_bytes: int,
        simulated: bool,
        lied: Callable[[PeerLiedError, Json], None],
    ) -> None:
        """Describe the node; nothing is sent yet.

        Args:
            peer: What the operator says of it.
            link: The connection.
            gateway: Key id of this gateway, for the way the job came.
            time_limit_s: How long a job of a mode may stay there.
            max_answer_bytes: Of an output, and of evidence.
            simulated: Whether enclaves that prove nothing are what jobs here get.
            lied: Told of every lie and what was asked and said; may block.
        """
        self.name = peer.name
        self.peer = peer
        self._link = link
        self._gateway = gateway
        self._time_limit_s = time_limit_s
        self._max_answer_bytes = max_answer_bytes
        self._simulated = simulated
        self._lied = lied
        self._told = _Told()
        self._keys: dict[str, ReceiptKey] = {}
        self._jobs: dict[str, tuple[Mode, _Remote]] = {}
        self._tries: Counter[str] = Counter()
        self._refused: dict[str, float] = {}
        self._loaded: set[str] = set()
        self._parting: set[asyncio.Task[None]] = set()
        self.distrusted = ""
        """Why it gets no job; "" if it is trusted."""

    def refusal(self, mode: Mode, bundle: Bundle) -> PrivacyError | None:
        """Return why it runs no job of a model, None if it can."""
        manifest = bundle.manifest
        why = ""
        if self.distrusted:
            why = f"is distrusted: {self.distrusted}"
        elif mode not in self.peer.modes or not self.peer.takes(bundle):
            why = f"gets no jobs of {manifest.name} in mode {mode}"
        elif self._told.problem:
            why = f"is not to be used: {self._told.problem}"
        elif mode not in self._told.models.get((manifest.name, bundle.sha256), ()):
            why = f"does not offer this {manifest.name} in mode {mode}"
        elif self._refused.get(bundle.sha256, 0.0) > time.monotonic():
            why = f"refused a job of {manifest.name} a moment ago"
        msg = f"peer {self.name} {why}"
        return UnavailableError(msg, code="no-node") if why else None

    def places(self, mode: Mode) -> int:
        """Return how many jobs of a mode it gets at once."""
        return self.peer.max_jobs if mode in self.peer.modes else 0

    def has(self, _job_id: str) -> bool:
        """Return False: its jobs are this gateway's; see `Node`."""
        return False

    def warmth(self, mode: Mode, model_sha256: str, keys_sha256: str = "") -> int:
        """Return 1 if the keys are there; a node of our own is preferred to a peer."""
        _ = mode, model_sha256
        return int(bool(keys_sha256) and keys_sha256 in self._loaded)

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of ours it runs, by mode."""
        count = Counter(mode for mode, _ in self._jobs.values())
        return {mode: count[mode] for mode in self.peer.modes}

    def describe(self) -> Json:
        """Return the node as `/v1/nodes` shows it."""
        state, why = "ready", ""
        if self.distrusted:
            state, why = "distrusted", self.distrusted
        elif self._told.problem:
            state, why = "unreachable", self._told.problem
        busy = self.busy()
        return {
            "name": self.name,
            "kind": "peer",
            "state": state,
            "detail": why[:_MAX_TEXT],
            "url": self.peer.url,
            "gpus": 0,
            "cpus": 0,
            "memory_bytes": 0,
            "enclave_evidence": "",
            "modes": {
                str(mode): {
                    "workers": self.places(mode),
                    "busy": busy[mode],
                    "time_limit_s": self._limit_s(mode),
                }
                for mode in self.peer.modes
            },
        }

    async def refresh(self) -> None:
        """Ask which models it offers, and so whether it is there."""
        try:
            reply = await self._link.ask("GET", "/v1/models", limit=_LIST_BYTES)
            self._told = _Told("", await asyncio.to_thread(_models, self._link, reply))
        except PeerLiedError as exc:
            await self._distrust(exc, {"asked": "/v1/models"})
        except PrivacyError as exc:
            self._told = _Told(exc.message)

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        """Return what its enclave shows; the client judges it."""
        params = {
            "model": bundle.manifest.name,
            "version": bundle.manifest.version,
            "nonce": b64url(nonce),
            "mode": str(mode),
        }
        try:
            reply = await self._link.ask(
                "GET", "/v1/attestations", params=params, limit=_EVIDENCE_BYTES
            )
        except PeerLiedError as exc:
            await self._distrust(exc, {"asked": "/v1/attestations"})
            raise NodeLostError(exc.message, code=exc.code) from exc
        return reply.body

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        remote = _Remote()
        self._jobs[work.job_id] = (work.mode, remote)
        remote.flow = asyncio.create_task(self._forward(work, watch, remote))
        try:
            return await remote.flow
        except asyncio.CancelledError:
            remote.flow.cancel()
            if remote.cancelled:
                msg = "the job was cancelled"
                raise JobFailedError(msg, code="cancelled") from None
            raise
        finally:
            del self._jobs[work.job_id]

    def cancel(self, job_id: str) -> None:
        """Stop a job here and there."""
        _, remote = self._jobs.get(job_id, (None, None))
        if remote is None or remote.cancelled:
            return
        remote.cancelled = True
        if remote.flow:
            remote.flow.cancel()
        self._cancel_there(remote)

    async def close(self) -> None:
        """Leave jobs where they are: the next life comes back to them."""
        flows = [r.flow for _, r in self._jobs.values() if r.flow]
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, *self._parting, return_exceptions=True)
        await self._link.close()

    async def _forward(self, work: Work, watch: Watch, remote: _Remote) -> Done:
        await asyncio.to_thread(watch.started)
        limit_s = self._limit_s(work.mode)
        asked: Json = {"job": work.job_id, "model_sha256": work.bundle.sha256}
        try:
            async with asyncio.timeout(limit_s):
                return await self._exchange(work, watch, remote, asked)
        except TimeoutError:
            self._cancel_there(remote)
            msg = f"peer {self.name} did not end the job within {limit_s:g} s"
            slow = PeerLiedError(msg, code="peer-too-slow")
            await asyncio.to_thread(self._lied, slow, asked)
            # Whoever sends a job that takes long must not cost the peer our trust.
            self._refused[work.bundle.sha256] = time.monotonic() + _SLOW_S
            raise NodeDeclinedError(msg, code=slow.code) from None
        except PeerLiedError as exc:
            await self._distrust(exc, asked)
            raise NodeLostError(exc.message, code=exc.code) from exc
        except PeerRefusedError as exc:
            self._note_refusal(exc, work)
            raise
        except NodeLostError as exc:
            if exc.code == "peer-unreachable":
                self._told = _Told(exc.message)  # until it is asked again
            raise

    async def _exchange(
        self, work: Work, watch: Watch, remote: _Remote, asked: Json
    ) -> Done:
        await self._pinned_keys()  # before anything is sent to whoever is there
        watch.progress({"stage": f"send to peer {self.name}"})
        options = passed_on(work.options, gateway=self._gateway, job_id=work.job_id)
        job = await self._begun(work, options)
        remote.id = str(job["id"])
        job = await self._follow(job, watch)
        asked |= {"there": job}
        done = await self._taken(work, job, options, asked)
        self._later(self._tidy(work, remote.id))
        return done

    async def _begun(self, work: Work, options: Json) -> Json:
        """Return the job there, once all that it needs is there."""
        left = _UPLOADS
        while True:
            await self._upload(work)
            try:
                return await self._submit(work, options)
            except PeerRefusedError as exc:
                left -= 1
                if not left or exc.problem.code not in _EXPIRED:
                    raise

    async def _upload(self, work: Work) -> None:
        await self._link.upload(f"/v1/blobs/{work.input_sha256}", work.input)
        if work.keys:
            params = work.bundle.manifest.mode(work.mode).params
            keyset = str(params.get("keyset_sha256", ""))
            path = f"/v1/keys/{work.keys_sha256}"
            await self._link.upload(path, work.keys, params={"keyset": keyset})
            self._loaded.add(work.keys_sha256)

    async def _submit(self, work: Work, options: Json) -> Json:
        manifest = work.bundle.manifest
        body: Json = {
            "model": manifest.name,
            "version": manifest.version,
            "model_sha256": work.bundle.sha256,
            "mode": str(work.mode),
            "input": work.input_sha256,
            "options": options,
        }
        if work.keys_sha256:
            body["keys"] = work.keys_sha256
        again = self._tries[work.job_id]
        headers = {
            "Idempotency-Key": f"{work.job_id}.{again}" if again else work.job_id,
            "Prefer": f"wait={_WAIT_S}",
        }
        return self._job(
            await self._link.ask("POST", "/v1/jobs", body=body, headers=headers)
        )

    async def _follow(self, job: Json, watch: Watch) -> Json:
        """Return the job once it has ended there."""
        first = job["id"]
        while job["status"] in _OPEN:
            watch.progress({"stage": f"run at peer {self.name}", **job["progress"]})
            began = time.monotonic()
            job = await self._state(first)
            if job["id"] != first:
                raise self._link.lied("it answers with another job", "answer")
            if time.monotonic() - began < _SOON_S:
                await asyncio.sleep(_PAUSE_S)
        return job

    async def _state(self, job_id: str) -> Json:
        """Return a job there; a peer that restarts or holds us back has some time."""
        until = time.monotonic() + _RESTART_S
        while True:
            try:
                wait = {"Prefer": f"wait={_WAIT_S}"}
                reply = await self._link.ask("GET", f"/v1/jobs/{job_id}", headers=wait)
                return self._job(reply)
            except NodeLostError as exc:
                passes = exc.code in {"peer-unreachable", "peer-busy"}
                if not passes or time.monotonic() > until:
                    raise
            await asyncio.sleep(_PAUSE_S)

    def _job(self, reply: Reply) -> Json:
        """Return the members of a job that are used here, of the right types."""
        try:
            value = reply.object("job")
        except UnavailableError as exc:
            raise self._link.lied("its answer is no job", "answer") from exc
        job_id, status = value.get("id"), value.get("status")
        progress, problem = value.get("progress") or {}, value.get("problem") or {}
        if not (
            isinstance(job_id, str)
            and job_id.isascii()
            and job_id.replace("_", "").replace("-", "").isalnum()
            and len(job_id) <= _MAX_TEXT
            and status in _OPEN | _ENDED
            and isinstance(progress, dict)
            and isinstance(problem, dict)
        ):
            raise self._link.lied("its answer is no job", "answer")
        return {
            "id": job_id,
            "status": status,
            "progress": _numbers(progress),
            "problem": problem,
        }

    async def _taken(
        self,
        work: Work,
        job: Json,
        options: Json,
        asked: Json,
    ) -> Done:
        """Return the answer of a job that ended there, once all of it was checked."""
        path = f"/v1/jobs/{job['id']}"
        if job["status"] == "cancelled":
            self._tries[work.job_id] += 1
            msg = f"peer {self.name} cancelled the job"
            raise NodeDeclinedError(msg, code="peer-job-failed")
        async with self._must_have("receipt", work):
            reply = await self._link.ask("GET", f"{path}/receipt")
        asked |= {"receipt": reply.body.decode(errors="replace")}
        receipt = check_receipt(
            reply.body,
            self._asked(work, job, options),
            status=job["status"],
            keys=await self._pinned_keys(signer=_signer(reply.body)),
            allow_forwarding=self.peer.allow_forwarding,
        )
        if receipt.status == "failed":
            raise self._failure(work, job, receipt)
        if receipt.simulated != (Mode.TEE in work.mode.parts and self._simulated):
            raise self._link.lied("it and we disagree on simulated enclaves", "receipt")
        output, evidence = work.folder / "output", work.folder / "evidence"
        for name, file, sha256 in (
            ("result", output, receipt.output_sha256),
            ("evidence", evidence, receipt.evidence_sha256),
        ):
            if not sha256:
                continue
            async with self._must_have(name, work):
                await self._link.fetch(
                    f"{path}/{name}",
                    file,
                    sha256=sha256,
                    limit=self._max_answer_bytes,
                    timeout_s=self._limit_s(work.mode),
                )
        self._tries.pop(work.job_id, None)
        return Done(
            output,
            evidence if receipt.evidence_sha256 else None,
            receipt.evidence_kind,
            node=self.name,
            peer_receipt=reply.body,
        )

    @asynccontextmanager
    async def _must_have(self, what: str, work: Work) -> AsyncIterator[None]:
        """Call it a lie if a finished job has no such thing, and never had."""
        try:
            yield
        except PeerRefusedError as exc:
            if exc.problem.code == "result-gone":  # fetched in an earlier life of ours
                self._tries[work.job_id] += 1
            elif isinstance(exc.problem, NotFoundError):
                msg = f"a job that has ended has no {what}"
                raise self._link.lied(msg, "answer") from exc
            raise

    @staticmethod
    def _asked(work: Work, job: Json, options: Json) -> Asked:
        return Asked(
            job_id=job["id"],
            model=work.bundle.manifest.name,
            version=work.bundle.manifest.version,
            model_sha256=work.bundle.sha256,
            mode=str(work.mode),
            input_sha256=work.input_sha256,
            keys_sha256=work.keys_sha256,
            options=options,
        )

    def _failure(self, work: Work, job: Json, receipt: Receipt) -> PrivacyError:
        """Return the error for a job that failed there, as its receipt confirms."""
        error = problem_exception(job["problem"])
        if not _CODE.fullmatch(error.code) or error.code != receipt.problem:
            return self._link.lied("job and receipt name different problems", "receipt")
        # What is wrong with the input is wrong everywhere; a sealed one opens nowhere
        # else.
        if isinstance(error, FormatError) or Mode.TEE in work.mode.parts:
            said = plain(f"peer {self.name}: {error.message}")
            return error_from(type(error).__name__, error.code, said)
        self._tries[work.job_id] += 1
        msg = f"the job failed at peer {self.name} ({error.code})"
        return NodeDeclinedError(msg, code="peer-job-failed")

    async def _pinned_keys(self, *, signer: str = "") -> dict[str, ReceiptKey]:
        """Return the pinned receipt keys, and those that they vouch for.

        They are asked for anew if `signer`, a key's id, is not among those known.
        """
        if not self._keys or signer not in {"", *self._keys}:
            reply = await self._link.ask("GET", "/.well-known/jwks.json")
            try:
                shown = read_history(reply.object("key set"))
            except PrivacyError as exc:
                raise self._link.lied("its key set is none", "answer") from exc
            self._keys = _vouched_for(shown, self.peer.receipt_keys)
        if not self._keys:
            raise self._link.lied(
                "it does not show a pinned receipt key", "receipt-key"
            )
        return self._keys

    def _note_refusal(self, exc: PeerRefusedError, work: Work) -> None:
        """Ask no more for a while for what a peer does not have or allow."""
        if isinstance(exc.problem, FormatError | LimitError):
            return  # another job may well be taken
        self._refused[work.bundle.sha256] = time.monotonic() + _REFUSED_S
        _log.warning("peer-refused", peer=self.name, why=exc.message[:_MAX_TEXT])

    async def _distrust(self, exc: PeerLiedError, asked: Json) -> None:
        self.distrusted = f"{exc.message[:_MAX_TEXT]} ({exc.code})"
        _log.error("peer-distrusted", peer=self.name, code=exc.code, why=exc.message)
        await asyncio.to_thread(self._lied, exc, asked)

    def _cancel_there(self, remote: _Remote) -> None:
        if remote.id:
            self._later(self._delete(f"/v1/jobs/{remote.id}"))

    async def _tidy(self, work: Work, remote_id: str) -> None:
        """Leave nothing there but keys, which the next job needs."""
        await self._delete(f"/v1/jobs/{remote_id}/result")
        await self._delete(f"/v1/blobs/{work.input_sha256}")

    async def _delete(self, path: str) -> None:
        with suppress(PrivacyError):
            await self._link.ask("DELETE", path, accept=(200, 204), timeout_s=_CANCEL_S)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    def _limit_s(self, mode: Mode) -> float:
        return self.peer.time_limit_s or self._time_limit_s(mode)


def _models(link: Link, reply: Reply) -> dict[tuple[str, str], set[str]]:
    """Return the modes that a peer offers, by a model's name and digest."""
    try:
        entries = reply.objects("models")
    except UnavailableError as exc:
        raise link.lied("its list of models is none", "answer") from exc
    found: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        modes: Any = entry.get("modes")
        if isinstance(modes, dict):
            key = (str(entry.get("name")), str(entry.get("model_sha256")))
            found[key] = {str(m) for m, offered in modes.items() if offered is True}
    return found


def _vouched_for(
    shown: dict[str, ReceiptKey], pinned: Collection[str]
) -> dict[str, ReceiptKey]:
    """Return the pinned keys of a history and their successors, revoked ones out."""
    begin = next((i for i, kid in enumerate(shown) if kid in pinned), len(shown))
    return {
        kid: key
        for kid, key in list(shown.items())[begin:]
        if key.revoked_log_size is None
    }


def _signer(receipt: bytes) -> str:
    """Return the id of the key that should have signed, "" if nothing says it."""
    try:
        return parse_receipt(receipt)[1]
    except FormatError:
        return ""


def _numbers(progress: Json) -> Json:
    """Return how far a job is; no text of a peer is passed on."""
    return {
        name: value
        for name in ("done", "total")
        if type(value := progress.get(name)) is int and 0 <= value < 1 << 31
    }
