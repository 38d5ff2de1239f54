"""The broker over HTTP, and the node that carries messages to and from it."""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.broker import create_broker_app
from gateway.executors.enclaves import Enclaves
from gateway.executors.unsealing import Unsealer, unseal
from privacy.encoding import b64url_decode
from privacy.errors import (
    AppraisalError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.jws import public_jwk
from privacy.modes import Mode
from privacy.tee.sealed_model import Sealing
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import FAKE_ENGINES, free_port, wait_until
from tests.support.sealed_bundle import write_sealed_bundle

SHA256 = "ab" * 32
JWK = public_jwk(Ed25519PrivateKey.generate().public_key())


class FakeBroker:
    """Decides as it is told; the real one is tested in tests/unit/broker."""

    refuses = None

    def challenge(self, model_sha256, *, now):
        assert model_sha256 == SHA256
        assert now <= datetime.now(UTC)
        if isinstance(self.refuses, NotFoundError):
            raise self.refuses
        return bytes(32)

    def release(self, evidence, *, now):
        assert evidence == b"evidence"
        if self.refuses:
            raise self.refuses
        return b"release", "e.a.r"


class FakeEnclave:
    released, stopped = None, False

    def evidence(self, nonce):
        assert nonce == bytes(32)
        return b"evidence"

    def unseal(self, release):
        self.released = release

    def stop(self):
        self.stopped = True


@pytest.fixture
def broker():
    return FakeBroker()


@pytest.fixture
def url(broker):
    port = free_port()
    app = create_broker_app(broker, verifier=JWK)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_the_node_carries_the_release_to_the_enclave(url):
    enclave = FakeEnclave()
    unseal(enclave, Sealing(url, SHA256), model_sha256=SHA256)
    assert enclave.released == b"release"


def test_the_node_says_what_the_broker_refused_and_gives_the_enclave_nothing(
    url, broker
):
    broker.refuses = AppraisalError("mrtd is 00", code="measurement-mismatch")
    enclave = FakeEnclave()
    with pytest.raises(UnavailableError) as caught:
        unseal(enclave, Sealing(url, SHA256), model_sha256=SHA256)
    assert caught.value.code == "key-refused"
    assert "mrtd is 00 (measurement-mismatch)" in caught.value.message
    assert enclave.released is None


def test_a_key_that_does_not_open_the_model_is_the_brokers_fault(url):
    class Wrong(FakeEnclave):
        def unseal(self, release):
            raise VerificationError("no", code="model-unsealable")

    with pytest.raises(UnavailableError) as caught:
        unseal(Wrong(), Sealing(url, SHA256), model_sha256=SHA256)
    assert caught.value.code == "key-unusable"
    assert "model-unsealable" in caught.value.message


def test_a_revoked_key_keeps_its_name_on_the_way(url, broker):
    broker.refuses = NotFoundError("revoked", code="key-revoked")
    with pytest.raises(NotFoundError) as caught:
        unseal(FakeEnclave(), Sealing(url, SHA256), model_sha256=SHA256)
    assert caught.value.code == "key-revoked"


def test_a_broker_that_is_not_there_is_named():
    gone = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError) as caught:
        unseal(FakeEnclave(), Sealing(gone, SHA256), model_sha256=SHA256)
    assert caught.value.code == "broker-unreachable"
    assert gone in caught.value.message


@pytest.mark.parametrize("host", ["a..b", "xn--zz.com", "\u2603.example"])
def test_an_address_that_is_no_host_is_a_broker_that_is_not_there(host):
    with pytest.raises(UnavailableError) as caught:
        unseal(FakeEnclave(), Sealing(f"http://{host}", SHA256), model_sha256=SHA256)
    assert caught.value.code == "broker-unreachable"


class OddBroker(BaseHTTPRequestHandler):
    """Answers as its server says, in pieces."""

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for piece in self.server.pieces:
                self.wfile.write(piece)
                time.sleep(self.server.pause_s)

    def log_message(self, *_):
        pass


