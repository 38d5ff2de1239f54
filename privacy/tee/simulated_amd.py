"""A simulated AMD processor: reports of every version and family, VCEK and VLEK."""

import secrets
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa

from privacy.tee import der
from privacy.tee.collateral import Collateral
from privacy.tee.simulated_x509 import (
    VALID,
    PrivateKey,
    Signer,
    issue,
    issue_crl,
    known_rsa_key,
)
from privacy.tee.snp import REPORT_BYTES, SIGNED_BYTES, VCEK, VLEK
from privacy.tee.snp_table import VCEK_ID, VLEK_ID, certificate_table
from privacy.tee.trust import AmdProduct, SimulatedTrustStore

_AMD = "1.3.6.1.4.1.3704.1"
_CPUIDS = {"Milan": (0x19, 1, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 2, 1)}
_TURIN = "Turin"
_TCB = {"3.1": 10, "3.2": 0, "3.3": 23, "3.8": 84}
_TCB_BYTES, _TURIN_TCB_BYTES = (
    bytes([10, *bytes(5), 23, 84]),
    bytes([1, 10, 0, 23, 0, 0, 0, 84]),
)
_NAMES_PRODUCT = 3


class SimulatedAmd:
    """A processor of a simulated family, with its own root.

    Attributes:
        leaf: VCEK or VLEK; replace it to lie.
    """

    def __init__(
        self,
        *,
        vlek: bool = False,
        product: str = "Genoa",
        version: int = 3,
        key: rsa.RSAPrivateKey | None = None,
        shipped: bool = False,
    ) -> None:
        """Make root, signing keys and the leaf; RSA keys take a moment.

        Args:
            vlek: Sign with a key lent to a cloud provider, not with the chip's.
            product: `Milan`, `Genoa` or `Turin`.
            version: Of the reports, 2, 3 or 5.
            key: RSA 4096, of its CAs; a fresh one by default.
            shipped: Under the simulated CAs that ship with this package (of `Genoa`),
                under which anyone can make processors, not under fresh ones.
        """
        if shipped:
            key = known_rsa_key()
        key = key or rsa.generate_private_key(65537, 4096)
        self.product, self.version = product, version
        self.turin = product == _TURIN
        self.tcb = _TURIN_TCB_BYTES if self.turin else _TCB_BYTES
        self.chip_id = secrets.token_bytes(8 if self.turin else 64).ljust(64, b"\0")
        self.signing_key = VLEK if vlek else VCEK
        name = f"Simulated{product}"
        self.ark = issue(f"ARK-{name}", key=key, ca=True)
        self.ask = issue(f"SEV-{name}", self.ark, key=key, ca=True)
        self.asvk = issue(f"SEV-VLEK-{name}", self.ark, key=key, ca=True)
        self.leaf = self.make_leaf()

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this family and nothing else."""
        name = f"Simulated{self.product}"
        product = AmdProduct(name, self.ask.der, self.ark.der, self.asvk.der)
        return SimulatedTrustStore(intel=b"", amd=(product,))

    def make_leaf(
        self, *, valid: tuple[datetime, datetime] = VALID, **extensions: bytes
    ) -> Signer:
        """Return a VCEK or VLEK; extensions by what follows AMD's OID, `_` for `.`."""
        versions = {"3.9": 1, **_TCB} if self.turin else _TCB
        values = {oid: bytes([der.INTEGER, 1, svn]) for oid, svn in versions.items()}
        if self.signing_key == VCEK:
            values["4"] = self.chip_id[: 8 if self.turin else 64]
        values |= {name.replace("_", "."): v for name, v in extensions.items()}
        issuer = self.asvk if self.signing_key == VLEK else self.ask
        named = {f"{_AMD}.{oid}": value for oid, value in values.items() if value}
        return issue("SEV-VCEK", issuer, bare=True, extensions=named, valid=valid)

    def collateral(
        self,
        now: datetime,
        *,
        revoked: Iterable[int] = (),
        crl_key: PrivateKey | None = None,
    ) -> Collateral:
        """Return the leaf and a current CRL of the root.

        Args:
            now: When the CRL is issued; it counts for 30 days.
            revoked: Serial numbers on it.
            crl_key: That signs the CRL instead of the root's.
        """
        crl = issue_crl(self.ark, now, revoked=revoked, key=crl_key)
        return Collateral(certificates=(self.leaf.der,), crls=(crl,))

    def report(
        self, report_data: bytes, *, fields: Mapping[int, bytes] | None = None
    ) -> bytes:
        """Return a report; `fields` overrides bytes by offset before it is signed."""
        raw = bytearray(REPORT_BYTES)
        struct.pack_into("<IIQ", raw, 0, self.version, 1, 0x30000)
        written = {
            0x34: b"\x01",
            0x38: self.tcb,
            0x48: bytes([self.signing_key << 2]),
            0x50: report_data,
            0x90: bytes([7]) * 48,
            0x180: self.tcb,
            0x1A0: self.chip_id,
        }
        if self.version >= _NAMES_PRODUCT:
            written[0x188] = bytes(_CPUIDS[self.product])
        for offset, value in {**written, **(fields or {})}.items():
            raw[offset : offset + len(value)] = value
        numbers = self.leaf.sign(bytes(raw[:SIGNED_BYTES]))
        for offset, number in zip((0x2A0, 0x2E8), numbers, strict=True):
            raw[offset : offset + 72] = number.to_bytes(72, "little")
        return bytes(raw)

    @property
    def table(self) -> bytes:
        """The certificates that the host gives its guest beside a report."""
        name = VCEK_ID if self.signing_key == VCEK else VLEK_ID
        return certificate_table({name: self.leaf.der})
