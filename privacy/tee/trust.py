"""Roots of trust: Intel's for hardware, and a public one for simulated evidence.

Two types, so that they cannot be mixed up: what a store vouches for follows from its
type. A store also pins who signed the quoting enclave, because a PCK key signs reports
of other enclaves too: without that check, anyone with one TDX machine could write
quotes for code that runs nowhere.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privacy.encoding import sha256_hex
from privacy.errors import VerificationError

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
SIMULATED_ROOT_SHA256 = (
    "838282aed392c7ddb054fc334a302488b65f697cb036f202d88b74adf4b236ee"
)
SIMULATED_QE_MRSIGNER = bytes.fromhex(
    sha256_hex(b"privacy-compute/simulated-intel/td-qe-signer")
)
# From Intel's signed TD QE identity; the same in every issue since 2022.
INTEL_TD_QE_MRSIGNER = bytes.fromhex(
    "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
)
TD_QE_PRODUCT_ID = 2


@dataclass(frozen=True, slots=True)
class HardwareTrustStore:
    """Intel's SGX root: evidence that chains to it comes from hardware."""

    root_der: bytes
    simulated: ClassVar[bool] = False
    qe_mrsigner: ClassVar[bytes] = INTEL_TD_QE_MRSIGNER


@dataclass(frozen=True, slots=True)
class SimulatedTrustStore:
    """The simulated vendor's root: anyone can make evidence that chains to it."""

    root_der: bytes
    simulated: ClassVar[bool] = True
    qe_mrsigner: ClassVar[bytes] = SIMULATED_QE_MRSIGNER


TrustStore = HardwareTrustStore | SimulatedTrustStore


def hardware_trust_store() -> HardwareTrustStore:
    """Return the store with Intel's SGX root CA, as shipped and pinned here."""
    return HardwareTrustStore(_root("intel_sgx_root.pem", INTEL_ROOT_SHA256))


def simulated_trust_store() -> SimulatedTrustStore:
    """Return the store with the simulated vendor's root, as shipped and pinned."""
    return SimulatedTrustStore(_root("simulated_intel_root.pem", SIMULATED_ROOT_SHA256))


def _root(name: str, expected: str) -> bytes:
    pem = files("privacy.tee").joinpath("roots", name).read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    if sha256_hex(der) != expected:
        msg = f"the shipped root {name} was changed: install this package again"
        raise VerificationError(msg, code="root-changed")
    return der
