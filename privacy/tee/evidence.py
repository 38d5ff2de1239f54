"""What an enclave shows of itself, and what it signs for a job: canonical JSON.

    evidence        format, quote, hpke_public_key, signing_public_key,
                    chain_public_key, nonce, model_sha256
    job evidence    the same, with statement and signature

`chain_public_key` (secp256k1) signs answers for contracts; it is empty unless the
enclave itself found the manifest that `model_sha256` is the digest of. Without it,
`model_sha256` is a label that the node gave the enclave, and what is attested of the
model is its own digest, in RTMR2.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    check_sha256,
    parse_canonical,
)
from privacy.errors import FormatError, VerificationError

NONCE_BYTES = 32
KEY_BYTES = 32
CHAIN_KEY_BYTES = 64
STATEMENT_DOMAIN = "privacy-compute/tee/statement/1"

_REPORT_DATA_DOMAIN = b"privacy-compute/tee/report-data/2"
_MAX_BYTES = 1 << 17
_SHOWN = {
    "format",
    "quote",
    "hpke_public_key",
    "signing_public_key",
    "chain_public_key",
    "nonce",
    "model_sha256",
}
_JOB = {"statement", "signature"}


def check_nonce(nonce: bytes) -> bytes:
    """Return `nonce` if it is 32 bytes.

    Raises:
        FormatError: It is not.
    """
    if len(nonce) != NONCE_BYTES:
        msg = f"the nonce has {len(nonce)} bytes, expected {NONCE_BYTES} random ones"
        raise FormatError(msg, code="bad-nonce")
    return nonce


def report_data(
    nonce: bytes,
    hpke_public_key: bytes,
    signing_key: bytes,
    chain_key: bytes,
    model_sha256: str,
) -> bytes:
    """Return what the quote must vouch for, 64 bytes.

    Every part has a fixed length; no chain key counts as one of zeros.
    """
    parts = (
        _REPORT_DATA_DOMAIN,
        check_nonce(nonce),
        hpke_public_key,
        signing_key,
        chain_key or bytes(CHAIN_KEY_BYTES),
        bytes.fromhex(check_sha256(model_sha256)),
    )
    return hashlib.sha512(b"".join(parts)).digest()


@dataclass(frozen=True, slots=True)
class Statement:
    """What the enclave signs about one job; digests are SHA-256 in hex."""

    model_sha256: str
    nonce: bytes
    input_sha256: str
    output_sha256: str
    simulated: bool

    def as_dict(self) -> Json:
        """Return the statement as it is signed."""
        return {
            "domain": STATEMENT_DOMAIN,
            "model_sha256": self.model_sha256,
            "nonce": b64url(self.nonce),
            "input_sha256": self.input_sha256,
            "output_sha256": self.output_sha256,
            "simulated": self.simulated,
        }

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the enclave's signature."""
        return key.sign(canonical_json(self.as_dict()))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence as it travels; nothing in it is verified.

    Attributes:
        hpke_public_key: X25519; inputs are sealed to it.
        signing_public_key: Ed25519; signs the statement.
        chain_public_key: secp256k1, x and y; signs answers for contracts. Empty if
            this enclave makes none.
        statement: About one job; None before one was run.
        signature: Over the statement; empty if there is none.
    """

    format: str
    quote: bytes
    hpke_public_key: bytes
    signing_public_key: bytes
    nonce: bytes
    model_sha256: str
    chain_public_key: bytes = b""
    statement: Statement | None = None
    signature: bytes = b""

    @property
    def report_data(self) -> bytes:
        """What a quote over these keys, nonce and model must vouch for."""
        return report_data(
            self.nonce,
            self.hpke_public_key,
            self.signing_public_key,
            self.chain_public_key,
            self.model_sha256,
        )

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        value: Json = {
            "format": self.format,
            "quote": b64url(self.quote),
            "hpke_public_key": b64url(self.hpke_public_key),
            "signing_public_key": b64url(self.signing_public_key),
            "chain_public_key": b64url(self.chain_public_key),
            "nonce": b64url(self.nonce),
            "model_sha256": self.model_sha256,
        }
        if self.statement is not None:
            value["statement"] = self.statement.as_dict()
            value["signature"] = b64url(self.signature)
        return canonical_json(value)

    def check_signature(self, statement: Statement) -> None:
        """Check that the enclave signed `statement` and nothing else.

        Raises:
            VerificationError: It signed another one, or none.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(self.signing_public_key)
            key.verify(self.signature, canonical_json(statement.as_dict()))
        except (ValueError, InvalidSignature) as exc:
            msg = "the enclave did not sign the statement about this job"
            raise VerificationError(msg, code="statement-signature") from exc


def parse_evidence(raw: bytes) -> Evidence:
    """Return evidence, of a job or not, taken apart.

    Raises:
        FormatError: Not canonical JSON with exactly the members of evidence.
    """
    value = parse_canonical(raw, what="evidence", limit=_MAX_BYTES)
    if set(value) not in (_SHOWN, _SHOWN | _JOB):
        odd = ", ".join(sorted(set(value) ^ _SHOWN))[:200]
        raise FormatError(f"the evidence lacks or adds members: {odd}")
    shown = {
        "format": _text(value, "format"),
        "quote": _bytes(value, "quote"),
        "hpke_public_key": _bytes(value, "hpke_public_key", KEY_BYTES),
        "signing_public_key": _bytes(value, "signing_public_key", KEY_BYTES),
        "chain_public_key": _chain_key(value),
        "nonce": check_nonce(_bytes(value, "nonce")),
        "model_sha256": check_sha256(_text(value, "model_sha256")),
    }
    if "statement" not in value:
        return Evidence(**shown)  # type: ignore[arg-type]
    statement = _parse_statement(value["statement"])
    signature = _bytes(value, "signature", 64)
    return Evidence(**shown, statement=statement, signature=signature)  # type: ignore[arg-type]


def _chain_key(value: Json) -> bytes:
    if value.get("chain_public_key") == "":
        return b""
    return _bytes(value, "chain_public_key", CHAIN_KEY_BYTES)


def _parse_statement(value: Any) -> Statement:
    if not isinstance(value, dict) or value.get("domain") != STATEMENT_DOMAIN:
        raise FormatError("the evidence's statement is not one about a job")
    if not isinstance(value.get("simulated"), bool):
        raise FormatError("the statement's simulated is neither true nor false")
    statement = Statement(
        model_sha256=check_sha256(_text(value, "model_sha256")),
        nonce=check_nonce(_bytes(value, "nonce")),
        input_sha256=check_sha256(_text(value, "input_sha256")),
        output_sha256=check_sha256(_text(value, "output_sha256")),
        simulated=value["simulated"],
    )
    if statement.as_dict() != value:
        raise FormatError("the statement lacks or adds members")
    return statement


def _text(value: Json, name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise FormatError(f"the evidence's {name} is not a text")
    return text


def _bytes(value: Json, name: str, size: int | None = None) -> bytes:
    raw = b64url_decode(_text(value, name), what=f"the evidence's {name}")
    if size is not None and len(raw) != size:
        raise FormatError(f"the evidence's {name} has {len(raw)} bytes, not {size}")
    return raw
