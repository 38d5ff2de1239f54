"""Simulated AMD, AWS and NVIDIA: evidence in the vendors' formats, under fresh roots.

Every object makes its own roots and the trust store that accepts them, so what it emits
proves nothing to anybody else. Fields can be overridden before they are signed, which
makes every semantic defect available properly signed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from privacy.tee.cbor import encode_head
from privacy.tee.nitro import PROTECTED
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_x509 import issue, known_key
from privacy.tee.trust import SimulatedTrustStore

__all__ = ["SimulatedAmd", "SimulatedAws", "SimulatedNvidia", "issue"]


class SimulatedAws:
    """A Nitro hypervisor with its own root; its leaf lives three hours."""

    def __init__(self, *, now: datetime, shipped: bool = False) -> None:
        """Make root, intermediate and leaf; the root is fresh unless `shipped`."""
        self.now = now.replace(microsecond=0)
        key = known_key("aws") if shipped else None
        self.root = issue("simulated.nitro-enclaves", key=key, ca=True)
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
