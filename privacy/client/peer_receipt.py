"""The receipt of the other operator's gateway that ran a job, chained into ours.

Our gateway's receipt names it by digest, so our gateway vouches that it saw it. Whether
the peer vouches too shows its signature, for whoever knows its key.
"""

from collections.abc import Mapping
from typing import Any

from privacy.encoding import sha256_hex
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.modes import Mode
from privacy.receipt import Receipt, parse_receipt, verify_receipt

PEER_FILE = "peer-receipt.json"
_SAME = (
    "model",
    "version",
    "model_sha256",
    "mode",
    "status",
    "input_sha256",
    "keys_sha256",
    "output_sha256",
    "evidence_kind",
    "evidence_sha256",
    "simulated",
)


def check_peer_receipt(raw: bytes, receipt: Receipt) -> Receipt:
    """Return a peer's receipt if it is the one that ours names, of the same work.

    Its signature is not checked; see `check_peer_signature`.

    Raises:
        VerificationError: It is not.
    """
    if sha256_hex(raw) != receipt.peer_receipt_sha256:
        msg = "the peer's receipt is not the one that the gateway's receipt names"
        raise VerificationError(msg, code="peer-receipt")
    try:
        theirs, _ = parse_receipt(raw)
    except FormatError as exc:
        raise VerificationError(exc.message, code="peer-receipt") from exc
    for name in _SAME:
        if getattr(theirs, name) != getattr(receipt, name):
            msg = f"the gateway's and the peer's receipt differ in {name}"
            raise VerificationError(msg, code="peer-receipt")
    return theirs


def check_peer_signature(raw: bytes, trusted: Mapping[str, Any]) -> bool:
    """Return whether a peer's receipt is signed by a key that is trusted here.

    Raises:
        VerificationError: It claims to be, and is not.
    """
    try:
        verify_receipt(raw, dict(trusted))
    except CannotVerifyError:
        return False
    return True


def peer_caveats(receipt: Receipt) -> tuple[str, ...]:
    """Return what it means that another operator's gateway ran the job, if one did."""
    if not receipt.peer_receipt_sha256:
        return ()
    saw = " and read the input in the clear" if receipt.mode == Mode.ZKML else ""
    return (f"{receipt.node}, another operator's gateway, ran this job{saw}",)


def peer_of(receipt: Receipt) -> str:
    """Return the name of the peer that ran a job, "" if none did."""
    return receipt.node if receipt.peer_receipt_sha256 else ""
