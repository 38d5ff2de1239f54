"""What the tests of the key broker share."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.broker import Broker, Decisions, Deposits, KeyPolicy, parse_key_policy
from privacy.bundle import Bundle
from privacy.client.passphrase import Unlock
from privacy.encoding import sha256_hex
from privacy.tee.enclave import Enclave
from privacy.tee.sealed_engine import SealedEngine
from privacy.tee.sealed_model import SealedFile
from privacy.tee.simulator import SimulatedTdxAttester
from tests.support.sealed_bundle import unloaded, write_sealed_bundle

VERIFIER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch):
    """The real cost is a fifth of a second a test; test_client_sealed.py holds it."""
    cost = {"iterations": 1, "lanes": 1, "memory_kib": 64}
    monkeypatch.setattr("privacy.client.sealed._COST", cost)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def made(tmp_path, home):
    """A sealed bundle, its content key and its model in the clear."""
    return write_sealed_bundle(tmp_path / "store", home, broker="http://127.0.0.1:1")


@pytest.fixture
def sealed_bundle(made) -> Bundle:
    return made.bundle


@pytest.fixture
def deposits(home) -> Deposits:
    return Deposits(home, Unlock("correct horse"))


@pytest.fixture(scope="session")
def policy() -> KeyPolicy:
    """This installation's enclave, simulated."""
    return parse_key_policy(b"", allow_simulated=True)


@pytest.fixture
def now():
    return datetime.now(UTC)


@pytest.fixture
def enclave_of():
    """Make an enclave of this process that has a sealed model and no key to it."""

    def make(made, *, attester=None, measurements=None, sealed=None):
        content = made.bundle.path("tee/model.sealed").read_bytes()
        return Enclave(
            SealedEngine(sealed or SealedFile(content, sha256_hex(made.model))),
            attester or SimulatedTdxAttester(),
            measurements or unloaded(),
            model_sha256=made.bundle.sha256,
        )

    return make


@pytest.fixture
def broker(deposits, home, made, policy):
    """A broker that has the key of `made`."""
    deposits.add(made.bundle, made.content_key, policy)
    return Broker(deposits, Decisions(home), VERIFIER)
