"""How a node of ours says in Ray what it is: labels, and a resource for each mode."""

from privacy import __version__
from privacy.encoding import Json
from privacy.modes import Mode

NODE_RESOURCE = "privacy-node"
"""Each node has one; its actor takes it, so that there is one actor."""
_MODE = "privacy-"
_NAME, _VERSION, _MEMORY = "privacy-name", "privacy-version", "privacy-memory-mib"
_EVIDENCE = "privacy-evidence"


def labels(*, name: str, memory_bytes: int, evidence: str) -> dict[str, str]:
    """Return a node's labels.

    Args:
        name: As receipts give it.
        memory_bytes: What proofs may take there together.
        evidence: What vouches for its enclaves.
    """
    return {
        _NAME: name,
        _VERSION: __version__,
        _MEMORY: str(memory_bytes >> 20),
        _EVIDENCE: evidence,
    }


def resources(places: dict[Mode, int]) -> dict[str, float]:
    """Return a node's resources; a mode's is how many jobs it runs at once."""
    modes = {f"{_MODE}{mode.replace('+', '-')}": n for mode, n in places.items()}
    return {NODE_RESOURCE: 1, **modes}


def node_view(raw: Json) -> Json | None:
    """Return a node of `ray.nodes()` in our words, None if it is none of ours."""
    has, said = raw["Resources"], raw.get("Labels", {})
    if not raw["Alive"] or NODE_RESOURCE not in has or _NAME not in said:
        return None
    places = {mode: has.get(f"{_MODE}{mode.replace('+', '-')}", 0) for mode in Mode}
    return {
        "id": raw["NodeID"],
        "name": said[_NAME],
        "version": said.get(_VERSION, ""),
        "enclave_evidence": said.get(_EVIDENCE, ""),
        "memory_of_jobs": int(said.get(_MEMORY, 0)) << 20,
        "memory_bytes": int(has.get("memory", 0)),
        "cpus": int(has.get("CPU", 0)),
        "gpus": int(has.get("GPU", 0)),
        "modes": {str(mode): int(n) for mode, n in places.items() if n},
    }
