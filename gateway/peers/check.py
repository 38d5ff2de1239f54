"""What a peer's receipt must say before its answer is taken as ours."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.peers.link import PeerLiedError
from privacy.client.offline import check_sound
from privacy.encoding import Json, canonical_json
from privacy.errors import PrivacyError
from privacy.key_history import ReceiptKey, check_counts, public_keys
from privacy.receipt import Receipt, parse_receipt, verify_receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a peer was asked; its receipt has to repeat every word of it.

    Attributes:
        job_id: As the peer named the job.
        options: With the way the job came, which names our own job: no receipt of
            another job fits.
    """

    job_id: str
    model: str
    version: str
    model_sha256: str
    mode: str
    input_sha256: str
    keys_sha256: str
    options: Json


def check_receipt(
    raw: bytes,
    asked: Asked,
    *,
    status: str,
    keys: Mapping[str, ReceiptKey],
    allow_forwarding: bool,
) -> Receipt:
    """Return a peer's receipt if it is of the job that it was asked to run.

    Args:
        raw: The receipt file.
        asked: What was asked.
        status: As the peer told it: `succeeded` or `failed`.
        keys: The pinned receipt keys and their successors, by id.
        allow_forwarding: It may have had the job run by a peer of its own.

    Raises:
        PeerLiedError: It is not.
    """
    try:
        receipt = check_sound(verify_receipt(raw, public_keys(keys)))
        signer = keys[parse_receipt(raw)[1]]
        check_counts(signer, finished_at=receipt.finished_at)
    except PrivacyError as exc:
        raise PeerLiedError(exc.message, code="peer-receipt") from exc
    wanted = {
        "job_id": asked.job_id,
        "model": asked.model,
        "version": asked.version,
        "model_sha256": asked.model_sha256,
        "mode": asked.mode,
        "status": status,
        "input_sha256": asked.input_sha256,
        "keys_sha256": asked.keys_sha256,
    }
    for name, expected in wanted.items():
        if getattr(receipt, name) != expected:
            msg = f"the receipt's {name} is not that of the job that it was asked"
            raise PeerLiedError(msg, code="peer-receipt")
    if canonical_json(receipt.options) != canonical_json(asked.options):
        msg = "the receipt's options are not those of the job that it was asked"
        raise PeerLiedError(msg, code="peer-receipt")
    if receipt.peer_receipt_sha256 and not allow_forwarding:
        msg = "it had the job run by another gateway, which is not allowed here"
        raise PeerLiedError(msg, code="peer-forwarded")
    return receipt
