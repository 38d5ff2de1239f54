"""Another operator's gateway as a node: jobs go over its public HTTP API.

A peer that cannot be reached or is busy is a node that was lost; one at which a job
fails loses that job. One that lies gets no job for a while, and what it said is kept.
How a job goes there: `gateway.peers.exchange`.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from gateway.executors.base import Done, NodeDeclinedError, NodeLostError, Watch, Work
from gateway.peers.config import Peer
from gateway.peers.exchange import Exchange
from gateway.peers.link import Link, PeerLiedError, PeerRefusedError
from gateway.peers.site import Offered, PinnedKeys, Site, offered
from gateway.store.away import StoreAwayError
from privacy.bundle import Bundle
from privacy.encoding import Json, b64url
from privacy.errors import (
    FormatError,
    JobFailedError,
    LimitError,
    PrivacyError,
    UnavailableError,
)
from privacy.modes import Mode

_log = structlog.get_logger()
_SLOW_S = 600.0
"""How long a peer gets no job of a model that it did not end in time."""
_REFUSED_S = 60.0
"""How long a peer that refused a model or our key is not asked for it again."""
_LIST_BYTES = 1 << 23
_EVIDENCE_BYTES = 1 << 22
_MAX_TEXT = 200
_MOST_OWED = 1000


@dataclass(slots=True)
class _Told:
    """What a peer said of itself when it was asked last; none of it is believed."""

    problem: str = "it was not asked yet"
    models: Offered = field(default_factory=dict)


@dataclass(slots=True)
class _Run:
    """A job of ours over there."""

    mode: Mode
    exchange: Exchange
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
        self.name = f"peer:{peer.name}"  # no node of ours can be called so
        self.peer = peer
        self._link = link
        self._site = Site(
            peer=peer,
            link=link,
            keys=PinnedKeys(link, peer.receipt_keys),
            gateway=gateway,
            time_limit_s=time_limit_s,
            max_answer_bytes=max_answer_bytes,
            simulated=simulated,
        )
        self._lied = lied
        self._told = _Told()
        self._runs: dict[str, _Run] = {}
        self._refused: dict[str, float] = {}
        self._owed: deque[Exchange] = deque(maxlen=_MOST_OWED)
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
        msg = f"peer {self.peer.name} {why}"
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
        return int(bool(keys_sha256) and keys_sha256 in self._site.loaded)

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of ours it runs, by mode."""
        count = Counter(run.mode for run in self._runs.values())
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
                    "time_limit_s": self._site.limit_s(mode),
                }
                for mode in self.peer.modes
            },
        }

    async def refresh(self) -> None:
        """Ask which models it offers, and so whether it is there."""
        try:
            reply = await self._link.ask("GET", "/v1/models", limit=_LIST_BYTES)
            self._told = _Told("", await asyncio.to_thread(offered, self._link, reply))
        except PeerLiedError as exc:
            await self._distrust(exc, {"asked": "/v1/models"})
        except PrivacyError as exc:
            self._told = _Told(exc.message)
        else:
            while self._owed:
                self._later(self._withdraw(self._owed.popleft()))

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
        exchange = Exchange(self._site, work)
        run = self._runs[work.job_id] = _Run(work.mode, exchange)
        run.flow = asyncio.create_task(self._forward(work, watch, exchange))
        try:
            return await run.flow
        except asyncio.CancelledError:
            run.flow.cancel()
            if run.cancelled:
                msg = "the job was cancelled"
                raise JobFailedError(msg, code="cancelled") from None
            raise
        finally:
            del self._runs[work.job_id]

    def cancel(self, job_id: str) -> None:
        """Stop a job here and there."""
        run = self._runs.get(job_id)
        if run is None or run.cancelled:
            return
        run.cancelled = True
        if run.flow:
            run.flow.cancel()
        self._later(self._withdraw(run.exchange))

    async def close(self) -> None:
        """Leave jobs where they are: the next life comes back to them."""
        flows = [run.flow for run in self._runs.values() if run.flow]
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, *self._parting, return_exceptions=True)
        await self._link.close()

    async def _forward(self, work: Work, watch: Watch, exchange: Exchange) -> Done:
        await asyncio.to_thread(watch.started)
        limit_s = self._site.limit_s(work.mode)
        try:
            async with asyncio.timeout(limit_s):
                done = await exchange.run(watch, node=self.name)
        except TimeoutError:
            self._later(self._withdraw(exchange))
            msg = f"peer {self.peer.name} did not end the job within {limit_s:g} s"
            slow = PeerLiedError(msg, code="peer-too-slow")
            await asyncio.to_thread(self._lied, slow, exchange.asked)
            # Whoever sends a job that takes long must not cost the peer our trust.
            self._refused[work.bundle.sha256] = time.monotonic() + _SLOW_S
            raise NodeDeclinedError(msg, code=slow.code) from None
        except PrivacyError as exc:
            comes_back = isinstance(exc, NodeLostError | StoreAwayError)
            if isinstance(exc, NodeDeclinedError) or not comes_back:
                self._later(exchange.tidy())
            await self._note_failure(exc, work, exchange)
            raise
        self._later(exchange.tidy())
        return done

    async def _note_failure(
        self, exc: PrivacyError, work: Work, exchange: Exchange
    ) -> None:
        """Remember of a job that failed what matters to others.

        Raises:
            NodeLostError: The peer lied: the job is to go on elsewhere.
        """
        if isinstance(exc, PeerLiedError):
            await self._distrust(exc, exchange.asked)
            raise NodeLostError(exc.message, code=exc.code) from exc
        if isinstance(exc, PeerRefusedError):
            self._note_refusal(exc, work)
        elif exc.code == "peer-unreachable":
            self._told = _Told(exc.message)  # until it is asked again

    async def _withdraw(self, exchange: Exchange) -> None:
        """End a job there, if not now then when the peer is reached again."""
        if not await exchange.withdraw():
            self._owed.append(exchange)

    def _note_refusal(self, exc: PeerRefusedError, work: Work) -> None:
        """Ask no more for a while for what a peer does not have or allow."""
        if isinstance(exc.problem, FormatError | LimitError):
            return  # another job may well be taken
        self._refused[work.bundle.sha256] = time.monotonic() + _REFUSED_S
        _log.warning("peer-refused", peer=self.peer.name, why=exc.message[:_MAX_TEXT])

    async def _distrust(self, exc: PeerLiedError, asked: Json) -> None:
        self.distrusted = f"{exc.message[:_MAX_TEXT]} ({exc.code})"
        _log.error(
            "peer-distrusted", peer=self.peer.name, code=exc.code, why=exc.message
        )
        await asyncio.to_thread(self._lied, exc, asked)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)
