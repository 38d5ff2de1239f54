import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.client.home import Home
from privacy.client.model import parse_reference
from privacy.errors import FormatError, VerificationError
from privacy.files import write_atomic
from privacy.jws import key_id, public_jwk
from privacy.publisher import trust_publisher

URL = "http://127.0.0.1:1"


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_the_api_key_is_kept_private(home):
    home.save_login(gateway=URL, api_key="pk_x")
    path = home.root / "config.json"
    assert home.config() == {"gateway": URL, "api_key": "pk_x"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_model_is_pinned_at_first_sight(home):
    home.pin_model(URL, "m/1", "a" * 64)
    home.pin_model(URL, "m/1", "a" * 64)
    with pytest.raises(VerificationError) as caught:
        home.pin_model(URL, "m/1", "b" * 64)
    assert caught.value.code == "model-changed"
    home.pin_model("http://other", "m/1", "b" * 64)


def test_a_publisher_is_pinned_at_first_sight(home):
    """Until the data owner says that another one may sign the model."""
    other = Ed25519PrivateKey.generate().public_key()
    home.pin_publisher(URL, "m", "first")
    home.pin_publisher(URL, "m", "first")
    for changed in (key_id(other), ""):
        with pytest.raises(VerificationError) as caught:
            home.pin_publisher(URL, "m", changed)
        assert caught.value.code == "publisher-changed"
    home.pin_publisher(URL, "other", key_id(other))
    trust_publisher(home.root, other)
    home.pin_publisher(URL, "m", key_id(other))
    with pytest.raises(VerificationError):
        home.pin_publisher(URL, "m", "first")


def test_a_model_that_nobody_signed_may_be_signed_later(home):
    home.pin_publisher(URL, "m", "")
    home.pin_publisher(URL, "m", "first")


def test_gateway_keys_and_models_are_pinned_side_by_side(home):
    key = Ed25519PrivateKey.generate().public_key()
    home.pin_model(URL, "m/1", "a" * 64)
    home.pin_keys(URL, {"keys": [public_jwk(key)]})
    assert set(home.all_trusted_keys()) == {key_id(key)}
    assert home.pins(URL)["models"] == {"m/1": "a" * 64}


def test_a_job_id_cannot_leave_the_folder(home):
    with pytest.raises(FormatError):
        home.receipt_folder("../../etc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m", ("m", "", "")),
        ("m/2", ("m", "2", "")),
        ("m@" + "a" * 64, ("m", "", "a" * 64)),
        ("m/2@" + "a" * 64, ("m", "2", "a" * 64)),
    ],
)
def test_a_model_reference_has_three_parts(text, expected):
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["", "/1", "m/../x", "m@abc", "M"])
def test_a_malformed_reference_is_refused(text):
    with pytest.raises(FormatError):
        parse_reference(text)


def test_every_folder_that_is_made_is_private(home):
    home.pin_keys(
        URL, {"keys": [public_jwk(Ed25519PrivateKey.generate().public_key())]}
    )
    write_atomic(home.model("a" * 64) / "zkml" / "vk.key", b"x", private=True)
    folders = [home.root, *(p for p in home.root.rglob("*") if p.is_dir())]
    assert len(folders) == 5
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} == {0o700}


def test_pins_made_at_once_are_all_kept(home):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: home.pin_model(URL, f"m/{i}", "a" * 64), range(40)))
    assert len(home.pins(URL)["models"]) == 40
