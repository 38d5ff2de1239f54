"""A data owner's FHE keys at work: loaded or made, shared by models, uploaded."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from privacy.bundle import Bundle
from privacy.client.keystore import KeyInfo, KeyStore
from privacy.client.model import label
from privacy.client.upload import upload, uploaded
from privacy.client.wire import Flow, Work
from privacy.encoding import sha256_hex
from privacy.errors import NotFoundError
from privacy.modes import Mode

if TYPE_CHECKING:
    from privacy.client.context import Context

CLIENT_JSON = "fhe/client.json"


@dataclass(slots=True)
class Kept:
    """Where a key is kept, and what is known of it, whatever model uses it."""

    key_id: str
    evaluation_sha256: str = ""


@dataclass(frozen=True, slots=True)
class FheKeys:
    """A data owner's loaded keys as one model uses them."""

    client: Any
    kept: Kept = field(default_factory=lambda: Kept(""))


def load_fhe(context: "Context", bundle: Bundle) -> FheKeys:
    """Return the keys of a model's key set, shared with other models of the set.

    Raises:
        AuthError: The passphrase is missing or wrong.
    """
    from privacy.fhe.client import FheClient
    from privacy.fhe.machine import check_engine

    check_engine(bundle.manifest.mode(Mode.FHE).params)
    client = FheClient(bundle.path(CLIENT_JSON).read_bytes())
    shared = context.memory.get(client.keyset_sha256)
    if shared is None:
        shared = _load_or_make(context, client)
        context.memory[client.keyset_sha256] = shared
    context.store.note(shared.kept.key_id, models={label(bundle): bundle.sha256})
    return FheKeys(client.share_keys(shared.client), shared.kept)


def upload_keys(context: "Context", keys: FheKeys) -> Flow[str]:
    """Upload the evaluation keys unless the gateway has them; return their digest."""
    kept = keys.kept
    is_here, offset = False, 0
    if kept.evaluation_sha256:
        path = f"/v1/keys/{kept.evaluation_sha256}"
        is_here, offset = yield from uploaded(path)
    if is_here:
        return kept.evaluation_sha256
    raw: bytes = yield Work(keys.client.evaluation_keys)
    sha256 = sha256_hex(raw)
    path = f"/v1/keys/{sha256}"
    if sha256 != kept.evaluation_sha256:
        is_here, offset = yield from uploaded(path)
    if not is_here:
        yield from upload(
            path,
            raw,
            notify=context.notify,
            stage="upload keys",
            params={"keyset": keys.client.spec.keyset_sha256},
            offset=offset,
        )
    kept.evaluation_sha256 = sha256
    now = datetime.now(UTC).isoformat(timespec="seconds")
    context.store.note(
        kept.key_id, uploads={context.gateway: now}, evaluation_sha256=sha256
    )
    return sha256


def rotate(context: "Context", key_id: str) -> KeyInfo:
    """Return new keys for the key set of a key, which is retired.

    Raises:
        NotFoundError: No such key, or no model that uses it is here any more.
    """
    from privacy.fhe.client import FheClient

    store = context.store
    info = store.info(key_id)
    for model_sha256 in info.models.values():
        path = context.home.model(model_sha256) / CLIENT_JSON
        if not path.is_file():
            continue
        client = FheClient(path.read_bytes())
        if client.keyset_sha256 == info.keyset_sha256:
            with context.lock, store.making(info.keyset_sha256):
                made = _make(context, client)
                context.memory.clear()
            return store.info(made.kept.key_id)
    msg = (
        f"no model that uses key {key_id} is here: `privacy models NAME --fetch` one, "
        "run it once, and rotate then"
    )
    raise NotFoundError(msg, code="missing-model")


def _load_or_make(context: "Context", client: Any) -> FheKeys:
    """Return the current keys of a key set, or new ones that are then kept."""
    context.notify({"stage": "load FHE keys"})
    if found := _load(context.store, client):
        return found
    with context.store.making(client.keyset_sha256):
        if found := _load(context.store, client):
            return found  # another process made them meanwhile
        return _make(context, client)


def _load(store: KeyStore, client: Any) -> FheKeys | None:
    info = store.current(client.keyset_sha256)
    if info is None:
        return None
    keys = client.load_keys(store.load(info.key_id))
    return FheKeys(keys, Kept(info.key_id, info.evaluation_sha256))


def _make(context: "Context", client: Any) -> FheKeys:
    context.store.check_can_add()  # before time is spent
    context.notify({"stage": "generate FHE keys"})
    keys = client.generate_keys()
    info = context.store.add(client.keyset_sha256, keys.to_bytes())
    return FheKeys(keys, Kept(info.key_id))
