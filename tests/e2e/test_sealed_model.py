"""A sealed model from its publisher to an answer, and what a node never gets to see."""

import threading
from datetime import UTC, datetime

import numpy as np
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.broker import create_broker_app
from gateway.executors.base import Engines
from gateway.settings import Settings
from privacy.broker import Broker, Decisions, Deposits, parse_key_policy
from privacy.client import Client
from privacy.client.passphrase import Unlock
from privacy.errors import NotFoundError, UnavailableError
from privacy.jws import public_jwk
from privacy.tee.ear import check_result
from tests.support.live_gateway import ThreadGateway, free_port, wait_until
from tests.support.sealed_bundle import write_sealed_bundle
from tests.support.tee_models import linear_model

WEIGHTS = np.random.default_rng(26).normal(size=(3, 2)).astype(np.float32)
ROWS = [[0.5, -1.0, 2.0], [3.0, 0.25, -4.0]]
VERIFIER = Ed25519PrivateKey.generate()


class LiveBroker:
    """A key broker over HTTP, with keys under a passphrase."""

    def __init__(self, home):
        self.home = home
        self.deposits = Deposits(home, Unlock("correct horse"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        broker = Broker(self.deposits, Decisions(home), VERIFIER)
        app = create_broker_app(broker, verifier=public_jwk(VERIFIER.public_key()))
        config = uvicorn.Config(app, port=self.port, log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def start(self):
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self):
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def broker(tmp_path):
    live = LiveBroker(tmp_path / "broker-home")
    yield live
    if live._thread.is_alive():
        live.stop()


@pytest.fixture
def site(tmp_path, broker):
    """The node: a gateway with real engines, a sealed model, and nobody's keys."""
    made = write_sealed_bundle(
        tmp_path / "node" / "models",
        tmp_path / "publisher",
        broker=broker.url,
        model=linear_model(WEIGHTS),
    )
    policy = parse_key_policy(b"", allow_simulated=True)
    broker.deposits.add(made.bundle, made.content_key, policy)
    settings = Settings(
        data_dir=tmp_path / "node" / "data",
        models_dir=tmp_path / "node" / "models",
        home=tmp_path / "publisher",
    )
    with ThreadGateway(settings, Engines()) as gateway:
        yield made, gateway


@pytest.fixture
def infer(site, tmp_path):
    _, gateway = site

    def infer():
        key = gateway.new_key("models:read", "jobs:read", "jobs:write")
        with Client(
            gateway.base_url, api_key=key, home=tmp_path / "owner", allow_simulated=True
        ) as client:
            return client.infer("demo", ROWS, mode="tee")

    return infer


def found_in(folder, secret):
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [p for p in files if secret in p.read_bytes()]


def test_the_weights_are_nowhere_on_the_node(site, infer, broker, tmp_path):
    made, _ = site
    broker.start()
    answer = infer()
    outputs = np.array([row.outputs for row in answer.rows])
    assert outputs == pytest.approx(np.array(ROWS) @ WEIGHTS, abs=1e-5)
    assert WEIGHTS.tobytes() in made.model
    for secret in (WEIGHTS.tobytes(), made.model, made.content_key):
        assert found_in(tmp_path / "node", secret) == []
        assert found_in(tmp_path / "owner", secret) == []
    (decision,) = Decisions(broker.home).all()
    result = check_result(
        decision.ear.encode(),
        [VERIFIER.public_key()],
        now=datetime.now(UTC),
        allow_simulated=True,
    )
    assert result.claims["key_released"] is True
    assert infer().rows == answer.rows  # the enclave has the model now
    assert len(Decisions(broker.home).all()) == 1


@pytest.mark.slow
def test_a_node_without_its_broker_says_so_and_recovers(infer, broker, monkeypatch):
    for _ in range(2):  # the second at once, without another enclave
        with pytest.raises(UnavailableError) as caught:
            infer()
        assert caught.value.code == "broker-unreachable"
    monkeypatch.setattr("gateway.executors.unsealing.PATIENCE_S", 0.0)
    broker.start()
    assert len(infer().rows) == len(ROWS)


@pytest.mark.slow
def test_a_model_whose_key_was_revoked_is_not_served(infer, broker):
    broker.deposits.revoke("demo/1")
    broker.start()
    with pytest.raises(NotFoundError) as caught:
        infer()
    assert caught.value.code == "key-revoked"
