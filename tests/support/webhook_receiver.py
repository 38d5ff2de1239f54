"""A receiver of webhooks on this machine: keeps what comes, answers what it is told."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

from standardwebhooks import Webhook as Checker


@dataclass
class Message:
    path: str
    headers: dict[str, str]
    body: str

    def check(self, secret: str) -> Any:
        """Return the payload if its signature is of the secret."""
        return Checker(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """`async with Receiver() as receiver`: listens on a free port."""

    host: str = "127.0.0.1"
    port: int = 0
    answers: list[str] = field(default_factory=list)
    got: list[Message] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks?a=1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append(Message(first.split()[1], headers, body.decode()))
        answer = self.answers.pop(0) if self.answers else "204 No Content"
        more = "" if "\r\n" in answer else "\r\nContent-Length: 0"
        writer.write(f"HTTP/1.1 {answer}{more}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
