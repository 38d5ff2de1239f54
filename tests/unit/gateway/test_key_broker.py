"""The broker over HTTP, and the node that carries messages to and from it."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.broker import create_broker_app
from gateway.executors.unsealing import Unsealer, unseal
from privacy.encoding import b64url_decode
from privacy.errors import (
    AppraisalError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.jws import public_jwk
from privacy.tee.sealed_model import Sealing
from tests.support.live_gateway import free_port, wait_until
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
