"""HTTP to a peer, of which nothing is believed.

Redirects are not followed, for a peer must not choose whom we talk to; nothing is
unpacked; every exchange has a limit of bytes and of time.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import httpx

from gateway.executors.base import NodeDeclinedError, NodeLostError
from gateway.peers.config import Peer
from gateway.store.away import full_disk
from privacy.client.wire import Reply, problem_exception
from privacy.encoding import Json, parse_object
from privacy.errors import FormatError, PrivacyError, VerificationError
from privacy.tls import client_context, tls_problem

MAX_JSON_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_CHUNK = 1 << 18
_LEAST_BYTES_PER_S = 10_000
_TRIES_WITHOUT_PROGRESS = 3
_HERE, _PART, _NOTHING = 200, 204, 404
_TOO_MANY, _SERVER_ERRORS = 429, 500
_REDIRECTS = range(300, 400)
_MAX_TEXT = 300
_MAY_GO_ON = {"upload-too-slow", "upload-offset"}
_NO_WORDS: Mapping[str, str] = {}


class PeerLiedError(VerificationError):
    """A peer said or gave what cannot be, so it gets no job for a while."""

    default_code = "peer-lied"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Keep a message that may quote it."""
        super().__init__(plain(message), code=code)


class PeerBusyError(NodeLostError):
    """A peer has too much to do, or is asked too often."""

    default_code = "peer-busy"


class PeerRefusedError(NodeDeclinedError):
    """A peer does not take this; `problem` is what it said.

    Attributes:
        problem: Its answer, as an error.
    """

    default_code = "peer-refused"

    def __init__(self, message: str, problem: PrivacyError) -> None:
        """Keep what it said."""
        super().__init__(message)
        self.problem = problem


