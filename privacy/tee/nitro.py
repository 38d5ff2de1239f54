"""AWS Nitro attestation documents: COSE_Sign1 over CBOR, ES384. Pure.

    1. The certificates in the document chain to AWS's pinned root, at the given time
       and when the document was made; leaves live three hours.
    2. The leaf signed the document.

Revocation needs no look-up: leaves live three hours, and AWS tells verifiers to do
without lists. It names some for the CAs of a region and a zone; those that are given
are looked into (`privacy.tee.attest`).

Source: AWS Nitro Enclaves, attestation process; RFC 9052, section 4.4.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from privacy.encoding import Json
from privacy.errors import FormatError, VerificationError
from privacy.tee import cbor
from privacy.tee.chain import Rules, public_key, verify_chain
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.signature import check_raw_signature
from privacy.tee.trust import TrustStore, check_root

MAX_BYTES = 1 << 15
PROTECTED = bytes.fromhex("a1013822")  # {1: -35}, ES384
_RULES = Rules(
    names=("AWS root", "AWS certificate", "certificate of the enclave"),
    curve=ec.SECP384R1,
    digest=SHA384,
)
_REQUIRED = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"}
_OPTIONAL = {"public_key", "user_data", "nonce"}
_MAX_PCRS, _PCR_BYTES, _MAX_CHAIN = 32, 48, 8
_MAX_MILLISECONDS = 1 << 43  # the year 2248
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A document, taken apart; nothing in it is verified.

    Attributes:
        payload: What is signed.
        signature: ECDSA P-384, r and s, 96 bytes.
        module_id: Of the enclave.
        made_at: As the hypervisor says.
        pcrs: Platform configuration registers by number, 48 bytes each.
        certificates: DER, leaf first, root last.
    """

    payload: bytes
    signature: bytes
    module_id: str
    made_at: datetime
    pcrs: dict[int, bytes]
    certificates: tuple[bytes, ...]
    public_key: bytes
    user_data: bytes
    nonce: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers: the Sig_structure of COSE."""
        context = b"Signature1"
        return b"".join(
            [
                cbor.encode_head(4, 4),
                cbor.encode_head(3, len(context)) + context,
                cbor.encode_head(2, len(PROTECTED)) + PROTECTED,
                cbor.encode_head(2, 0),
                cbor.encode_head(2, len(self.payload)) + self.payload,
            ]
        )

    def as_dict(self) -> Json:
        """Return every field, JSON-ready, bytes in hex."""
        return {
            "module_id": self.module_id,
            "timestamp": self.made_at.isoformat(),
            "pcrs": {str(i): pcr.hex() for i, pcr in sorted(self.pcrs.items())},
            "public_key": self.public_key.hex(),
            "user_data": self.user_data.hex(),
            "nonce": self.nonce.hex(),
            "signature": self.signature.hex(),
        }


def parse_nitro_document(raw: bytes) -> NitroDocument:
    """Return a document taken apart.

    Raises:
        FormatError: Not such a document, or one with unknown members.
    """
    if len(raw) > MAX_BYTES:
        msg = f"the document has {len(raw)} bytes, at most {MAX_BYTES} are allowed"
        raise FormatError(msg, code="too-large")
    outer = cbor.decode(raw, what="Nitro document")
    match outer:
        case [bytes(protected), {**unprotected}, bytes(payload), bytes(signature)] if (
            protected == PROTECTED
            and not unprotected
            and len(signature) == 2 * _PCR_BYTES
        ):
            return _parse_payload(payload, signature)
    msg = "the Nitro document is not a COSE_Sign1 message signed with ES384"
    raise FormatError(msg, code="unsupported-document")


def _parse_payload(payload: bytes, signature: bytes) -> NitroDocument:
    value = cbor.decode(payload, what="Nitro payload")
    names = set(value) if isinstance(value, dict) else set()
    if not _REQUIRED <= names <= _REQUIRED | _OPTIONAL or value["digest"] != "SHA384":
        msg = "the Nitro payload lacks or adds members, or has another digest"
        raise FormatError(msg, code="unsupported-document")
    milliseconds = value["timestamp"]
    if type(milliseconds) is not int or not 0 < milliseconds < _MAX_MILLISECONDS:
        raise FormatError("the Nitro payload's timestamp is not a time")
    chain = [value["certificate"], *reversed(_list(value["cabundle"]))]
    return NitroDocument(
        payload=payload,
        signature=signature,
        module_id=_of(str, value["module_id"]),
        made_at=datetime.fromtimestamp(milliseconds / 1000, UTC),
        pcrs=_pcrs(value["pcrs"]),
        certificates=tuple(_of(bytes, der) for der in chain),
        **{name: _of(bytes, value.get(name) or b"") for name in sorted(_OPTIONAL)},
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_CHAIN:
        raise FormatError("the Nitro payload's cabundle is not a list of certificates")
    return value


def _pcrs(value: Any) -> dict[int, bytes]:
    registers = value if isinstance(value, dict) else {}
    right = all(
        type(i) is int
        and 0 <= i < _MAX_PCRS
        and isinstance(pcr, bytes)
        and len(pcr) == _PCR_BYTES
        for i, pcr in registers.items()
    )
    if not right or not {0, 1, 2} <= set(registers):
        raise FormatError("the Nitro payload's registers are not PCRs of 48 bytes")
    return registers


def _of(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise FormatError(f"a member of the Nitro payload is no {kind.__name__}")
    return value


def verify_nitro_document(
    document: NitroDocument,
    trust_store: TrustStore,
    *,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Return what a genuine document says.

    Raises:
        VerificationError: The document is not genuine.
    """
    with checks.step("root", f"a pinned {trust_store.kind} root"):
        check_root(document.certificates[-1], trust_store.aws)
    with checks.step("certificate-chain", f"AWS root to leaf at {now.isoformat()}"):
        chain = verify_chain(
            document.certificates, roots=[trust_store.aws], rules=_RULES, now=now
        )
    with checks.step("made-at", "within the leaf's time, and not in the future"):
        leaf, made_at = chain[0], document.made_at
        lived = leaf.not_valid_before_utc - _CLOCK_SKEW, leaf.not_valid_after_utc
        if not lived[0] <= made_at <= lived[1] or made_at > now + _CLOCK_SKEW:
            msg = f"the document says it was made at {made_at.isoformat()}"
            raise VerificationError(msg, code="made-at")
    with checks.step("document-signature", "signed by the leaf"):
        check_raw_signature(
            public_key(chain[0]),
            document.signature,
            document.signed_bytes,
            code="document-signature",
            what="the document was not signed by its certificate: it was changed",
        )
    return Claims(
        format="nitro",
        vendor="aws",
        simulated=trust_store.simulated,
        debug=not any(document.pcrs[0]),
        measurements={f"pcr{i}": p.hex() for i, p in sorted(document.pcrs.items())},
        report_data=document.user_data.hex(),
        nonce=document.nonce.hex(),
        hardware_id=document.module_id,
        made_at=made_at,
        chain=chain,
    )
