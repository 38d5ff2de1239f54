"""The way a job came: through which gateways, so that none sends it in a circle.

The job option `via` lists, first come first, `{"gateway": KEY_ID, "job": JOB_ID}`: who
passed the job on, and its name there. Every receipt repeats it, signed.
"""

from collections.abc import Collection

from privacy.encoding import Json
from privacy.errors import FormatError

VIA, PEERS = "via", "peers"
_MAX_HOPS = 8
_MAX_TEXT = 100


def check_options(options: Json) -> None:
    """Refuse options about peers that are not as they must be.

    Raises:
        FormatError: They are not.
    """
    hops = options.get(VIA, [])
    is_list = isinstance(hops, list) and len(hops) <= _MAX_HOPS
    if not is_list or not all(_is_hop(hop) for hop in hops):
        msg = f"option {VIA} lists at most {_MAX_HOPS} gateways that passed the job on"
        raise FormatError(msg, code="bad-options")
    if options.get(PEERS, "allowed") not in {"allowed", "never"}:
        msg = f"option {PEERS} is allowed or never"
        raise FormatError(msg, code="bad-options")


def may_go_on(options: Json, *, own: Collection[str], max_hops: int) -> bool:
    """Whether a job may be given to a peer.

    Args:
        options: The job's.
        own: Key ids of this gateway: what came through it already stays.
        max_hops: How many gateways a job may be passed on by.
    """
    hops = options.get(VIA, [])
    came_by = {hop["gateway"] for hop in hops}
    never = options.get(PEERS) == "never"
    return not never and len(hops) < max_hops and not came_by & set(own)


def passed_on(options: Json, *, gateway: str, job_id: str) -> Json:
    """Return the options for the next gateway."""
    hop = {"gateway": gateway, "job": job_id}
    return {**options, VIA: [*options.get(VIA, []), hop]}


def _is_hop(hop: object) -> bool:
    return (
        isinstance(hop, dict)
        and set(hop) == {"gateway", "job"}
        and all(isinstance(v, str) and len(v) <= _MAX_TEXT for v in hop.values())
    )
