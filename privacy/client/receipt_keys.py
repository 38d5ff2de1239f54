"""A gateway's receipt keys: pinned when first seen, followed through its rotations."""

from privacy.client.home import Home
from privacy.client.wire import Call, Flow, Reply
from privacy.clock import later, now
from privacy.key_history import ReceiptKey

_FRESH_S = 86400.0


def gateway_keys(
    home: Home, gateway: str, *, signer: str = ""
) -> Flow[dict[str, ReceiptKey]]:
    """Return a gateway's receipt keys: the pinned ones, and their successors.

    Args:
        home: Where they are pinned.
        gateway: Its address.
        signer: Id of a key that is needed; if it is not among the pinned ones, or they
            were last looked at a day ago, the gateway is asked.

    Raises:
        CannotVerifyError: It has other keys, which the pinned ones do not vouch for.
        VerificationError: It tells another history than before.
    """
    pinned = home.pins(gateway)
    seen = str(pinned.get("keys_seen_at", ""))
    known = home.receipt_keys(gateway) if pinned.get("keys") else {}
    is_fresh = bool(seen) and later(seen, _FRESH_S) > now()
    if known and is_fresh and signer in {"", *known}:
        return known
    return (yield from renewed_keys(home, gateway))


def renewed_keys(home: Home, gateway: str) -> Flow[dict[str, ReceiptKey]]:
    """Return a gateway's receipt keys as it serves them now; see `gateway_keys`."""
    reply: Reply = yield Call("GET", "/.well-known/jwks.json")
    home.renew_keys(gateway, reply.object("key set"))
    return home.receipt_keys(gateway)
