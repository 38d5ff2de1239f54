"""The signed record of a finished job, checkable by anyone, offline.

A receipt file is canonical JSON (RFC 8785) with two members: `receipt`, readable, and
`jws`, a detached EdDSA signature (RFC 7515 appendix F, Ed25519) over the canonical
encoding of `receipt`. Changing any byte of the file breaks it.

There are two formats. The second has members that the first lacks, and is written where
one of them says something: so receipts of the first stay what they were, byte by byte.
"""

from dataclasses import asdict, dataclass, fields

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.encoding import Json, b64url, canonical_json, parse_canonical
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import key_id, matches, signed_bytes, split_detached

FORMAT = "privacy-compute/receipt/1"
FORMAT_2 = "privacy-compute/receipt/2"
_NEW = ("peer_receipt_sha256",)
"""Members of the second format; empty in the first."""
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was run, on what, where and when; digests are SHA-256 in hex.

    Attributes:
        status: `succeeded`, `failed` or `cancelled`.
        problem: The problem's code if it did not succeed, else empty.
        input_sha256: Commitment to the input as uploaded: a ciphertext, a sealed
            message, or clear rows with the client's random salt.
        keys_sha256: The FHE evaluation keys used, else empty.
        output_sha256: Commitment to the output as downloaded; empty if none.
        evidence_sha256: The proof or attestation; empty if the mode has none.
        node: The node's name.
        simulated: The enclave was simulated: its evidence proves nothing.
        options: What was relaxed or chosen for this job.
        submitted_at: RFC 3339, UTC, as are `started_at` and `finished_at`.
        peer_receipt_sha256: The receipt of the other operator's gateway that ran the
            job (a peer); empty if none did.
    """

    job_id: str
    model: str
    version: str
    model_sha256: str
    mode: str
    status: str
    problem: str
    input_sha256: str
    keys_sha256: str
    output_sha256: str
    evidence_kind: str
    evidence_sha256: str
    node: str
    simulated: bool
    options: Json
    submitted_at: str
    started_at: str
    finished_at: str
    peer_receipt_sha256: str = ""


def sign_receipt(receipt: Receipt, signing_key: Ed25519PrivateKey) -> bytes:
    """Return the receipt file."""
    body = asdict(receipt)
    if not any(body[name] for name in _NEW):
        body = {name: value for name, value in body.items() if name not in _NEW}
    header = _header(key_id(signing_key.public_key()), body)
    signature = signing_key.sign(signed_bytes(header, canonical_json(body)))
    return canonical_json({"jws": f"{header}..{b64url(signature)}", "receipt": body})


def parse_receipt(raw: bytes) -> tuple[Receipt, str]:
    """Return the receipt in a file and the id of the key that should have signed it.

    Nothing is verified here; see `verify_receipt`.

    Raises:
        FormatError: Not a canonical receipt file.
    """
    body, header, _ = _split(raw)
    return _receipt(body), str(header.get("kid"))


def verify_receipt(raw: bytes, trusted: dict[str, Ed25519PublicKey]) -> Receipt:
    """Return the receipt in a file after checking its signature.

    Args:
        raw: The receipt file.
        trusted: Receipt keys by key id; the signer must be one of them.

    Raises:
        VerificationError: The file was changed or was signed by another key.
        CannotVerifyError: The signer's key is not among `trusted`.
    """
    try:
        body, header, signature = _split(raw)
        receipt = _receipt(body)
    except FormatError as exc:
        raise VerificationError(
            f"the receipt was changed: {exc}", code="receipt-changed"
        ) from exc
    kid = str(header.get("kid"))
    if b64url(canonical_json(header)) != _header(kid, body):
        msg = "the receipt's signature header is not one this project writes"
        raise VerificationError(msg, code="receipt-changed")
    public_key = trusted.get(kid)
    if public_key is None:
        if any(_matches(k, body, signature) for k in trusted.values()):
            msg = "the receipt's key id was changed after signing"
            raise VerificationError(msg, code="receipt-changed")
        msg = (
            f"the receipt is signed by key {kid[:16]}…, which is not trusted here: "
            "give the gateway's key set with --keys FILE"
        )
        raise CannotVerifyError(msg, code="unknown-receipt-key")
    if not _matches(public_key, body, signature):
        msg = "the receipt's signature does not match: it was changed after signing"
        raise VerificationError(msg, code="receipt-changed")
    return receipt


def _header(kid: str, body: Json) -> str:
    kind = FORMAT_2 if any(name in body for name in _NEW) else FORMAT
    return b64url(canonical_json({"alg": "EdDSA", "kid": kid, "typ": kind}))


def _matches(public_key: Ed25519PublicKey, body: Json, signature: bytes) -> bool:
    header = _header(key_id(public_key), body)
    return matches(public_key, signature, signed_bytes(header, canonical_json(body)))


def _split(raw: bytes) -> tuple[Json, Json, bytes]:
    value = parse_canonical(raw, what="receipt", limit=_MAX_BYTES)
    body, jws = value.get("receipt"), value.get("jws")
    if set(value) != {"jws", "receipt"} or not isinstance(body, dict):
        raise FormatError("a receipt has exactly the members jws and receipt")
    header, signature = split_detached(jws, what="the receipt's jws")
    return body, header, signature


def _receipt(body: Json) -> Receipt:
    names = {f.name for f in fields(Receipt)}
    if not any(body.get(name) for name in _NEW):
        names -= set(_NEW)
    if set(body) != names:
        odd = sorted(set(body) ^ names)
        raise FormatError(f"the receipt lacks or adds members: {', '.join(odd)[:200]}")
    types = {"simulated": bool, "options": dict}
    for name, value in body.items():
        if not isinstance(value, types.get(name, str)):
            raise FormatError(f"the receipt's {name} is a {type(value).__name__}")
    return Receipt(**body)
