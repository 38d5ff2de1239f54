"""HPKE (RFC 9180) with one of two key encapsulations, HKDF-SHA256 and AES-256-GCM.

    MLKEM768_X25519   holds as long as either of the two holds; preferred
    X25519            where a side's `cryptography` has no ML-KEM

A hybrid public key is ML-KEM-768's (1184 bytes), then X25519's (32 bytes).
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from privacy.errors import FormatError, VerificationError

HYBRID, CLASSIC = "MLKEM768_X25519", "X25519"
PUBLIC_KEY_BYTES = {HYBRID: 1184 + 32, CLASSIC: 32}
"""Size of a public key by name of the encapsulation, the preferred one first."""

KEY_ID_BYTES = 32

_X25519_BYTES = 32


@dataclass(frozen=True, slots=True)
class KemPublicKey:
    """A public key to seal to.

    Attributes:
        kem: Name of the encapsulation.
        raw: The key.
    """

    kem: str
    raw: bytes

    def __post_init__(self) -> None:
        """Refuse a key that has another size than its encapsulation's."""
        size = PUBLIC_KEY_BYTES.get(self.kem)
        if size is None:
            known = " or ".join(PUBLIC_KEY_BYTES)
            msg = f"the key encapsulation is {self.kem[:40]!r}, expected {known}"
            raise FormatError(msg, code="kem-unknown")
        if len(self.raw) != size:
            msg = f"a key of {self.kem} has {len(self.raw)} bytes, expected {size}"
            raise FormatError(msg)

    @property
    def id(self) -> bytes:
        """What names the key and its encapsulation, 32 bytes."""
        return hashlib.sha256(self.kem.encode() + b"\0" + self.raw).digest()

    def encrypt(self, plain: bytes, info: bytes) -> bytes:
        """Return an HPKE ciphertext to this key.

        Raises:
            FormatError: It is no usable key of its encapsulation.
        """
        try:
            return _suite(self.kem).encrypt(plain, self._loaded(), info)
        except (ValueError, UnsupportedAlgorithm) as exc:
            msg = f"the key to seal to is not a usable {self.kem} key"
            raise FormatError(msg, code="malformed-input") from exc

    def _loaded(self) -> Any:
        x25519 = X25519PublicKey.from_public_bytes(self.raw[-_X25519_BYTES:])
        if self.kem == CLASSIC:
            return x25519
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

        mlkem = MLKEM768PublicKey.from_public_bytes(self.raw[:-_X25519_BYTES])
        return hpke.MLKEM768X25519PublicKey(mlkem, x25519)


@dataclass(frozen=True, slots=True)
class KemKey:
    """A private key, which lives in memory only."""

    public: KemPublicKey
    _private: Any

    @classmethod
    def generate(cls, kem: str) -> "KemKey":
        """Return a fresh key.

        Raises:
            UnsupportedAlgorithm: The encapsulation is not to be had here.
        """
        x25519 = X25519PrivateKey.generate()
        raw = x25519.public_key().public_bytes_raw()
        if kem == CLASSIC:
            return cls(KemPublicKey(kem, raw), x25519)
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        mlkem = MLKEM768PrivateKey.generate()
        raw = mlkem.public_key().public_bytes_raw() + raw
        return cls(KemPublicKey(kem, raw), hpke.MLKEM768X25519PrivateKey(mlkem, x25519))

    def decrypt(self, ciphertext: bytes, info: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            VerificationError: It was changed, or made for another key or `info`: which
                of them, nobody learns.
        """
        try:
            return _suite(self.public.kem).decrypt(ciphertext, self._private, info)
        except (InvalidTag, ValueError) as exc:
            msg = "the ciphertext does not open with this key, for this use"
            raise VerificationError(msg, code="unsealable") from exc


@functools.cache
def supported() -> tuple[str, ...]:
    """Return the encapsulations to be had here, the preferred one first."""
    try:
        KemKey.generate(HYBRID)
    except (ImportError, AttributeError, UnsupportedAlgorithm):
        return (CLASSIC,)
    return (HYBRID, CLASSIC)


def choose(
    offered: Sequence[KemPublicKey], *, require_hybrid: bool = False
) -> KemPublicKey:
    """Return the offered key of the best encapsulation that both sides have.

    Args:
        offered: By the enclave, in evidence that was verified.
        require_hybrid: Accept no encapsulation that a quantum computer breaks.

    Raises:
        VerificationError: There is none ("kem-refused").
    """
    here = [k for k in supported() if k == HYBRID or not require_hybrid]
    keys = {key.kem: key for key in offered}
    for kem in here:
        if kem in keys:
            return keys[kem]
    msg = (
        f"the enclave offers to seal with {' or '.join(keys)}, expected "
        f"{' or '.join(here) or HYBRID}: update the side that lacks it"
    )
    raise VerificationError(msg, code="kem-refused")


def _suite(kem: str) -> hpke.Suite:
    return hpke.Suite(
        getattr(hpke.KEM, kem), hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM
    )
