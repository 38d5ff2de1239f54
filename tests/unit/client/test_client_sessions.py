"""Jobs at once share one set of FHE keys, and each opens with the keys it used."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from privacy.client.context import Context, param
from privacy.client.home import Home
from privacy.client.infer import check_outputs
from privacy.client.sessions import session_for
from privacy.errors import FormatError, VerificationError
from privacy.modes import Mode
from tests.support.hand_made_bundle import write_bundle


class Keys:
    """Told apart by a number."""

    def __init__(self, number):
        self.number = number

    def to_bytes(self):
        return b"%d" % self.number


class Engine:
    """Stands for `FheClient`: making keys is slow, and is counted."""

    keyset_sha256 = "c" * 64
    made: int

    def __init__(self, _raw):
        pass

    def load_keys(self, raw):
        return Keys(int(raw))

    def share_keys(self, keys):
        return keys

    def generate_keys(self):
        Engine.made += 1
        time.sleep(0.05)
        return Keys(Engine.made)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    Engine.made = 0
    monkeypatch.setattr("privacy.fhe.client.FheClient", Engine)
    return write_bundle(tmp_path / "models")


def context(tmp_path):
    return Context(Home(tmp_path / "home"), "http://gateway.test", lambda _: None)


@pytest.mark.parametrize("shared", [True, False])
def test_clients_at_once_make_one_set_of_keys(bundle, tmp_path, shared):
    one, start = context(tmp_path), threading.Barrier(6)

    def keys(_):
        mine = one if shared else context(tmp_path)  # as in another process
        start.wait()
        return session_for(Mode.FHE, mine, bundle).keys().client.number

    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(keys, range(6)))
    assert Engine.made == 1
    assert found == {1}


def test_an_answer_is_opened_with_the_keys_of_its_input_only(bundle, tmp_path):
    mine = context(tmp_path)
    session = session_for(Mode.FHE, mine, bundle)
    with pytest.raises(VerificationError):
        next(session.finish(None, b"", b""))
    next(flow := session.prepare([[1.0, 2.0]])).run()
    used = session.keys()
    with pytest.raises(AttributeError):  # the stand-in has no evaluation keys
        flow.send(used)
    mine.memory.clear()
    assert session._used is used


def test_a_manifest_that_lacks_what_a_mode_needs_is_refused(bundle):
    with pytest.raises(FormatError, match="lacks measurements"):
        param(bundle, Mode.TEE, "measurements", dict)


@pytest.mark.parametrize(
    "raw",
    [[[1.0]], [[1.0, 2.0]] * 3, [1.0, 2.0], [[1.0, np.nan]] * 2, np.zeros((2, 0))],
)
def test_outputs_of_another_shape_are_refused(raw):
    with pytest.raises(VerificationError):
        check_outputs(raw, rows=2, outputs=2)
    check_outputs([[1.0, 2.0]] * 2, rows=2, outputs=2)
