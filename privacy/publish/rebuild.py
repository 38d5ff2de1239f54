"""A new version of a bundle whose native FHE circuit was built for this machine."""

import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from privacy.bundle import Bundle, list_files, open_bundle, write_manifest
from privacy.child import Progress, run_in_child
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.publish.put import next_version, put_bundle
from privacy.publisher import load_trust, open_trusted, publisher_key, signer_of

_TIMEOUT_S = 3600.0


def rebuild(
    root: Path, *, store: Path, home: Path, progress: Progress = lambda _: None
) -> Bundle:
    """Return a new version of a bundle, its FHE part compiled for this machine.

    Keys, ciphertexts and clients of the old version serve the new one: the program is
    the same. It is signed by this home's publisher, since it holds new code.

    Args:
        root: The bundle; signed by a publisher whom this home trusts.
        store: Folder of published models; may be the one the bundle is in.
        home: Holds the publisher's key and whom to trust.
        progress: Called with `{"stage": …}`.

    Raises:
        VerificationError: The bundle is not of a trusted publisher, or was changed.
        NotFoundError: It offers no FHE.
        UnavailableError: Another version of Concrete made it.
        BackendError: Concrete does not make the same program of it.
    """
    old = open_trusted(root, load_trust(home))
    part, name = old.manifest.mode(Mode.FHE), old.manifest.name
    private_key = publisher_key(home)
    (store / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store / name, prefix=".rebuild-") as scratch:
        new = Path(scratch) / "bundle"
        _copy(old, new)
        params = _in_child("build_handler", {"bundle": str(new)}, progress)
        public = frozenset(n for n, f in old.manifest.files.items() if f.public)
        manifest = replace(
            old.manifest,
            version=next_version(store / name),
            modes={
                **old.manifest.modes,
                Mode.FHE: replace(part, params={**params, "rebuilt_from": old.sha256}),
            },
            files=list_files(new, public),
            published_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        write_manifest(new, manifest)
        _in_child("check_handler", {"bundle": str(new)}, progress)
        final = put_bundle(new, manifest, store, private_key, fixed=False)
    bundle = open_bundle(final)
    return replace(bundle, publisher=signer_of(bundle))


def _copy(old: Bundle, new: Path) -> None:
    """Copy what the manifest names and nothing beside it: all of it will be signed.

    Raises:
        VerificationError: A file was changed since its bundle was opened.
    """
    for name in old.manifest.files:
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old.path(name), target)
    write_manifest(new, old.manifest).check_files()


def _in_child(handler: str, request: Json, progress: Progress) -> Json:
    return run_in_child(
        f"privacy.fhe.rebuild:{handler}",
        request,
        timeout_s=_TIMEOUT_S,
        progress=lambda p: progress({"mode": "fhe", **p}),
    )
