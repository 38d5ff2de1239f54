"""Raw connections that hold on: slow heads and bodies, huge ones, and very many."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway

HEAD_S = 0.4
BODY_S = 0.5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("slow")
    write_bundle(folder / "models")
    with ThreadGateway.fake(
        folder,
        head_timeout_s=HEAD_S,
        body_timeout_s=BODY_S,
        max_connections_by_address=20,
        trusted_proxies=[],
    ) as gateway:
        yield gateway


@contextmanager
def connected(served: ThreadGateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.settings.port), 10) as sock:
        sock.settimeout(10)
        yield sock


def answered(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    found = bytearray()
    try:
        while part := sock.recv(1 << 16):
            found += part
    except ConnectionError:
        pass
    return bytes(found)


def drip(sock: socket.socket, content: bytes, *, every_s: float = 0.05) -> float:
    """Send a byte at a time until the other side has enough; return the seconds."""
    began = time.monotonic()
    try:
        for byte in content:
            sock.sendall(bytes([byte]))
            time.sleep(every_s)
    except ConnectionError:
        pass
    return time.monotonic() - began


def post(served: ThreadGateway, body: bytes, *, length: int | None = None) -> bytes:
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {served.admin_key}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def test_a_connection_that_says_nothing_is_closed(served: ThreadGateway):
    with connected(served) as sock:
        began = time.monotonic()
        assert answered(sock) == b""
        assert HEAD_S * 0.8 < time.monotonic() - began < 5


def test_a_head_that_drips_in_is_cut_off(served: ThreadGateway):
    with connected(served) as sock:
        took = drip(sock, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 400)
    assert took < 5


def test_a_second_head_that_drips_in_is_cut_off_too(served: ThreadGateway):
    with connected(served) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in sock.recv(1 << 16)
        assert drip(sock, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 400) < 5


def test_a_body_that_drips_in_is_a_408(served: ThreadGateway):
    with connected(served) as sock:
        sock.sendall(post(served, b'{"model":', length=1000))
        began = time.monotonic()
        found = b""
        while not found.endswith(b"}"):
            found += sock.recv(1 << 16)
        assert time.monotonic() - began < 4
    assert b" 408 " in found.splitlines()[0]
    assert b"request-too-slow" in found


def test_a_body_that_no_route_reads_does_not_hold_the_connection(
    served: ThreadGateway,
):
    with connected(served) as sock:
        sock.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        )
        assert b"200 OK" in sock.recv(1 << 16)
        assert drip(sock, b"x" * 400) < 5


def test_heads_that_are_too_large_are_refused(served: ThreadGateway):
    for line, status in (
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, b" 431 "),
        (b"GET /v1/" + b"m" * 10_000 + b" HTTP/1.1\r\nHost: x", b" 414 "),
        (b"GET / HTTP/1.1\r\nHost: x" + b"\r\nA: b" * 30_000, b" 4"),
    ):
        with connected(served) as sock:
            sock.sendall(line + b"\r\n\r\n")
            assert status in sock.recv(1 << 16).splitlines()[0], line[:20]


def test_json_that_is_deep_long_or_damaged_is_refused(served: ThreadGateway):
    deep = b'{"options":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    digits = b'{"expires_in_s":' + b"9" * 60_000 + b"}"
    for body, statuses in (
        (deep, (413, 422)),
        (digits, (413, 422)),
        (b'{"model":"\xff"}', (400, 422)),
        (json.dumps({"model": "\x00"}).encode(), (422,)),
        (b'{"model":"\\ud800"}', (422,)),
        (b"x" * 70_000, (413, 422)),
    ):
        with connected(served) as sock:
            sock.sendall(post(served, body))
            status = int(sock.recv(1 << 16).split(b" ")[1])
        assert status in statuses, (body[:20], status)


def test_one_address_has_only_so_many_connections(served: ThreadGateway):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        socks = [stack.enter_context(connected(served)) for _ in range(30)]
        answers = []
        for sock in socks:
            try:
                sock.sendall(request)
                answers.append(sock.recv(1 << 16))
            except ConnectionError:
                answers.append(b"")
    served_count = sum(b"200 OK" in a for a in answers)
    assert 1 <= served_count <= 20
    assert answers.count(b"") >= 10
    time.sleep(0.1)
    with connected(served) as sock:
        sock.sendall(request)
        assert b"200 OK" in sock.recv(1 << 16)


def test_who_is_no_trusted_proxy_cannot_speak_for_others(served: ThreadGateway):
    left = []
    with served.client("") as nobody:
        for address in ("203.0.113.7", "203.0.113.8"):
            answer = nobody.get("/v1/modes", headers={"X-Forwarded-For": address})
            left.append(int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]))
    assert left[1] == left[0] - 1


@pytest.mark.parametrize("path", ["/v1/jobs/%00", "/v1/models/a%0ab", "/v1/keys/%7f"])
def test_control_characters_in_a_path_lead_nowhere(served: ThreadGateway, path: str):
    with served.client() as api:
        assert api.get(path).status_code == 404
