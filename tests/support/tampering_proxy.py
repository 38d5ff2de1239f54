"""A man in the middle over HTTP: rewrites evidence and sealed inputs, consistently.

with TamperingProxy(gateway.base_url, evidence=swap_key, sealed=flip) as proxy:
    Client(proxy.url).infer(…)

Where it changes an input it changes its digest in paths and jobs, too, so that neither
client nor gateway sees a digest that does not fit.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx

from privacy.encoding import sha256_hex

Change = Callable[[bytes], bytes]
_PER_HOP = {"content-length", "transfer-encoding", "connection", "host"}


def _same(raw: bytes) -> bytes:
    return raw


class TamperingProxy:
    """Passes requests on; `uploads` are the inputs that came from the client."""

    def __init__(
        self, gateway: str, *, evidence: Change = _same, sealed: Change = _same
    ) -> None:
        self.uploads: list[bytes] = []
        self._digests: dict[str, str] = {}
        self._evidence, self._sealed = evidence, sealed
        self._far = httpx.Client(base_url=gateway, timeout=90)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._far.close()

    def pass_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        """Send a request on, changed, and return the gateway's answer, changed."""
        if method == "PUT" and path.startswith("/v1/blobs/"):
            self.uploads.append(body)
            changed = self._sealed(body)
            self._digests[sha256_hex(body)] = sha256_hex(changed)
            body = changed
        for ours, theirs in self._digests.items():
            path = path.replace(ours, theirs)
            body = body.replace(ours.encode(), theirs.encode())
        answer = self._far.request(method, path, headers=headers, content=body)
        if path.startswith("/v1/attestations"):
            changed = self._evidence(answer.content)
            return httpx.Response(answer.status_code, content=changed)
        return answer

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                given = self.headers.items()
                headers = {k: v for k, v in given if k.lower() not in _PER_HOP}
                headers["accept-encoding"] = "identity"
                answer = proxy.pass_on(self.command, self.path, headers, body)
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _PER_HOP:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content)

            do_GET = do_PUT = do_POST = do_HEAD = do_PATCH = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