class Link:
    """A connection to one peer."""

    def __init__(
        self, peer: Peer, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Prepare it; nothing is sent yet.

        Raises:
            FormatError: Files for TLS are not usable.
        """
        self._name = peer.name
        self._uploading: dict[str, asyncio.Lock] = {}
        self._http = httpx.AsyncClient(
            base_url=peer.url,
            headers={
                "Authorization": f"Bearer {peer.api_key}",
                "Accept-Encoding": "identity",
            },
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            verify=client_context(peer.tls) if peer.tls else True,
            transport=transport,
        )

    async def close(self) -> None:
        """Close it."""
        await self._http.aclose()

    async def ask(  # noqa: PLR0913 - what a request can say
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        headers: Mapping[str, str] = _NO_WORDS,
        params: Mapping[str, str] = _NO_WORDS,
        accept: tuple[int, ...] = (200, 202),
        limit: int = MAX_JSON_BYTES,
        timeout_s: float = _TIMEOUT_S,
    ) -> Reply:
        """Return an answer of at most `limit` bytes.

        Raises:
            NodeLostError: It cannot be reached, or `PeerRefusedError`.
            PeerLiedError: The answer is none.
        """
        content = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(
            method,
            path,
            content=content,
            headers={**headers, **kind},
            params=dict(params),
        )
        return await self._answer(request, accept, limit=limit, timeout_s=timeout_s)

    async def fetch(
        self, path: str, into: Path, *, sha256: str, limit: int, timeout_s: float
    ) -> None:
        """Write an answer to a file; its digest must be the one given.

        Raises:
            NodeLostError: It cannot be reached.
            PeerLiedError: The bytes are others, or too many.
        """
        request = self._http.build_request("GET", path)
        digest, size = hashlib.sha256(), 0
        with await asyncio.to_thread(into.open, "wb") as file:
            async with self._sent(request, timeout_s) as response:
                if response.status_code != _HERE:
                    body = await self._body(response, path, MAX_JSON_BYTES)
                    self._checked(response, body, (_HERE,))
                self._check_plain(response)
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > limit:
                        raise self._too_long(path)
                    digest.update(part)
                    with full_disk():
                        await asyncio.to_thread(file.write, part)
        if digest.hexdigest() != sha256:
            msg = f"{path} is {digest.hexdigest()[:12]}…, not what its receipt names"
            raise self.lied(msg, "output")

    async def upload(
        self,
        path: str,
        file: Path,
        *,
        params: Mapping[str, str] = _NO_WORDS,
    ) -> None:
        """Have a file there, whose digest the path ends in.

        Jobs with the same file wait for the first one's upload.

        Raises:
            NodeLostError: It cannot be reached, or does not take it.
        """
        turn = self._uploading.setdefault(path, asyncio.Lock())
        try:
            async with turn:
                await self._upload(path, file, params)
        finally:
            if not turn.locked():
                self._uploading.pop(path, None)

    async def _upload(self, path: str, file: Path, params: Mapping[str, str]) -> None:
        size = (await asyncio.to_thread(file.stat)).st_size
        left, before = _TRIES_WITHOUT_PROGRESS, -1
        while True:
            found = await self._uploaded(path, size)
            if found is None:
                return
            left = _TRIES_WITHOUT_PROGRESS if found > before else left - 1
            if not left:
                msg = f"peer {self._name}: an upload breaks off again and again"
                raise NodeLostError(msg, code="peer-unreachable")
            before = found
            try:
                await self._send(path, file, found, size, params)
            except NodeLostError as exc:
                if not _may_go_on(exc):
                    raise
            else:
                return

    async def _uploaded(self, path: str, size: int) -> int | None:
        """Return how many bytes of an upload are there, None if all are."""
        reply = await self.ask("HEAD", path, accept=(_HERE, _PART, _NOTHING))
        if reply.status == _HERE:
            return None
        told = reply.headers.get("upload-offset", "")
        is_count = reply.status == _PART and told.isascii() and told.isdigit()
        offset = int(told[:18]) if is_count else 0
        return offset if offset < size else 0

    async def _send(
        self, path: str, file: Path, offset: int, size: int, params: Mapping[str, str]
    ) -> None:
        headers = {"Content-Length": str(size - offset)}
        if offset:
            headers["Upload-Offset"] = str(offset)
        opened = await asyncio.to_thread(file.open, "rb")
        try:
            request = self._http.build_request(
                "PATCH" if offset else "PUT",
                path,
                content=_chunks(opened, offset),
                headers=headers,
                params=dict(params),
            )
            seconds = _TIMEOUT_S + (size - offset) / _LEAST_BYTES_PER_S
            await self._answer(request, (200, 201), timeout_s=seconds)
        finally:
            opened.close()

    async def _answer(
        self,
        request: httpx.Request,
        accept: tuple[int, ...],
        *,
        limit: int = MAX_JSON_BYTES,
        timeout_s: float,
    ) -> Reply:
        """Return an answer that is not too long, in time, and of an expected status."""
        async with self._sent(request, timeout_s) as response:
            body = await self._body(response, request.url.path, limit)
        return self._checked(response, body, accept)

    async def _body(self, response: httpx.Response, path: str, limit: int) -> bytes:
        found = bytearray()
        async for part in response.aiter_raw():
            found += part
            if len(found) > limit:
                raise self._too_long(path)
        return bytes(found)

    @asynccontextmanager
    async def _sent(
        self, request: httpx.Request, timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; its answer has to be read within the body."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.send(request, stream=True)
                try:
                    yield response
                finally:
                    await response.aclose()
        except TimeoutError:
            msg = f"peer {self._name} did not answer within {timeout_s:g} s"
            raise NodeLostError(msg, code="peer-unreachable") from None
        except httpx.HTTPError as exc:
            why = tls_problem(exc) or type(exc).__name__
            msg = f"peer {self._name} cannot be reached: {why}"
            raise NodeLostError(msg, code="peer-unreachable") from exc

    def _checked(
        self, response: httpx.Response, body: bytes, accept: tuple[int, ...]
    ) -> Reply:
        """Return an answer whose status is expected."""
        status = response.status_code
        headers = {k.lower(): v for k, v in response.headers.items()}
        if status in _REDIRECTS:
            raise self.lied(
                f"it redirects ({status}); its url is to be set", "redirect"
            )
        self._check_plain(response)
        if status in accept:
            return Reply(status, headers, body)
        msg = f"peer {self._name} answered {status}"
        try:
            problem = problem_exception(parse_object(body, what="problem"))
        except FormatError as exc:
            if status >= _SERVER_ERRORS or not body:  # a proxy, or HEAD
                raise NodeLostError(msg, code="peer-unreachable") from exc
            raise self.lied(f"{msg} with a body that is no problem", "answer") from exc
        text = plain(f"{msg}: {problem.message} ({problem.code[:80]})")
        if status == _TOO_MANY:
            raise PeerBusyError(text)
        raise PeerRefusedError(text, problem)

    def _check_plain(self, response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self.lied("it packs answers, though asked not to", "answer")

    def _too_long(self, path: str) -> PeerLiedError:
        return self.lied(f"its answer to {path} is too long", "too-large")

    def lied(self, why: str, code: str) -> PeerLiedError:
        """Return the error for what this peer did."""
        return PeerLiedError(f"peer {self._name}: {why}", code=f"peer-{code}")


def plain(text: str) -> str:
    """Return text from a peer, cut, and without what databases or JSON cannot hold."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_TEXT])


def _may_go_on(exc: NodeLostError) -> bool:
    """Whether an upload broke off, so that a part of it may be there."""
    if isinstance(exc, PeerRefusedError):
        return exc.problem.code in _MAY_GO_ON
    return exc.code == "peer-unreachable"


async def _chunks(file: IO[bytes], offset: int) -> AsyncIterator[bytes]:
    await asyncio.to_thread(file.seek, offset)
    while part := await asyncio.to_thread(file.read, _CHUNK):
        yield part
