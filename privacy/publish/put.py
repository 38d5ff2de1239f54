"""The last step of a publish: manifest, signature, and a place in the store."""

import errno
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.bundle import Manifest, write_manifest
from privacy.errors import ConflictError
from privacy.publisher import sign_bundle


def put_bundle(
    root: Path,
    manifest: Manifest,
    store: Path,
    private_key: Ed25519PrivateKey,
    *,
    fixed: bool,
) -> Path:
    """Sign a bundle and move it to its place.

    If another publish took the place, it goes to the next version.

    Raises:
        ConflictError: The version was asked for, and another publish took it.
    """
    while True:
        final = store / manifest.name / manifest.version
        write_manifest(root, manifest)
        sign_bundle(root, private_key)
        try:
            root.rename(final)
        except OSError as exc:
            if exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            if fixed:
                raise version_taken(manifest.name, manifest.version) from exc
            manifest = replace(manifest, version=next_version(final.parent))
        else:
            return final


def version_taken(name: str, version: str) -> ConflictError:
    """Return the error for a version that exists already."""
    msg = f"{name} {version} is published already: choose another --version"
    return ConflictError(msg, code="version-exists")


def next_version(folder: Path) -> str:
    """Return one more than the newest version in a model's folder."""
    found = [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()]
    return str(max(found, default=0) + 1)
