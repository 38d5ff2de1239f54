"""How much a request may send. Uploads stream to disk and have a limit of their own."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 1 << 16
_TOO_LARGE = 413
_UPLOADS = {"PUT", "PATCH"}


class JsonBodyLimit:
    """ASGI middleware: every body but an upload's has at most `MAX_JSON_BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; reading too much of it is a 413."""
        if scope["type"] != "http" or scope["method"] in _UPLOADS:
            await self._app(scope, receive, send)
            return
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_JSON_BYTES:
                raise HTTPException(_TOO_LARGE)
            return message

        await self._app(scope, receive_within_limit, send)