@pytest.fixture
def odd_broker():
    with ThreadingHTTPServer(("127.0.0.1", 0), OddBroker) as server:
        server.pause_s = 0
        threading.Thread(target=server.serve_forever).start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"nonce": 1}', b'{"nonce": "AA"}', b'{"nonce": "\xff"}'],
)
def test_an_answer_that_is_no_brokers_is_its_fault_not_the_clients(odd_broker, answer):
    odd_broker.pieces = [answer]
    with pytest.raises(UnavailableError) as caught:
        unseal(FakeEnclave(), Sealing(odd_broker.url, SHA256), model_sha256=SHA256)
    assert caught.value.code == "broker-unreachable"


def test_no_more_is_read_of_an_answer_than_a_broker_would_send(odd_broker):
    sent = []

    def pieces():
        for _ in range(64):
            sent.append(1)
            yield bytes(1 << 20)

    odd_broker.pieces = pieces()
    with pytest.raises(UnavailableError, match="too long"):
        unseal(FakeEnclave(), Sealing(odd_broker.url, SHA256), model_sha256=SHA256)
    assert len(sent) < 64


def test_a_broker_that_drips_is_left(odd_broker, monkeypatch):
    monkeypatch.setattr("gateway.executors.unsealing._TIMEOUT_S", 0.3)
    odd_broker.pieces, odd_broker.pause_s = [b" "] * 100, 0.05
    with pytest.raises(UnavailableError) as caught:
        unseal(FakeEnclave(), Sealing(odd_broker.url, SHA256), model_sha256=SHA256)
    assert caught.value.code == "broker-unreachable"


def test_a_slow_broker_holds_up_no_other_model(odd_broker, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.executors.unsealing._TIMEOUT_S", 30)
    asked, answer = threading.Event(), threading.Event()

    def pieces():
        asked.set()
        answer.wait(30)
        yield b"{}"

    odd_broker.pieces = pieces()
    slow = write_sealed_bundle(tmp_path / "m", tmp_path / "h", broker=odd_broker.url)
    (slow.bundle.root / "tee/model.onnx").touch()  # the fake enclave wants one
    other = write_bundle(tmp_path)

    async def play():
        enclaves = Enclaves(
            Mode.TEE, tmp_path / "run", FAKE_ENGINES, size=1, time_limit_s=5
        )
        waiting = [
            asyncio.create_task(enclaves.evidence(slow.bundle, bytes(32)))
            for _ in range(4)
        ]
        await asyncio.to_thread(asked.wait, 20)
        assert await asyncio.wait_for(enclaves.evidence(other, bytes(32)), 20)
        answer.set()
        for task in waiting:
            with pytest.raises(UnavailableError):
                await task
        await enclaves.close()

    asyncio.run(play())


def test_after_a_refusal_no_enclave_is_started_for_a_while(
    url, broker, tmp_path, monkeypatch
):
    bundle = write_sealed_bundle(tmp_path / "m", tmp_path / "home", broker=url).bundle
    bundle = replace(bundle, sha256=SHA256)
    broker.refuses = AppraisalError("mrtd is 00", code="measurement-mismatch")
    unsealer, enclave = Unsealer(), FakeEnclave()
    unsealer.check(bundle)
    with pytest.raises(UnavailableError):
        unsealer.unseal(enclave, bundle)
    assert enclave.stopped
    with pytest.raises(UnavailableError) as caught:
        unsealer.check(bundle)
    assert caught.value.code == "key-refused"
    unsealer.check(replace(bundle, sha256="cd" * 32))
    monkeypatch.setattr("gateway.executors.unsealing.PATIENCE_S", 0.0)
    unsealer.check(bundle)


def test_a_refusal_is_a_403_with_the_code_of_the_check(url, broker):
    broker.refuses = AppraisalError("debug", code="debug-enclave")
    got = httpx.post(f"{url}/v1/releases", content=b"evidence")
    assert (got.status_code, got.json()["code"]) == (403, "debug-enclave")


def test_the_broker_tells_its_public_key_and_takes_no_odd_requests(url):
    with httpx.Client(base_url=url) as http:
        assert http.get("/.well-known/jwks.json").json() == {"keys": [JWK]}
        got = http.post("/v1/challenges", json={"model_sha256": SHA256}).json()
        assert b64url_decode(got["nonce"], what="nonce") == bytes(32)
        for body in ({}, {"model_sha256": "ab"}, {"model_sha256": SHA256, "x": 1}):
            assert http.post("/v1/challenges", json=body).status_code == 422
        large = http.post("/v1/releases", content=bytes(1 << 17))
        assert large.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
