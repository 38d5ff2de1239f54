"""Uploads that go on where they stopped when the connection breaks."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from privacy.client.model import Notify
from privacy.client.wire import Call, Flow, Reply, Work
from privacy.encoding import Json
from privacy.errors import PrivacyError

_TRIES_WITHOUT_PROGRESS = 5
_PAUSE_S = 0.3
_QUICK_BYTES = 1 << 20
_MAY_GO_ON = {"gateway-unreachable", "upload-too-slow", "upload-offset"}
_HERE, _PART, _NOTHING = 200, 204, 404
_NO_PARAMS: Mapping[str, str] = {}


def upload(
    path: str,
    body: bytes,
    *,
    notify: Notify,
    stage: str,
    params: Mapping[str, str] = _NO_PARAMS,
    offset: int = 0,
) -> Flow[None]:
    """Upload bytes to the path that ends in their digest.

    Args:
        path: `/v1/blobs/SHA256` or `/v1/keys/SHA256`.
        body: All the bytes, whatever the gateway has of them.
        notify: Told how many tenths have been sent, if that takes any time.
        stage: What to call this in what `notify` is told.
        params: Of the query.
        offset: How many bytes the gateway has already, as `uploaded` said.

    Raises:
        UnavailableError: The connection broke again and again without any progress.
        LimitError: Too large, or the tenant's quota is used up.
    """
    left = _TRIES_WITHOUT_PROGRESS
    while True:
        offset = offset if offset < len(body) else 0
        try:
            yield Call(
                "PATCH" if offset else "PUT",
                path,
                body[offset:],
                {"Upload-Offset": str(offset)} if offset else {},
                params,
                sent=_teller(notify, stage, offset, len(body)),
                is_resumable=True,
            )
        except PrivacyError as exc:
            if exc.code not in _MAY_GO_ON:
                raise
            yield Work(partial(time.sleep, _PAUSE_S))  # the gateway may not know yet
            is_here, found = yield from uploaded(path)
            if is_here:
                return
            left = _TRIES_WITHOUT_PROGRESS if found > offset else left - 1
            if not left:
                raise
            offset = found
        else:
            return


def uploaded(path: str) -> Flow[tuple[bool, int]]:
    """Return whether the gateway has an upload of ours, else how many bytes of it."""
    reply: Reply = yield Call("HEAD", path, accept=(_HERE, _PART, _NOTHING))
    told = reply.headers.get("upload-offset", "")
    is_count = reply.status == _PART and told.isascii() and told.isdigit()
    return reply.status == _HERE, int(told[:18]) if is_count else 0


def _teller(
    notify: Notify, stage: str, offset: int, size: int
) -> Callable[[int], None] | None:
    """Return what turns tenths of the rest into tenths of the whole."""
    if size < _QUICK_BYTES:
        return None
    event: Json = {"stage": stage, "bytes": size, "total": 10}

    def sent(tenths: int) -> None:
        done = 10 * offset + tenths * (size - offset)
        notify({**event, "done": done // size})

    sent(0)
    return sent
