"""Which node runs a job: the one that can begin soonest, and another if that one dies.

1. Nodes that can never run it are left out: of other modes, with too little memory or
   no GPU, those the job avoids, those in quarantine. If none is left, the job waits
   `node_wait_s` for one to join and is refused then.
2. A job in an enclave goes to the node whose enclave its input was sealed for.
3. Of the nodes with a free place it gets the one that has its keys loaded, else its
   model, else the least loaded. If all are busy it waits; whoever asked first is
   served first, but holds up nobody whom another node can serve.
4. A job that a node still runs for a gateway that has died goes on there.
5. A node that is lost is left alone for a while, and its jobs go on elsewhere. So does
   a job that a node declines; that node gets other jobs all the same.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from hashlib import sha256

from gateway.executors.base import (
    Done,
    Node,
    NodeDeclinedError,
    NodeLostError,
    Watch,
    Work,
)
from gateway.executors.memory import gpus_needed
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.errors import (
    ConflictError,
    JobFailedError,
    LimitError,
    PrivacyError,
    UnavailableError,
)
from privacy.modes import Mode

MAX_LOST = 5
"""How many nodes may be lost under one job: it may be the job that ends them."""
LOST_S = 5.0
"""How long a node that was lost gets no job."""
_TICK_S = 0.05
"""Who waits is looked at again at most so often, however many wait."""


@dataclass(slots=True, eq=False)
class _Ticket:
    """A job here: it waits for its turn, then runs on a node."""

    work: Work
    turn: "asyncio.Future[Node]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    node: Node | None = None
    hopeless_at: float = 0.0
    declined: NodeDeclinedError | None = None
    cancelled: bool = False

    def end(self, why: PrivacyError) -> None:
        if not self.turn.done():
            self.turn.set_exception(why)


class Scheduler:
    """Named nodes as one executor. Everything happens on one event loop."""

    def __init__(
        self,
        *,
        node_wait_s: float = 0.0,
        quarantined: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """Have no node yet.

        Args:
            node_wait_s: How long a job waits for a node that could run it at all.
            quarantined: Gives the names of nodes that get no job now.
        """
        self._node_wait_s = node_wait_s
        self._quarantined = quarantined
        self._nodes: dict[str, Node] = {}
        self._lost_until: dict[str, float] = {}
        self._running: Counter[tuple[str, Mode]] = Counter()
        self._tickets: dict[str, _Ticket] = {}
        self._waiting: list[_Ticket] = []
        self._ticks: set[int] = set()

    def add(self, node: Node) -> None:
        """Give jobs to a node from now on.

        Raises:
            ConflictError: Another one has its name: receipts and quarantine go by it.
        """
        if node.name in self._nodes:
            msg = f"a node is called {node.name!r} already: give each its own name"
            raise ConflictError(msg, code="node-name-taken")
        self._nodes[node.name] = node
        self._lost_until.pop(node.name, None)
        self.changed()

    def remove(self, name: str) -> None:
        """Give no more jobs to a node; those that run there go on."""
        self._nodes.pop(name, None)
        self.changed()

    def nodes(self) -> dict[str, Node]:
        """Return the nodes by name."""
        return dict(self._nodes)

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        ticket = self._tickets[work.job_id] = _Ticket(work)
        try:
            for _ in range(MAX_LOST):
                node = await self._place(ticket)
                try:
                    if ticket.cancelled:  # after it got its turn, before it had a node
                        raise _cancelled()
                    done = await node.run(work, watch)
                except NodeDeclinedError as exc:
                    work = self._declined(ticket, node, exc)
                except NodeLostError as exc:
                    self._lose(node, work, exc)
                else:
                    return replace(done, node=done.node or node.name)
                finally:
                    self._leave(ticket, node)
            msg = f"{MAX_LOST} nodes were lost while they ran this job: try again later"
            raise UnavailableError(msg, code="node-lost")
        finally:
            del self._tickets[work.job_id]

    def cancel(self, job_id: str) -> None:
        """Stop a job wherever it waits or runs."""
        if ticket := self._tickets.get(job_id):
            ticket.cancelled = True
            ticket.end(_cancelled())
            if ticket.node:
                ticket.node.cancel(job_id)

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of each mode run now, on all nodes."""
        total = dict.fromkeys(Mode, 0)
        for node in self._nodes.values():
            for mode, count in node.busy().items():
                total[mode] += count
        return total

    def waiting(self) -> dict[Mode, int]:
        """Return how many jobs of each mode wait for a node."""
        count = Counter(ticket.work.mode for ticket in self._waiting)
        return {mode: count[mode] for mode in Mode}

    def check_stays(self, mode: Mode, bundle: Bundle, avoid: Collection[str]) -> None:
        """Refuse a job that only nodes it must avoid could run; from any thread.

        Raises:
            UnavailableError: The message names them.
        """
        nodes = self.nodes().values()
        able = {n.name for n in nodes if n.refusal(mode, bundle) is None}
        if able and able <= set(avoid):
            msg = (
                f"of {bundle.manifest.name} in mode {mode} only "
                f"{', '.join(sorted(able))} can run jobs now, and this one must not "
                "leave: choose another mode, or let peers have it"
            )
            raise UnavailableError(msg, code="no-node")

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        """Return fresh evidence of the enclave that jobs of a model will be sent to.

        Raises:
            PrivacyError: No node can run them.
        """
        able = self._able(mode, bundle, avoid=frozenset())
        if not able:
            raise self._refusal(mode, bundle, avoid=frozenset())
        return await _home(able, mode, bundle).evidence(mode, bundle, nonce)

    async def close(self) -> None:
        """Stop everything; jobs here end with `asyncio.CancelledError`."""
        for ticket in self._waiting:
            ticket.turn.cancel()
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def describe(self) -> list[Json]:
        """Return the nodes as `/v1/nodes` shows them."""
        quarantined = self._quarantined()
        return [
            {
                **described,
                "state": "quarantined"
                if node.name in quarantined
                else "lost"
                if self._is_lost(node.name)
                else str(described.get("state", "ready")),
            }
            for node in self._nodes.values()
            for described in (node.describe(),)
        ]

    def changed(self) -> None:
        """Look at who waits again: a node came, went, or has more to give."""
        for ticket in tuple(self._waiting):
            if not ticket.turn.done():
                self._serve(ticket)

    async def _place(self, ticket: _Ticket) -> Node:
        ticket.turn = asyncio.get_running_loop().create_future()
        ticket.hopeless_at = 0.0
        self._waiting.append(ticket)
        self._serve(ticket)
        try:
            ticket.node = await ticket.turn
        except asyncio.CancelledError:
            if ticket.turn.done() and not ticket.turn.cancelled():
                self._leave(ticket, ticket.turn.result())  # it came at the same time
            raise
        finally:
            self._waiting.remove(ticket)
        return ticket.node

    def _serve(self, ticket: _Ticket) -> None:
        """Give a waiting job a node if one is free, or end it if none ever can."""
        work = ticket.work
        able = self._able(work.mode, work.bundle, avoid=work.avoid)
        if not able:
            self._despair(ticket)
            return
        ticket.hopeless_at = 0.0
        if Mode.TEE in work.mode.parts:
            able = [_home(able, work.mode, work.bundle)]
        free = [node for node in able if node.has(work.job_id)] or [
            node
            for node in able
            if self._running[node.name, work.mode] < node.places(work.mode)
        ]
        if free:
            node = max(free, key=lambda node: self._fitness(node, work))
            self._running[node.name, work.mode] += 1
            ticket.turn.set_result(node)

    def _fitness(self, node: Node, work: Work) -> tuple[int, bool, float]:
        mode = work.mode
        load = max(self._running[node.name, mode], node.busy().get(mode, 0))
        return (
            node.warmth(mode, work.bundle.sha256, work.keys_sha256),
            # GPUs are kept for those who need them.
            not node.gpus or gpus_needed(mode, work.bundle) > 0,
            -load / node.places(mode),
        )

    def _able(
        self, mode: Mode, bundle: Bundle, *, avoid: Collection[str]
    ) -> list[Node]:
        out = {*avoid, *self._quarantined()}
        return [
            node
            for node in self._nodes.values()
            if node.name not in out
            and not self._is_lost(node.name)
            and node.refusal(mode, bundle) is None
        ]

    def _despair(self, ticket: _Ticket) -> None:
        """End a job that no node can run, once it has waited for one to join."""
        now, work = time.monotonic(), ticket.work
        if not ticket.hopeless_at:
            ticket.hopeless_at = now
        back = max(self._lost_until.values(), default=0.0)
        patience_s = 0.0 if ticket.declined else self._node_wait_s
        until = max(ticket.hopeless_at + patience_s, back)
        if now >= until:
            why = self._refusal(work.mode, work.bundle, avoid=work.avoid)
            ticket.end(ticket.declined or why)
        else:
            self._again_in(until - now)

    def _refusal(
        self, mode: Mode, bundle: Bundle, *, avoid: Collection[str]
    ) -> PrivacyError:
        """Return why no node runs jobs of a model."""
        reasons = [node.refusal(mode, bundle) for node in self._nodes.values()]
        for reason in reasons:
            if isinstance(reason, LimitError):
                return reason
        if None in reasons:
            names = {*avoid, *self._quarantined()} & set(self._nodes)
            why = (
                f"those that could are in quarantine or left out "
                f"({', '.join(sorted(names))})"
                if names
                else "those that could were lost a moment ago"
            )
        else:
            why = next((r.message for r in reasons if r), "this gateway has no node")
        msg = f"no node runs {mode} for {bundle.manifest.name} now: {why}"
        return UnavailableError(msg, code="no-node")

    def _declined(self, ticket: _Ticket, node: Node, exc: NodeDeclinedError) -> Work:
        """Have a job run elsewhere; the node keeps its other jobs."""
        work = ticket.work
        if Mode.TEE in work.mode.parts:
            raise _enclave_gone(exc) from exc
        ticket.declined = exc
        ticket.work = replace(work, avoid=work.avoid | {node.name})
        return ticket.work

    def _lose(self, node: Node, work: Work, exc: NodeLostError) -> None:
        """Leave a lost node alone for a while."""
        self._lost_until[node.name] = time.monotonic() + LOST_S
        self._again_in(LOST_S)
        if Mode.TEE in work.mode.parts:
            raise _enclave_gone(exc) from exc

    def _is_lost(self, name: str) -> bool:
        return self._lost_until.get(name, 0.0) > time.monotonic()

    def _leave(self, ticket: _Ticket, node: Node) -> None:
        ticket.node = None
        self._running[node.name, ticket.work.mode] -= 1
        self.changed()

    def _again_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        tick = math.ceil((loop.time() + seconds) / _TICK_S)
        if tick not in self._ticks:  # one timer for all who wait for the same moment
            self._ticks.add(tick)
            loop.call_at(tick * _TICK_S, self._tick, tick)

    def _tick(self, tick: int) -> None:
        self._ticks.discard(tick)
        self.changed()


def _home(able: list[Node], mode: Mode, bundle: Bundle) -> Node:
    """Return where the enclave of a model is: the same node for every gateway.

    A node of this operator, if one is able: the data owner may want no other. Of these
    the node whose enclave runs; before one does, or if several do, the highest digest
    of node and model, so that a node that joins or leaves moves as few as can be.
    """
    model = bundle.sha256

    def rank(node: Node) -> tuple[bool, int, bytes]:
        digest = sha256(f"{node.name}\0{mode}\0{model}".encode()).digest()
        return not node.is_foreign, node.warmth(mode, model), digest

    return max(able, key=rank)


def _enclave_gone(exc: NodeLostError) -> UnavailableError:
    """Return the error for an input that nobody else can open."""
    msg = f"the node of the enclave was lost ({exc.message}): attest a new one"
    return UnavailableError(msg, code="enclave-gone")


def _cancelled() -> JobFailedError:
    return JobFailedError("the job was cancelled", code="cancelled")
