"""A published model as the data owner sees it: a partial bundle, every byte pinned."""

from collections.abc import Callable
from urllib.parse import quote

from privacy.bundle import MANIFEST, SIGNATURE, Bundle, check_name, parse_manifest
from privacy.client.home import Home
from privacy.client.wire import Call, Flow, Reply
from privacy.encoding import Json, check_sha256, sha256_file, sha256_hex
from privacy.errors import LimitError, VerificationError
from privacy.files import write_atomic
from privacy.jws import key_id
from privacy.modes import Mode
from privacy.publisher import verify_manifest

_MAX_FILES_BYTES = 1 << 31
Notify = Callable[[Json], None]


def parse_reference(text: str) -> tuple[str, str, str]:
    """Return name, version and digest of `name[/version][@sha256]`; "" where absent.

    Raises:
        FormatError: Not of that form.
    """
    rest, _, digest = text.partition("@")
    name, _, version = rest.partition("/")
    check_name(name)
    if version:
        check_name(version)
    if digest:
        check_sha256(digest, what="model digest")
    return name, version, digest


def label(bundle: Bundle) -> str:
    """Return `name/version`."""
    return f"{bundle.manifest.name}/{bundle.manifest.version}"


def fetch_model(
    home: Home, gateway: str, reference: str, *, allow_unsigned: bool
) -> Flow[Bundle]:
    """Fetch a manifest; its digest must be the one named, or the one first seen.

    Its signature must be the publisher's, who must be the one first seen.

    Returns:
        A bundle in the data owner's folder that holds no other file yet.

    Raises:
        NotFoundError: No such model.
        VerificationError: The digest or the publisher is not the expected one.
    """
    name, version, digest = parse_reference(reference)
    params = {"version": version} if version else {}
    reply: Reply = yield Call("GET", f"/v1/models/{name}", params=params)
    signature = reply.headers.get("x-model-signature", "").encode()
    publisher = _publisher(reply.body, signature, allow_unsigned=allow_unsigned)
    manifest, found = parse_manifest(reply.body), sha256_hex(reply.body)
    bundle = Bundle(home.model(found), manifest, found, publisher)
    if manifest.name != name or (version and manifest.version != version):
        msg = f"asked for {reference}, got {label(bundle)}"
        raise VerificationError(msg, code="wrong-model")
    if digest and digest != found:
        msg = f"model {label(bundle)} is {found[:12]}…, expected {digest[:12]}…"
        raise VerificationError(msg, code="model-changed")
    home.pin_publisher(gateway, name, bundle.publisher)
    if not digest:
        home.pin_model(gateway, label(bundle), found)
    kept = bundle.root / MANIFEST
    if not kept.is_file() or sha256_file(kept) != found:
        write_atomic(kept, reply.body, private=True)
        write_atomic(bundle.root / SIGNATURE, signature, private=True)
    return bundle


def _publisher(manifest: bytes, signature: bytes, *, allow_unsigned: bool) -> str:
    """Return the key id of who signed a manifest, "" if nobody did and that is allowed.

    Raises:
        VerificationError: Nobody did, or the signature does not match.
    """
    if signature:
        return key_id(verify_manifest(manifest, signature))
    if not allow_unsigned:
        msg = (
            "the model is not signed by a publisher: ask the operator, or allow "
            "unsigned bundles if you accept whatever the gateway serves"
        )
        raise VerificationError(msg, code="bundle-unsigned")
    return ""


def fetch_files(bundle: Bundle, mode: Mode, notify: Notify) -> Flow[None]:
    """Fetch a mode's public files that are not there yet, each checked by digest.

    Raises:
        VerificationError: A file is not the one that the manifest names.
        LimitError: The files are too large, or one is larger than the manifest says.
    """
    files = bundle.manifest.files.items()
    folders = tuple(f"{part}/" for part in mode.parts)
    wanted = {k: v for k, v in files if v.public and k.startswith(folders)}
    if (total := sum(entry.bytes for entry in wanted.values())) > _MAX_FILES_BYTES:
        msg = f"{label(bundle)} has {total} bytes of files, at most {_MAX_FILES_BYTES}"
        raise LimitError(msg, code="too-large")
    for path, entry in wanted.items():
        here = bundle.path(path)
        if here.is_file() and sha256_file(here) == entry.sha256:
            continue
        notify({"stage": "download", "file": path, "bytes": entry.bytes})
        url = f"/v1/models/{label(bundle)}/files/{quote(path)}"
        reply: Reply = yield Call("GET", url, limit=entry.bytes)
        if sha256_hex(reply.body) != entry.sha256:
            msg = f"{path} is not the file that the manifest names"
            raise VerificationError(msg, code="bundle-changed")
        write_atomic(here, reply.body, private=True)
