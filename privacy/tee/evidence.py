"""What an enclave shows of itself, and what it signs for a job: canonical JSON.

    evidence        version, format, quote, hpke_public_keys, signing_public_key,
                    chain_public_key, nonce, model_sha256, event_log, device_evidence
    job evidence    the same, with statement and signature

`hpke_public_keys` holds a key for every key encapsulation that the enclave has, by its
name: all are vouched for, so nobody on the way can take the better one out.

`chain_public_key` (secp256k1) signs answers for contracts; it is empty unless the
enclave itself found the manifest that `model_sha256` is the digest of. Without it,
`model_sha256` is a label that the node gave the enclave, and what is attested of the
model is its own digest, in RTMR2.

`event_log` is what the enclave did since its start; see `privacy.tee.runtime_log`.
`device_evidence` is the reports of its devices as `privacy.tee.composite` writes them,
empty if it has none; the quote then vouches for them, too.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
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
    sha256_hex,
)
from privacy.errors import FormatError, VerificationError
from privacy.tee.composite import bound_report_data, parse_devices
from privacy.tee.kem import KemPublicKey
from privacy.tee.parse import Measurements
from privacy.tee.runtime_log import RuntimeEvent, parse_events, register_of

VERSION = 3
NONCE_BYTES = 32
JOB_BYTES = 32
CHAIN_KEY_BYTES = 64
STATEMENT_DOMAIN = "privacy-compute/tee/statement/2"

_REPORT_DATA_DOMAIN = b"privacy-compute/tee/report-data/3"
_SIGNING_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MAX_BYTES = 1 << 20
_SHOWN = {
    "version",
    "format",
    "quote",
    "hpke_public_keys",
    "signing_public_key",
    "chain_public_key",
    "nonce",
    "model_sha256",
    "event_log",
    "device_evidence",
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


@dataclass(frozen=True, slots=True)
class Statement:
    """What the enclave signs about one job; digests are SHA-256 in hex.

    Attributes:
        job: The data owner's name for the job, from the sealed input.
        proof_sha256: Of the proofs inside the answer; empty if it has none.
    """

    model_sha256: str
    nonce: bytes
    job: bytes
    input_sha256: str
    output_sha256: str
    simulated: bool
    proof_sha256: str = ""

    def as_dict(self) -> Json:
        """Return the statement as it is signed."""
        return {
            "domain": STATEMENT_DOMAIN,
            "model_sha256": self.model_sha256,
            "nonce": b64url(self.nonce),
            "job": b64url(self.job),
            "input_sha256": self.input_sha256,
            "output_sha256": self.output_sha256,
            "proof_sha256": self.proof_sha256,
            "simulated": self.simulated,
        }

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the enclave's signature."""
        return key.sign(canonical_json(self.as_dict()))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence as it travels; nothing in it is verified.

    Attributes:
        hpke_public_keys: Inputs are sealed to one of them; by name of encapsulation.
        signing_public_key: Ed25519; signs the statement.
        chain_public_key: secp256k1, x and y; signs answers for contracts. Empty if
            this enclave makes none.
        event_log: What happened in the enclave, in order.
        device_evidence: Of its devices; empty if it has none.
        statement: About one job; None before one was run.
        signature: Over the statement; empty if there is none.
    """

    format: str
    quote: bytes
    hpke_public_keys: tuple[KemPublicKey, ...]
    signing_public_key: bytes
    nonce: bytes
    model_sha256: str
    chain_public_key: bytes = b""
    event_log: tuple[RuntimeEvent, ...] = ()
    device_evidence: bytes = b""
    statement: Statement | None = None
    signature: bytes = b""

    @property
    def keys_sha256(self) -> str:
        """The digest of all public keys."""
        return _digest_of_keys(
            self.hpke_public_keys, self.signing_public_key, self.chain_public_key
        )

    def start(
        self, measured: Measurements, circuit_sha256: str = ""
    ) -> dict[str, dict[str, str]]:
        """Return what the event log must tell of the enclave's start, by event.

        Args:
            measured: The enclave's registers.
            circuit_sha256: Of the circuit that it proves with, if it proves.
        """
        registers = measured.as_dict()
        model = {
            "model_sha256": self.model_sha256,
            "file_sha384": registers["rtmr2"],
        }
        return {
            "measured": {name: registers[name] for name in ("mrtd", "rtmr0", "rtmr1")},
            "keys": {"sha256": self.keys_sha256},
            "model": model,
            **({"circuit": {"sha256": circuit_sha256}} if circuit_sha256 else {}),
        }

    @property
    def bound(self) -> bytes:
        """What the enclave vouches for beside its devices, 64 bytes.

        Every part has a fixed length. The log is in it for formats without registers
        that are extended at run time.
        """
        parts = (
            _REPORT_DATA_DOMAIN,
            check_nonce(self.nonce),
            bytes.fromhex(self.keys_sha256),
            bytes.fromhex(check_sha256(self.model_sha256)),
            register_of(self.event_log),
        )
        return hashlib.sha512(b"".join(parts)).digest()

    @property
    def report_data(self) -> bytes:
        """What a quote over all this must vouch for, 64 bytes."""
        if not self.device_evidence:
            return self.bound
        devices = parse_devices(self.device_evidence)
        return bound_report_data(self.bound, [device.report for device in devices])

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        shown = canonical_json(self._as_dict())
        if self.statement is None:
            return shown
        return with_job(shown, self.statement, self.signature)

    def _as_dict(self) -> Json:
        return {
            "version": VERSION,
            "format": self.format,
            "quote": b64url(self.quote),
            "hpke_public_keys": _keys(self.hpke_public_keys),
            "signing_public_key": b64url(self.signing_public_key),
            "chain_public_key": b64url(self.chain_public_key),
            "nonce": b64url(self.nonce),
            "model_sha256": self.model_sha256,
            "event_log": [event.as_dict() for event in self.event_log],
            "device_evidence": b64url(self.device_evidence),
        }

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


def with_job(shown: bytes, statement: Statement, signature: bytes) -> bytes:
    """Return the canonical encoding of evidence, with a statement about a job added.

    Args:
        shown: The canonical encoding without one: an enclave makes it once, and adds
            every job's statement to it.
        statement: About the job.
        signature: The enclave's, over the statement.
    """
    job = (
        b'"signature":' + canonical_json(b64url(signature)) + b",",
        b'"statement":' + canonical_json(statement.as_dict()) + b",",
    )
    # In order of their names; behind these two is one key and one number.
    at = shown.rindex(b'"signing_public_key":')
    then = shown.rindex(b'"version":')
    return b"".join((shown[:at], job[0], shown[at:then], job[1], shown[then:]))


def parse_evidence(raw: bytes) -> Evidence:
    """Return evidence, of a job or not, taken apart.

    Raises:
        FormatError: Not canonical JSON with exactly the members of evidence.
    """
    value = parse_canonical(raw, what="evidence", limit=_MAX_BYTES)
    if value.get("version") != VERSION:
        msg = (
            f"the evidence has version {str(value.get('version'))[:20]}, expected "
            f"{VERSION}: update the older of this software and the node's"
        )
        raise FormatError(msg, code="evidence-version")
    if set(value) not in (_SHOWN, _SHOWN | _JOB):
        odd = ", ".join(sorted(set(value) ^ _SHOWN))[:200]
        raise FormatError(f"the evidence lacks or adds members: {odd}")
    shown = Evidence(
        format=_text(value, "format"),
        quote=_bytes(value, "quote"),
        hpke_public_keys=_hpke_keys(value["hpke_public_keys"]),
        signing_public_key=_bytes(value, "signing_public_key", _SIGNING_KEY_BYTES),
        chain_public_key=_chain_key(value),
        nonce=check_nonce(_bytes(value, "nonce")),
        model_sha256=check_sha256(_text(value, "model_sha256")),
        event_log=parse_events(value["event_log"]),
        device_evidence=_devices(value),
    )
    if "statement" not in value:
        return shown
    return replace(
        shown,
        statement=_parse_statement(value["statement"]),
        signature=_bytes(value, "signature", _SIGNATURE_BYTES),
    )


@functools.lru_cache(maxsize=16)  # an enclave's own do not change
def _digest_of_keys(
    hpke: tuple[KemPublicKey, ...], signing: bytes, chain: bytes
) -> str:
    keys = {"hpke": _keys(hpke), "signing": b64url(signing), "chain": b64url(chain)}
    return sha256_hex(canonical_json(keys))


def _keys(keys: tuple[KemPublicKey, ...]) -> Json:
    return {key.kem: b64url(key.raw) for key in keys}


def _hpke_keys(value: Any) -> tuple[KemPublicKey, ...]:
    if not isinstance(value, dict) or not value:
        raise FormatError("the evidence shows no key to seal to")
    return tuple(KemPublicKey(kem, _bytes(value, kem)) for kem in value)


def _devices(value: Json) -> bytes:
    raw = _bytes(value, "device_evidence")
    if raw:
        parse_devices(raw)
    return raw


def _chain_key(value: Json) -> bytes:
    if value.get("chain_public_key") == "":
        return b""
    return _bytes(value, "chain_public_key", CHAIN_KEY_BYTES)


def _parse_statement(value: Any) -> Statement:
    if not isinstance(value, dict) or value.get("domain") != STATEMENT_DOMAIN:
        raise FormatError("the evidence's statement is not one about a job")
    if not isinstance(value.get("simulated"), bool):
        raise FormatError("the statement's simulated is neither true nor false")
    proof_sha256 = _text(value, "proof_sha256")
    statement = Statement(
        model_sha256=check_sha256(_text(value, "model_sha256")),
        nonce=check_nonce(_bytes(value, "nonce")),
        job=_bytes(value, "job", JOB_BYTES),
        input_sha256=check_sha256(_text(value, "input_sha256")),
        output_sha256=check_sha256(_text(value, "output_sha256")),
        simulated=value["simulated"],
        proof_sha256=check_sha256(proof_sha256) if proof_sha256 else "",
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
