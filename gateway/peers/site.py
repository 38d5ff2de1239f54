"""A peer as our jobs need it: who it is, what it says of itself, and our terms."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from gateway.peers.config import Peer
from gateway.peers.link import Link
from privacy.client.wire import Reply
from privacy.errors import PrivacyError, UnavailableError
from privacy.key_history import ReceiptKey, read_history
from privacy.modes import Mode

_MOST_TRIES = 1000

Offered = dict[tuple[str, str], set[str]]
"""Modes, by a model's name and digest."""


class PinnedKeys:
    """The receipt keys that the operator pinned, and those that they vouch for."""

    def __init__(self, link: Link, pinned: Collection[str]) -> None:
        """Know the ids of keys; they are asked for when they are needed."""
        self._link, self._pinned = link, pinned
        self._known: dict[str, ReceiptKey] = {}

    async def get(self, *, signer: str = "") -> dict[str, ReceiptKey]:
        """Return the keys by id, asked for anew if `signer` is not among them.

        Raises:
            PeerLiedError: The peer shows none of them.
        """
        if not self._known or signer not in {"", *self._known}:
            reply = await self._link.ask("GET", "/.well-known/jwks.json")
            try:
                shown = read_history(reply.object("key set"))
            except PrivacyError as exc:
                raise self._link.lied("its key set is none", "answer") from exc
            self._known = _vouched_for(shown, self._pinned)
        if not self._known:
            raise self._link.lied(
                "it does not show a pinned receipt key", "receipt-key"
            )
        return self._known


class Tries:
    """How often our jobs came back as new ones there; the oldest are forgotten."""

    def __init__(self) -> None:
        """Know of none."""
        self._tries: dict[str, int] = {}

    def key(self, job_id: str) -> str:
        """Return the idempotency key of a job of ours."""
        again = self._tries.get(job_id)
        return f"{job_id}.{again}" if again else job_id

    def again(self, job_id: str) -> None:
        """Have the next try be another job there."""
        self._tries[job_id] = self._tries.pop(job_id, 0) + 1
        if len(self._tries) > _MOST_TRIES:
            del self._tries[next(iter(self._tries))]

    def over(self, job_id: str) -> None:
        """Forget a job: it has succeeded."""
        self._tries.pop(job_id, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all jobs at one peer share.

    Attributes:
        peer: What the operator says of it.
        link: The connection.
        keys: Its receipt keys.
        gateway: Key id of this gateway, for the way a job came.
        time_limit_s: How long a job of a mode may stay there, if the peer has no own.
        max_answer_bytes: Of an output, and of evidence.
        simulated: Whether enclaves that prove nothing are what jobs here get.
        loaded: Digests of evaluation keys that are there.
    """

    peer: Peer
    link: Link
    keys: PinnedKeys
    gateway: str
    time_limit_s: Callable[[Mode], float]
    max_answer_bytes: int
    simulated: bool
    tries: Tries = field(default_factory=Tries)
    loaded: set[str] = field(default_factory=set)

    def limit_s(self, mode: Mode) -> float:
        """Return how long a job may stay there."""
        return self.peer.time_limit_s or self.time_limit_s(mode)


def offered(link: Link, reply: Reply) -> Offered:
    """Return the modes that a peer offers, by a model's name and digest.

    Raises:
        PeerLiedError: It is no list of models.
    """
    try:
        entries = reply.objects("models")
    except UnavailableError as exc:
        raise link.lied("its list of models is none", "answer") from exc
    found: Offered = {}
    for entry in entries:
        modes: Any = entry.get("modes")
        if isinstance(modes, dict):
            key = (str(entry.get("name")), str(entry.get("model_sha256")))
            found[key] = {str(m) for m, has in modes.items() if has is True}
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
