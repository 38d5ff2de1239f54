"""Roots of trust: the vendors' for hardware, and a public one for simulated evidence.

Two types, so that they cannot be mixed up: what a store vouches for follows from its
type. A store also pins who signed the quoting enclave, because a PCK key signs reports
of other enclaves too: without that check, anyone with one TDX machine could write
quotes for code that runs nowhere.
"""

import functools
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
# From Intel's signed QE identity; the same in every issue.
INTEL_SGX_QE_MRSIGNER = bytes.fromhex(
    "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
)
SIMULATED_SGX_QE_MRSIGNER = bytes.fromhex(
    sha256_hex(b"privacy-compute/simulated-intel/sgx-qe-signer")
)
SGX_QE_PRODUCT_ID = 1

_PINS = {
    "intel_sgx_root.pem": (INTEL_ROOT_SHA256,),
    "intel_tcb_signing.pem": (
        "c0575e76d0303b61d09cde8cbdb70db34a74f38318300d7c0e6ba8cf4bf45aea",
    ),
    "simulated_intel_root.pem": (SIMULATED_ROOT_SHA256,),
    "simulated_aws_root.pem": (
        "8b1dda590b952c075f38b489af928c9b85ff5865bbe455b5b678c1914e4e9170",
    ),
    "simulated_amd_genoa.pem": (
        "780bf7b6bbc2bb0d056f9fffbbb7d03da215873381c17ae07005adb9a13af311",
        "9f0640ea2d410f8c558876a9d808da1308374fc22c6929f5d4d66756c985ed78",
        "3c6fc98bb6dafa3ec035dfb8e853f89993f7708841e54f70deb43478ad135f6f",
    ),
    "simulated_nvidia_root.pem": (
        "6141529398c98ec9a8cc1601a63ff2d4f7ccbdf62d0ea2cda52b4016b1c12e4e",
    ),
    "simulated_nvidia_rim_root.pem": (
        "5701ccaac8cf25d78e037d3884b4449203ebd4fb54dbbb684ea0ea6539afca7f",
    ),
    "aws_nitro_root.pem": (
        "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
    ),
    "nvidia_device_root.pem": (
        "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
    ),
    "nvidia_rim_root.pem": (
        "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    ),
    "amd_milan.pem": (
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    ),
    "amd_genoa.pem": (
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    ),
    "amd_turin.pem": (
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    ),
}
"""SHA-256 of the certificates (DER) in each shipped file, in order."""


@dataclass(frozen=True, slots=True)
class AmdProduct:
    """One processor family of AMD's: its root and the two CAs under it, in DER.

    Attributes:
        name: As certificates name it: `Milan`, `Genoa`, `Turin`.
        ask: Signs keys of chips (VCEK).
        ark: The root.
        asvk: Signs keys lent to cloud providers (VLEK).
    """

    name: str
    ask: bytes
    ark: bytes
    asvk: bytes


@dataclass(frozen=True, slots=True)
class HardwareTrustStore:
    """The vendors' roots: evidence that chains to one comes from hardware.

    Attributes:
        intel: SGX root CA, DER; SGX and TDX.
        intel_tcb_signing: Certificates of Intel's TCB signing keys, for collateral that
            comes without; not trusted, they are checked like given ones.
        amd: One for every processor family.
        aws: Nitro enclaves root, DER.
        nvidia: Device identity root, DER.
        nvidia_rim: Root of the signers of NVIDIA's reference measurements, DER.
    """

    intel: bytes
    intel_tcb_signing: tuple[bytes, ...] = ()
    amd: tuple[AmdProduct, ...] = ()
    aws: bytes = b""
    nvidia: bytes = b""
    nvidia_rim: bytes = b""
    simulated: ClassVar[bool] = False
    kind: ClassVar[str] = "hardware"
    qe_mrsigner: ClassVar[bytes] = INTEL_TD_QE_MRSIGNER
    sgx_qe_mrsigner: ClassVar[bytes] = INTEL_SGX_QE_MRSIGNER


@dataclass(frozen=True, slots=True)
class SimulatedTrustStore:
    """The simulated vendor's roots: anyone can make evidence that chains to them."""

    intel: bytes
    intel_tcb_signing: tuple[bytes, ...] = ()
    amd: tuple[AmdProduct, ...] = ()
    aws: bytes = b""
    nvidia: bytes = b""
    nvidia_rim: bytes = b""
    simulated: ClassVar[bool] = True
    kind: ClassVar[str] = "simulated"
    qe_mrsigner: ClassVar[bytes] = SIMULATED_QE_MRSIGNER
    sgx_qe_mrsigner: ClassVar[bytes] = SIMULATED_SGX_QE_MRSIGNER


TrustStore = HardwareTrustStore | SimulatedTrustStore


@functools.cache
def hardware_trust_store() -> HardwareTrustStore:
    """Return the store with the vendors' roots, as shipped and pinned here."""
    return HardwareTrustStore(
        intel=_shipped("intel_sgx_root.pem")[0],
        intel_tcb_signing=tuple(_shipped("intel_tcb_signing.pem")),
        amd=tuple(
            AmdProduct(name, *_shipped(f"amd_{name.lower()}.pem"))
            for name in ("Milan", "Genoa", "Turin")
        ),
        aws=_shipped("aws_nitro_root.pem")[0],
        nvidia=_shipped("nvidia_device_root.pem")[0],
        nvidia_rim=_shipped("nvidia_rim_root.pem")[0],
    )


@functools.cache
def simulated_trust_store() -> SimulatedTrustStore:
    """Return the store with the simulated vendors' roots, as shipped and pinned."""
    return SimulatedTrustStore(
        intel=_shipped("simulated_intel_root.pem")[0],
        amd=(AmdProduct("SimulatedGenoa", *_shipped("simulated_amd_genoa.pem")),),
        aws=_shipped("simulated_aws_root.pem")[0],
        nvidia=_shipped("simulated_nvidia_root.pem")[0],
        nvidia_rim=_shipped("simulated_nvidia_rim_root.pem")[0],
    )


def check_root(root: bytes, pinned: bytes) -> None:
    """Check that a chain ends in the pinned root.

    Raises:
        VerificationError: It ends in another one; the code tells a simulated vendor's
            from a real one's and from one that nobody knows.
    """
    if root == pinned:
        return
    found = sha256_hex(root)
    if found in _digests(simulated=True):
        raise of_other_kind(simulated=True)
    if found in _digests(simulated=False):
        raise of_other_kind(simulated=False)
    msg = (
        f"the evidence chains to root {found[:12]}, expected {sha256_hex(pinned)[:12]}"
    )
    raise VerificationError(msg, code="untrusted-root")


def of_other_kind(*, simulated: bool) -> VerificationError:
    """Return the refusal of evidence of the kind that is not trusted."""
    if not simulated:
        msg = "the evidence is from hardware, but only simulated evidence is trusted"
        return VerificationError(msg, code="hardware-evidence")
    msg = (
        "the evidence is simulated: it proves nothing about where the model runs; "
        "for tests and development accept it with allow_simulated (--allow-simulated)"
    )
    return VerificationError(msg, code="simulated-evidence")


def _digests(*, simulated: bool) -> set[str]:
    return {
        digest
        for name, digests in _PINS.items()
        for digest in digests
        if name.startswith("simulated_") == simulated
    }


def _shipped(name: str) -> list[bytes]:
    pem = files("privacy.tee").joinpath("roots", name).read_bytes()
    found = x509.load_pem_x509_certificates(pem)
    ders = [certificate.public_bytes(Encoding.DER) for certificate in found]
    if tuple(map(sha256_hex, ders)) != _PINS[name]:
        msg = f"the shipped root {name} was changed: install this package again"
        raise VerificationError(msg, code="root-changed")
    return ders
