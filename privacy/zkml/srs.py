"""The structured reference string (SRS): whoever knows its secret can forge proofs.

`development` makes one here, so trust it only as far as the publisher. `download` and a
file's path use a public powers-of-tau ceremony, sound if one participant was honest; a
file counts as public only if its digest is on the pinned list.

File layout: u32 k, then 2**k points of 64 bytes, as many Lagrange points, and two
points of 128 bytes. Verification uses the first point and the last two, so a file of
k = 0, 388 bytes, is all that verifiers need.
"""

import os
import shutil
import struct
import tempfile
from pathlib import Path

from privacy.child import Handler, Progress, run_in_child
from privacy.encoding import Json, sha256_file, sha256_hex
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.zkml.params import SrsFacts
from privacy.zkml.srs_digests import (
    GENERATORS_SHA256,
    PUBLIC_SHA256,
    PUBLIC_VERIFIER_SHA256,
)
from privacy.zkml.system import ProofSystem, load_backend

_G1_BYTES = 64
_G2_BYTES = 128
_TAIL_BYTES = 2 * _G2_BYTES
_VERIFIER_BYTES = 4 + 2 * _G1_BYTES + _TAIL_BYTES
_MAX_LOGROWS = 26


def obtain_srs(
    choice: str, logrows: int, out: Path, *, backend: ProofSystem
) -> SrsFacts:
    """Write an SRS for circuits of 2**logrows rows to `out`, and say what it is.

    Args:
        choice: `development`, `download`, or the path of a powers-of-tau file.
        logrows: The least size that serves.
        out: Where to put it.
        backend: Makes and fetches.

    Raises:
        NotFoundError: There is no such file.
        FormatError: The file is not an SRS, or is too small.
        UnavailableError: It could not be fetched.
        VerificationError: What was fetched is not the ceremony's file.
    """
    source = _source(choice, logrows, backend)
    found = _check_layout(source)
    if found < logrows:
        msg = (
            f"the SRS has 2**{found} points, the circuit needs 2**{logrows}: "
            "give a larger powers-of-tau file"
        )
        raise FormatError(msg, code="srs-too-small")
    shutil.copyfile(source, out)
    facts = srs_facts(out, development=choice == "development")
    if choice == "download" and facts.kind != "public":
        out.unlink()
        source.unlink()
        msg = (
            f"the SRS that was fetched is {facts.sha256[:12]}, not the ceremony's file "
            f"of 2**{found} points: it was removed; try again, or give a file"
        )
        raise VerificationError(msg, code="srs-not-listed")
    return facts


def fetch_srs(logrows: int, out: Path, *, timeout_s: float = 3600.0) -> SrsFacts:
    """Write the public ceremony's SRS of 2**logrows points to `out`.

    Raises:
        FormatError: The ceremony has no file of that size.
        UnavailableError: It could not be fetched, or the engine is not installed.
        VerificationError: What was fetched is not the ceremony's file.
    """
    if logrows not in PUBLIC_SHA256:
        known = f"{min(PUBLIC_SHA256)} to {max(PUBLIC_SHA256)}"
        msg = f"the ceremony has files of 2**k points for k from {known}, not {logrows}"
        raise FormatError(msg, code="no-such-srs")
    request = {"logrows": logrows, "out": str(out)}
    run_in_child("privacy.zkml.srs:handler", request, timeout_s=timeout_s)
    return srs_facts(out, development=False)


def handler() -> Handler:
    """Return what serves `fetch_srs` in a child process."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        progress({"stage": "fetch the SRS"})
        obtain_srs(
            "download", request["logrows"], Path(request["out"]), backend=backend
        )
        return {}

    return serve


def srs_facts(path: Path, *, development: bool) -> SrsFacts:
    """Return what an SRS file is; `public` only by its digest.

    Raises:
        FormatError: The file is not an SRS.
    """
    logrows, sha256 = _check_layout(path), sha256_file(path)
    kind = "development" if development else "unlisted"
    if PUBLIC_SHA256.get(logrows) == sha256 and is_public(verifier_srs(path)):
        kind = "public"
    return SrsFacts(kind=kind, logrows=logrows, sha256=sha256)


def is_public(verifier_part: bytes) -> bool:
    """Return whether a verifier's part of an SRS is that of the public ceremony.

    Nobody has to be believed for this: it is a comparison with a pinned digest.
    """
    return sha256_hex(verifier_part) == PUBLIC_VERIFIER_SHA256


def check_verifier_srs(verifier_part: bytes) -> None:
    """Refuse a verifier's part that would make every proof hold, or anyone a forger.

    The engine takes one of zeros, under which its pairing check is always true.

    Raises:
        VerificationError: It does not begin with the generators, or its secret is 0 or
            1; code `srs-degenerate`.
    """
    head, secret = verifier_part[:-_G2_BYTES], verifier_part[-_G2_BYTES:]
    if (
        len(verifier_part) != _VERIFIER_BYTES
        or sha256_hex(head) != GENERATORS_SHA256
        or secret in {bytes(_G2_BYTES), head[-_G2_BYTES:]}
    ):
        msg = (
            "the verifier's part of the SRS is none under which proofs mean anything: "
            "do not rely on this model's publisher"
        )
        raise VerificationError(msg, code="srs-degenerate")


def verifier_srs(srs: Path) -> bytes:
    """Return the part of an SRS file that verification needs, itself an SRS file."""
    points = 1 << _check_layout(srs)
    with srs.open("rb") as file:
        file.seek(4)
        first = file.read(_G1_BYTES)
        file.seek(4 + 2 * points * _G1_BYTES)
        tail = file.read(_TAIL_BYTES)
    # With one point the only Lagrange polynomial is 1, so its point is the first one.
    return struct.pack("<I", 0) + first + first + tail


def _source(choice: str, logrows: int, backend: ProofSystem) -> Path:
    if choice not in {"development", "download"}:
        path = Path(choice)
        if not path.is_file():
            raise NotFoundError(f"there is no SRS file {choice[:200]!r}")
        return path
    path = cache_folder() / "srs" / f"{choice}-{logrows}.srs"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            if choice == "development":
                backend.make_development_srs(fresh, logrows)
            else:
                backend.download_srs(fresh, logrows)
            fresh.replace(path)
    return path


def cache_folder() -> Path:
    """Return where what can be made again is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "privacy-compute"


def _check_layout(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(4)
    logrows = struct.unpack("<I", head)[0] if len(head) == 4 else -1  # noqa: PLR2004
    size = path.stat().st_size
    fits = 0 <= logrows <= _MAX_LOGROWS
    if not fits or size != 4 + 2 * (_G1_BYTES << logrows) + _TAIL_BYTES:
        msg = f"the SRS file of {size} bytes does not have the KZG layout of EZKL"
        raise FormatError(msg, code="bad-srs")
    return int(logrows)
