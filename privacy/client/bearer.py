"""The API key or token that goes with every request."""

from collections.abc import Generator
from pathlib import Path

import httpx

from privacy.errors import AuthError

TOKEN_FILE = "PRIVACY_TOKEN_FILE"  # noqa: S105 - the name of a variable
_MAX_BYTES = 1 << 14


class Bearer(httpx.Auth):
    """An API key, or a file with a token that somebody else renews in time."""

    def __init__(self, api_key: str, token_file: Path | None = None) -> None:
        """Send `api_key`, or else what the file holds when a request is made.

        Raises:
            AuthError: The key cannot be one, or the file cannot be read.
        """
        self._api_key, self._token_file = api_key, token_file
        self.text()

    def text(self) -> str:
        """Return the key or the token, "" if there is none.

        Raises:
            AuthError: It cannot be one, or the file cannot be read.
        """
        found = self._api_key
        if not found and self._token_file:
            found = _read(self._token_file)
        if not found.isascii() or not found.isprintable() or " " in found:
            msg = "the API key or token holds characters that none has: copy it again"
            raise AuthError(msg)
        return found

    def auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header to a request."""
        if text := self.text():
            request.headers["Authorization"] = f"Bearer {text}"
        yield request


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode("ascii").strip()
    except (OSError, ValueError) as exc:
        msg = f"{TOKEN_FILE} names {path}, which holds no token: {type(exc).__name__}"
        raise AuthError(msg, code="no-token") from exc
    if not text or len(raw) > _MAX_BYTES:
        msg = (
            f"{TOKEN_FILE} names {path}, which is empty or has over {_MAX_BYTES} bytes"
        )
        raise AuthError(msg, code="no-token")
    return text
