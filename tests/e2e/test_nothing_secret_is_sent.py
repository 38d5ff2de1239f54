"""Every request of a data owner's life with FHE, searched for the secret key."""

import os

import pytest

from privacy.client import Client
from privacy.client.upload import upload
from privacy.encoding import sha256_hex, unpack
from privacy.errors import PrivacyError
from privacy.fhe.client import FheClient
from tests.support.secret_finder import Finder, Recorder, secret_bits

PHRASE = "the passphrase of the recorded owner"


@pytest.fixture(scope="module")
def life(gateway, published, tmp_path_factory):
    """Live through all of it; give the client, still open, and what it sent."""
    home, recorder = tmp_path_factory.mktemp("owner"), Recorder()
    credit = published("credit")
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="recorded")
    ours = {"api_key": key, "home": home, "passphrase": PHRASE}
    with (
        Client(gateway.base_url, **ours, transport=recorder) as client,
        Client(gateway.base_url, **ours, transport=Recorder(recorder.sent)) as again,
    ):
        rows = credit.rows[:9].tolist()
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PRIVACY_PASSPHRASE")
            client.infer(credit.name, rows[:1], mode="fhe")  # makes and uploads keys
            client.infer(credit.name, rows, mode="fhe")  # in batches
            client.infer(credit.name, rows[:2], mode="fhe", verify_with=[again])
            (mine,) = client.keys.all()
            client.keys.export(mine.key_id, home / "out", passphrase="export phrase")
            client.delete_upload(mine.evaluation_sha256)
            client.infer(credit.name, rows[:1], mode="fhe")  # uploads them again
            with pytest.raises(PrivacyError):
                client.infer(f"{credit.name}/77", rows[:1], mode="fhe")
            client.rotate_keys(mine.key_id)
            client.infer(credit.name, rows[:1], mode="fhe")
            client.uploads()
            client.delete_uploaded_keys(mine.key_id)
        yield client, credit, recorder.sent


@pytest.fixture(scope="module")
def finders(life):
    """One for each of the two keys that this life had."""
    client, credit, _ = life
    fhe = FheClient(credit.bundle.path("fhe/client.json").read_bytes())
    found = []
    for key in client.keys.all():
        framed = client.keys.load(key.key_id)
        evaluation_keys = fhe.load_keys(framed).evaluation_keys()
        found.append(Finder(unpack(framed, what="k")[1], evaluation_keys, PHRASE))
    return found


def test_the_record_is_of_the_whole_life(life):
    asked = [what for what, _, _ in life[2]]
    assert sum(what.startswith("PUT /v1/keys/") for what in asked) >= 3
    assert sum(what == "POST /v1/jobs" for what in asked) == 6
    assert sum(what.startswith("DELETE /v1/keys/") for what in asked) >= 2
    assert any(what.startswith("GET /v1/models/") for what in asked)
    assert max(len(body) for _, _, body in life[2]) > 1 << 20


def test_no_request_holds_any_part_of_a_secret_key_or_the_passphrase(life, finders):
    assert len(finders) == 2
    for finder in finders:
        assert len(finder.windows) > 3
        for what, head, body in life[2]:
            assert not finder.find(head), what
            assert not finder.find(body), what


def test_the_search_would_find_a_key_that_is_sent(life, finders):
    """Send parts of it, in several ways, through the same record."""
    client, _, sent = life
    key = client.keys.all()[0]
    framed = client.keys.load(key.key_id)
    everything = unpack(framed, what="k")[1]
    finder = next(f for f in finders if not _is_public(f, everything))
    bits = max(secret_bits(everything), key=len)
    words = bits.astype("<u8").tobytes()
    start = next(i for i in range(len(bits)) if bits[i] != bits[i + 1])
    leaks = {
        "all of it": everything,
        "as it is kept in memory": framed,
        "16 bytes": words[8 * start : 8 * start + 16],
        "16 bytes in a large body": os.urandom(1 << 20)
        + words[8 * start : 8 * start + 16]
        + os.urandom(1 << 20),
        "16 bytes, shifted": b"abc" + words[8 * start : 8 * start + 16] + b"defgh",
        "a bit a bit": finder._packed[0],
        "the passphrase": f'{{"note":"{PHRASE}"}}'.encode(),
    }
    assert finder.find(b"x-note: " + PHRASE.encode())
    for how, body in leaks.items():
        path = f"/v1/blobs/{sha256_hex(body)}"
        client.run(upload(path, body, notify=lambda _: None, stage="leak"))
        assert finder.find(sent[-1][2]), how


def _is_public(finder, everything):
    return not finder.find(everything)
