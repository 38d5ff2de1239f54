"""One job of ours at a peer, from the upload to what is left there.

1. The pinned receipt key is fetched; its id is its digest, so nobody can swap it.
2. Input and keys are uploaded by digest, unless they are there.
3. The job is submitted under an idempotency key made from ours: a retry after any
   crash, here or there, comes back to the same job.
4. It is followed to its end. A cancelled one is cancelled there, too, and its input
   deleted.
5. The receipt is verified and compared with what was asked; then output and evidence
   are fetched and compared with the receipt. Only then is the answer taken.
6. Output and input are deleted there, also if the job failed. A peer that was lost
   or busy keeps them until its own limits: our next try may come back to it.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

from gateway.executors.base import Done, NodeLostError, Watch, Work
from gateway.peers.answer import take_answer
from gateway.peers.hops import passed_on
from gateway.peers.link import PeerRefusedError
from gateway.peers.site import Site
from privacy.client.wire import Reply
from privacy.encoding import Json
from privacy.errors import PrivacyError, UnavailableError

_WAIT_S = 2
_SOON_S = 0.2
_PAUSE_S = 0.5
_RESTART_S = 15.0
"""How long a peer may be away in the middle of a job."""
_CANCEL_S = 5.0
_UPLOADS = 3
_EXPIRED = {"unknown-blob", "unknown-keys"}
_MAX_ID = 200
_OPEN, _ENDED = {"queued", "running"}, {"succeeded", "failed", "cancelled"}


class Exchange:
    """The job; `run` gives its answer.

    Attributes:
        asked: What was asked and what the peer said, for the record of a lie.
    """

    def __init__(self, site: Site, work: Work) -> None:
        """Prepare it; nothing is sent yet."""
        self._site, self._work = site, work
        self._options = passed_on(
            work.options, gateway=site.gateway, job_id=work.job_id
        )
        self._id = self._key = ""
        self._sends = False
        self.asked: Json = {"job": work.job_id, "model_sha256": work.bundle.sha256}

    async def run(self, watch: Watch, *, node: str) -> Done:
        """Return the checked answer; `node` is who gave it, for receipts of ours.

        Raises:
            NodeLostError: It cannot be reached, does not take the job, or failed at it.
            PeerLiedError: It says or gives what cannot be.
            PrivacyError: The job failed, as it would anywhere.
        """
        await self._site.keys.get()  # before anything is sent to whoever is there
        watch.progress({"stage": f"send to peer {self._site.peer.name}"})
        job = await self._begun()
        self._id = str(job["id"])
        job = await self._follow(job, watch)
        self.asked |= {"there": job}
        return await take_answer(
            self._site,
            self._work,
            job,
            options=self._options,
            asked=self.asked,
            node=node,
        )

    async def withdraw(self) -> bool:
        """End the job there, and delete its input.

        If we were not told its id, it is submitted again: its idempotency key finds the
        job, or makes one that ends at once.

        Returns:
            False if the peer has to be asked again later.
        """
        if not self._sends:
            return True  # nothing of it went there
        try:
            async with asyncio.timeout(_CANCEL_S):
                if self._key:
                    await self._cancel()
                await self._delete(self._input)
        except TimeoutError:
            return False
        except NodeLostError as exc:
            return isinstance(exc, PeerRefusedError)
        except PrivacyError:
            pass  # it lies: we cannot do more
        return True

    async def tidy(self) -> None:
        """Leave nothing there but keys, which the next job needs."""
        result = [f"/v1/jobs/{self._id}/result"] if self._id else []
        for path in (*result, self._input):
            with suppress(PrivacyError):
                await self._delete(path)

    async def _cancel(self) -> None:
        with suppress(PeerRefusedError):
            if not self._id:
                self._id = str((await self._submit())["id"])
            await self._delete(f"/v1/jobs/{self._id}")

    @property
    def _input(self) -> str:
        return f"/v1/blobs/{self._work.input_sha256}"

    async def _delete(self, path: str) -> None:
        await self._site.link.ask(
            "DELETE", path, accept=(200, 204), timeout_s=_CANCEL_S
        )

    async def _begun(self) -> Json:
        """Return the job there, once all that it needs is there."""
        left = _UPLOADS
        while True:
            await self._upload()
            try:
                return await self._submit(wait_s=_WAIT_S)
            except PeerRefusedError as exc:
                left -= 1
                if not left or exc.problem.code not in _EXPIRED:
                    raise

    async def _upload(self) -> None:
        link, work = self._site.link, self._work
        self._sends = True
        await link.upload(self._input, work.input)
        if work.keys:
            params = work.bundle.manifest.mode(work.mode).params
            keyset = str(params.get("keyset_sha256", ""))
            path = f"/v1/keys/{work.keys_sha256}"
            await link.upload(path, work.keys, params={"keyset": keyset})
            self._site.loaded.add(work.keys_sha256)

    async def _submit(self, *, wait_s: int = 0) -> Json:
        work, manifest = self._work, self._work.bundle.manifest
        body: Json = {
            "model": manifest.name,
            "version": manifest.version,
            "model_sha256": work.bundle.sha256,
            "mode": str(work.mode),
            "input": work.input_sha256,
            "options": self._options,
        }
        if work.keys_sha256:
            body["keys"] = work.keys_sha256
        self._key = self._key or self._site.tries.key(work.job_id)
        headers = {"Idempotency-Key": self._key}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        return self._job(
            await self._site.link.ask("POST", "/v1/jobs", body=body, headers=headers)
        )

    async def _follow(self, job: Json, watch: Watch) -> Json:
        """Return the job once it has ended there."""
        first, name = job["id"], self._site.peer.name
        while job["status"] in _OPEN:
            watch.progress({"stage": f"run at peer {name}", **job["progress"]})
            began = time.monotonic()
            job = await self._state(first)
            if job["id"] != first:
                raise self._site.link.lied("it answers with another job", "answer")
            if time.monotonic() - began < _SOON_S:
                await asyncio.sleep(_PAUSE_S)
        return job

    async def _state(self, job_id: str) -> Json:
        """Return a job there; a peer that restarts or holds us back has some time."""
        until = time.monotonic() + _RESTART_S
        wait = {"Prefer": f"wait={_WAIT_S}"}
        while True:
            try:
                path = f"/v1/jobs/{job_id}"
                return self._job(await self._site.link.ask("GET", path, headers=wait))
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
            raise self._site.link.lied("its answer is no job", "answer") from exc
        job_id, status = value.get("id"), value.get("status")
        progress, problem = value.get("progress") or {}, value.get("problem") or {}
        if not (
            _is_id(job_id)
            and status in _OPEN | _ENDED
            and isinstance(progress, dict)
            and isinstance(problem, dict)
        ):
            raise self._site.link.lied("its answer is no job", "answer")
        return {
            "id": job_id,
            "status": status,
            "progress": _numbers(progress),
            "problem": problem,
        }


def _is_id(value: Any) -> bool:
    """Whether it can be a job's id: it will stand in paths."""
    return (
        isinstance(value, str)
        and value.isascii()
        and value.replace("_", "").replace("-", "").isalnum()
        and len(value) <= _MAX_ID
    )


def _numbers(progress: Json) -> Json:
    """Return how far a job is; no text of a peer is passed on."""
    return {
        name: value
        for name in ("done", "total")
        if type(value := progress.get(name)) is int and 0 <= value < 1 << 31
    }
