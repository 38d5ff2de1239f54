"""A circuit's files in memory: checked once, unchangeable, found by nobody else.

The disk belongs to the node's operator, and the engine opens its files by path for
every proof. So each file is copied once, compared with the manifest while it is, and
sealed (memfd_create(2)); the engine opens it through /proc/self/fd. See
docs/adr/0025-proving-inside-the-enclave.md.
"""

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.bundle import Bundle, Manifest
from privacy.encoding import canonical_json, sha256_hex
from privacy.errors import VerificationError
from privacy.zkml.system import CircuitFiles

FILES = (
    "network.ezkl",
    "settings.json",
    "pk.key",
    "vk.key",
    "kzg.srs",
    "verifier.srs",
)
"""What a prover reads, of the part `zkml/` of a bundle."""

_CHUNK_BYTES = 1 << 22
_SEALS = (
    fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
)


@dataclass(frozen=True, slots=True)
class HeldCircuit(CircuitFiles):
    """The files of a circuit behind open descriptors, by name."""

    root: Path = Path("/proc/self/fd")
    descriptors: Mapping[str, int] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return where a file lies, for this process."""
        return self.root / str(self.descriptors[name])


def hold_circuit(bundle: Bundle) -> HeldCircuit:
    """Return a bundle's circuit, held; the descriptors stay open.

    Raises:
        NotFoundError: The bundle has no circuit.
        VerificationError: A file is missing, or not the one that the manifest names.
    """
    held = {name: _hold(bundle, f"zkml/{name}") for name in FILES}
    return HeldCircuit(descriptors=held)


def circuit_sha256(manifest: Manifest) -> str:
    """Return the digest that an enclave's event log names a circuit by.

    Raises:
        KeyError: The manifest has no circuit.
    """
    digests = {name: manifest.files[f"zkml/{name}"].sha256 for name in FILES}
    return sha256_hex(canonical_json(digests))


def hold(path: Path) -> tuple[int, str]:
    """Return a descriptor of a file's copy in memory, and its SHA-256.

    Raises:
        OSError: The file cannot be read, or memory is short.
    """
    fd = os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    digest = hashlib.sha256()
    with path.open("rb") as file, os.fdopen(fd, "wb", closefd=False) as copy:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd, digest.hexdigest()


def _hold(bundle: Bundle, name: str) -> int:
    try:
        fd, found = hold(bundle.path(name))
    except FileNotFoundError as exc:
        msg = f"{name} is missing: publish the model again"
        raise VerificationError(msg, code="bundle-changed") from exc
    expected = bundle.manifest.files[name].sha256
    if found != expected:
        msg = (
            f"{name} is {found[:12]}, expected {expected[:12]}: "
            "the bundle was changed; publish it again"
        )
        raise VerificationError(msg, code="bundle-changed")
    return fd
