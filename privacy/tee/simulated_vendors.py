"""Simulated AMD, AWS and NVIDIA: evidence in the vendors' formats, under fresh roots.

Every object makes its own roots and the trust store that accepts them, so what it emits
proves nothing to anybody else. Fields can be overridden before they are signed, which
makes every semantic defect available properly signed.
"""

import secrets
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from privacy.tee import der
from privacy.tee.cbor import encode_head
from privacy.tee.nitro import PROTECTED
from privacy.tee.nvidia import REQUEST_HEAD, RESPONSE_HEAD
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_x509 import issue
from privacy.tee.trust import SimulatedTrustStore

__all__ = ["SimulatedAmd", "SimulatedAws", "SimulatedNvidia", "issue"]


class SimulatedAws:
    """A Nitro hypervisor with its own root; its leaf lives three hours."""

    def __init__(self, *, now: datetime) -> None:
        """Make root, intermediate and leaf."""
        self.now = now.replace(microsecond=0)
        self.root = issue("simulated.nitro-enclaves", ca=True)
        self.ca = issue("simulated.zone", self.root, ca=True)
        valid = self.now - timedelta(seconds=3), self.now + timedelta(hours=3)
        self.leaf = issue("i-simulated-enc0", self.ca, valid=valid)

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this hypervisor and nothing else."""
        return SimulatedTrustStore(intel=b"", aws=self.root.der)

    def document(
        self, *, members: Mapping[str, Any] | None = None, tagged: bool = False
    ) -> bytes:
        """Return a document; `members` overrides the payload's, None leaves one out."""
        value = {
            "module_id": "i-simulated-enc0",
            "digest": "SHA384",
            "timestamp": int(self.now.timestamp() * 1000),
            "pcrs": {i: bytes([i + 1]) * 48 for i in range(5)},
            "certificate": self.leaf.der,
            "cabundle": [self.root.der, self.ca.der],
            **(members or {}),
        }
        payload = _cbor({k: v for k, v in value.items() if v is not None})
        signed = _cbor(["Signature1", PROTECTED, b"", payload])
        signature = b"".join(n.to_bytes(48, "big") for n in self.leaf.sign(signed))
        message = _cbor([PROTECTED, {}, payload, signature])
        return b"\xd2" + message if tagged else message


def _cbor(value: Any) -> bytes:
    match value:
        case int():
            return encode_head(0, value)
        case bytes():
            return encode_head(2, len(value)) + value
        case str():
            return encode_head(3, len(value.encode())) + value.encode()
        case list():
            return encode_head(4, len(value)) + b"".join(map(_cbor, value))
        case _:
            pairs = (_cbor(k) + _cbor(v) for k, v in value.items())
            return encode_head(5, len(value)) + b"".join(pairs)


class SimulatedNvidia:
    """A GPU with its own root."""

    def __init__(self) -> None:
        """Make root, intermediates and leaf."""
        self.fwid = secrets.token_bytes(48)
        self.root = issue("SIMULATED Device Identity CA", ca=True)
        self.ca = issue("SIMULATED GH100 Identity", self.root, ca=True)
        extensions = {"2.23.133.5.4.1": bytes([der.OCTETS, 48]) + self.fwid}
        self.leaf = issue("GH100 SIMULATED", self.ca, extensions=extensions)

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this GPU and nothing else."""
        return SimulatedTrustStore(intel=b"", nvidia=self.root.der)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates that come beside a report: leaf first, root last."""
        return self.leaf.der, self.ca.der, self.root.der

    def report(
        self,
        nonce: bytes,
        measurements: Sequence[bytes],
        *,
        opaque: Mapping[int, bytes] | None = None,
    ) -> bytes:
        """Return a report; `opaque` overrides what the device says of itself."""
        record = b"".join(
            struct.pack("<BBHBH", i, 1, 3 + len(m), 1, len(m)) + m
            for i, m in enumerate(measurements, start=1)
        )
        fields = {3: b"550.90.07\0", 20: self.fwid} | dict(opaque or {})
        data = b"".join(
            struct.pack("<HH", kind, len(v)) + v for kind, v in fields.items()
        )
        signed = REQUEST_HEAD + nonce + bytes(1) + RESPONSE_HEAD + bytes(2)
        signed += bytes([len(measurements)]) + len(record).to_bytes(3, "little")
        signed += record + secrets.token_bytes(32) + struct.pack("<H", len(data)) + data
        return signed + b"".join(n.to_bytes(48, "big") for n in self.leaf.sign(signed))
