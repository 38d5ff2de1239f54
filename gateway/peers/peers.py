"""The peers of a gateway: their nodes, what is kept of them, and who may go to them."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from gateway.executors.peer import PeerNode
from gateway.executors.scheduler import Scheduler
from gateway.logs import error_id_of
from gateway.peers.config import Peer, read_peers
from gateway.peers.hops import may_go_on
from gateway.peers.link import Link, PeerLiedError
from gateway.settings import Settings
from gateway.store.peers import PeerStore
from privacy.encoding import Json
from privacy.errors import NotFoundError

_log = structlog.get_logger()
_REFRESH_S = 15.0
_FIRST_S = 5.0
_MAX_SAID = 1 << 16
_SLOW = "peer-too-slow"


class Peers:
    """Those that the settings name, if any."""

    def __init__(
        self,
        settings: Settings,
        store: PeerStore,
        *,
        key_ids: Callable[[], tuple[str, ...]],
        simulated: bool,
        link: Callable[[Peer], Link] = Link,
    ) -> None:
        """Read who they are; nothing is sent yet.

        Args:
            settings: Where their file is, limits, and our own node's name.
            store: What is kept of them.
            key_ids: Ids of this gateway's receipt keys, the one that signs first.
            simulated: Whether enclaves here prove nothing.
            link: Makes the connection to one.

        Raises:
            PrivacyError: The file is not usable.
        """
        self.store = store
        self.receipt, self.keep = store.receipt, store.keep
        self._settings = settings
        self._key_ids = key_ids
        path = settings.peers_file
        known = read_peers(path) if path else ()
        self.nodes = {
            peer.name: PeerNode(
                peer,
                link(peer),
                gateway=key_ids()[0],
                time_limit_s=settings.time_limit_s,
                max_answer_bytes=settings.max_upload_bytes,
                simulated=simulated,
                lied=partial(self._lied, peer.name),
            )
            for peer in known
        }

    def avoided(self, options: Json) -> frozenset[str]:
        """Return the names of nodes that must not run a job with these options."""
        may = may_go_on(
            options, own=self._key_ids(), max_hops=self._settings.peer_max_hops
        )
        return frozenset() if may else frozenset(n.name for n in self.nodes.values())

    async def start(self, scheduler: Scheduler) -> None:
        """Ask them all who they are, but do not wait long, and let them have jobs."""
        if not self.nodes:
            return
        try:
            async with asyncio.timeout(_FIRST_S):
                await self._refresh()
        except TimeoutError:
            _log.warning("peers-slow", peers=len(self.nodes))
        for node in self.nodes.values():
            scheduler.add(node)

    async def watch(self, scheduler: Scheduler) -> None:
        """Ask them again and again, for ever."""
        while self.nodes:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self._refresh()
                scheduler.changed()
            except Exception as exc:  # noqa: BLE001 - the next time may go better
                error_id_of(exc, task="peers")

    def trust(self, name: str) -> None:
        """Distrust a peer no more.

        Raises:
            NotFoundError: There is none, or it is not distrusted.
        """
        self.store.trust(self._known(name).peer.name)
        self._known(name).distrusted = ""

    def lies(self, name: str) -> list[Json]:
        """Return what a peer did, the newest first.

        Raises:
            NotFoundError: There is none.
        """
        return self.store.lies(self._known(name).peer.name)

    def _known(self, name: str) -> PeerNode:
        if name not in self.nodes:
            msg = f"there is no peer {name[:63]!r}: peers are named in peers_file"
            raise NotFoundError(msg, code="unknown-peer")
        return self.nodes[name]

    async def _refresh(self) -> None:
        distrusted = await asyncio.to_thread(self.store.distrusted)
        for name, node in self.nodes.items():
            node.distrusted = distrusted.get(name, "")
        await asyncio.gather(
            *(n.refresh() for n in self.nodes.values() if not n.distrusted)
        )

    def _lied(self, name: str, exc: PeerLiedError, said: Json) -> None:
        receipt = str(said.get("receipt", ""))[:_MAX_SAID]
        self.store.add_lie(
            name,
            code=exc.code,
            message=exc.message,
            said={**said, "receipt": receipt},
            distrust_s=0.0 if exc.code == _SLOW else self._settings.peer_distrust_s,
        )
