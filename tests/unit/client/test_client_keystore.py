"""The key store: kept, listed, retired, exported, imported, deleted; never in clear."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import keyring
import pytest

from privacy.client.home import Home
from privacy.client.keystore import KeyStore
from privacy.client.passphrase import VARIABLE, Unlock, read_passphrase
from privacy.errors import (
    AuthError,
    ConflictError,
    FormatError,
    NotFoundError,
    UnavailableError,
)
from privacy.fhe.client import pack_keys
from tests.support.memory_keyring import MemoryKeyring

PHRASE = "correct horse battery"
SECRET = b"secret key bits " * 64
SET, OTHER_SET = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def _no_passphrase_around(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def store(home):
    return KeyStore(home, Unlock(PHRASE))


def test_keys_are_kept_and_loaded_again(store, home):
    key = store.add(SET, SECRET)
    assert store.load(key.key_id) == SECRET
    assert KeyStore(home, Unlock(PHRASE)).load(key.key_id) == SECRET
    assert store.current(SET) == key
    assert store.current(OTHER_SET) is None
    assert (key.bytes, key.is_protected, key.retired_at) == (len(SECRET), True, "")


def test_nothing_on_disk_holds_the_secret_or_the_passphrase(store, home):
    store.add(SET, SECRET)
    files = [p for p in home.root.rglob("*") if p.is_file()]
    for path in files:
        raw = path.read_bytes()
        assert SECRET[:16] not in raw
        assert PHRASE.encode() not in raw
        if path.suffix in {".sealed", ".json"}:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((home.root / "keys").stat().st_mode) == 0o700


def test_without_a_passphrase_no_keys_are_kept(home):
    store = KeyStore(home, Unlock())
    for attempt in (store.check_can_add, lambda: store.add(SET, SECRET)):
        with pytest.raises(AuthError) as caught:
            attempt()
        assert caught.value.code == "passphrase-missing"
        for way in (VARIABLE, "--passphrase-file", "--allow-plaintext-keys"):
            assert way in caught.value.message
    assert store.all() == []


def test_unprotected_keys_need_to_be_allowed_and_say_so(home):
    key = KeyStore(home, Unlock(allow_plaintext=True)).add(SET, SECRET)
    assert not key.is_protected
    assert KeyStore(home, Unlock()).load(key.key_id) == SECRET


def test_an_unprotected_key_planted_among_protected_ones_is_not_used(store, tmp_path):
    mine = store.add(SET, SECRET)
    attacker = KeyStore(Home(tmp_path / "attacker"), Unlock(allow_plaintext=True))
    planted = attacker.add(SET, b"known to the attacker")
    file = attacker.root / f"{planted.key_id}.sealed"
    (store.root / file.name).write_bytes(file.read_bytes())
    assert store.current(SET).key_id == planted.key_id
    with pytest.raises(AuthError) as refusal:
        store.load(planted.key_id)
    assert refusal.value.code == "key-not-protected"
    assert store.load(mine.key_id) == SECRET
    allowing = KeyStore(store._home, Unlock(PHRASE, allow_plaintext=True))
    assert allowing.load(planted.key_id) == b"known to the attacker"


def test_a_passphrase_wins_over_allowing_none(home):
    assert (
        KeyStore(home, Unlock(PHRASE, allow_plaintext=True))
        .add(SET, SECRET)
        .is_protected
    )


def test_the_wrong_passphrase_opens_nothing_and_adds_nothing(store, home):
    key = store.add(SET, SECRET)
    wrong = KeyStore(home, Unlock("another passphrase"))
    for attempt in (
        lambda: wrong.load(key.key_id),
        wrong.check_can_add,
        lambda: wrong.add(OTHER_SET, SECRET),
    ):
        with pytest.raises(AuthError) as caught:
            attempt()
        assert caught.value.code == "wrong-passphrase"
    assert len(store.all()) == 1


def test_a_function_is_asked_once_and_again_after_a_wrong_answer(store, home):
    key, asked = store.add(SET, SECRET), []
    answers = iter(["wrong passphrase", PHRASE, "never asked for"])

    def ask(is_new):
        asked.append(is_new)
        return next(answers)

    again = KeyStore(home, Unlock(ask))
    with pytest.raises(AuthError):
        again.load(key.key_id)
    assert again.load(key.key_id) == SECRET
    assert again.load(key.key_id) == SECRET
    again.add(OTHER_SET, SECRET)
    assert asked == [False, False]


def test_a_function_is_told_when_a_new_passphrase_is_chosen(home):
    asked = []
    KeyStore(home, Unlock(lambda new: asked.append(new) or PHRASE)).add(SET, SECRET)
    assert asked == [True]


def test_the_environment_is_asked_before_a_function(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, PHRASE)
    key = KeyStore(home, Unlock(lambda _: "asked")).add(SET, SECRET)
    assert KeyStore(home, Unlock(PHRASE)).load(key.key_id) == SECRET


def test_the_systems_keyring_keeps_a_passphrase_of_its_own(home, monkeypatch):
    ring, before = MemoryKeyring(), keyring.get_keyring()
    keyring.set_keyring(ring)
    try:
        key = KeyStore(home, Unlock(keyring_name="k")).add(SET, SECRET)
        assert KeyStore(home, Unlock(keyring_name="k")).load(key.key_id) == SECRET
        (passphrase,) = ring.kept.values()
        assert len(passphrase) == 43
        with pytest.raises(AuthError):
            KeyStore(home, Unlock()).load(key.key_id)
        ring.locked = True
        with pytest.raises(UnavailableError) as caught:
            KeyStore(home, Unlock(keyring_name="k")).load(key.key_id)
        assert caught.value.code == "keyring-unavailable"
        ring.locked = False
        ring.kept.clear()  # lost: no other one is made up for keys that are there
        with pytest.raises(AuthError):
            KeyStore(home, Unlock(keyring_name="k")).add(OTHER_SET, SECRET)
        assert ring.kept == {}
    finally:
        keyring.set_keyring(before)


def test_new_keys_retire_those_before_which_still_open(store):
    old, other = store.add(SET, b"old" * 99), store.add(OTHER_SET, SECRET)
    new = store.add(SET, b"new" * 99)
    assert store.current(SET).key_id == new.key_id
    assert store.info(old.key_id).retired_at
    assert store.load(old.key_id) == b"old" * 99
    assert store.current(OTHER_SET).key_id == other.key_id
    assert next(k.key_id for k in store.all()) == new.key_id


def test_what_became_of_a_key_is_remembered(store):
    key_id = store.add(SET, SECRET).key_id
    store.note(key_id, models={"m/1": "1" * 64}, uploads={"http://a": "t"})
    store.note(key_id, models={"m/2": "2" * 64}, evaluation_sha256="e" * 64)
    store.note(key_id, uploads={"http://b": "t"}, not_uploaded="http://a")
    key = store.info(key_id)
    assert set(key.models) == {"m/1", "m/2"}
    assert (key.uploads, key.evaluation_sha256) == ({"http://b": "t"}, "e" * 64)


def test_notes_made_at_once_are_all_kept(store):
    key_id = store.add(SET, SECRET).key_id
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.note(key_id, models={f"m/{i}": ""}), range(40)))
    assert len(store.info(key_id).models) == 40


def test_an_export_opens_elsewhere_under_its_own_passphrase(store, tmp_path):
    secret, file = pack_keys(SECRET, SET), tmp_path / "out" / "k.sealed"
    key = store.add(SET, secret)
    store.export(key.key_id, file, passphrase="for the way there")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SECRET[:16] not in file.read_bytes()
    with pytest.raises(ConflictError):
        store.export(key.key_id, file, passphrase="for the way there")
    there = KeyStore(Home(tmp_path / "there"), Unlock("passphrase there"))
    mine = there.add(SET, b"made there" * 9)
    for wrong in (PHRASE, None):
        with pytest.raises(AuthError):
            there.import_(file, passphrase=wrong)
    assert there.import_(file, passphrase="for the way there").key_id == key.key_id
    assert there.load(key.key_id) == secret
    assert there.current(SET).key_id == key.key_id  # though it is the older one
    assert there.load(mine.key_id) == b"made there" * 9
    with pytest.raises(ConflictError) as caught:
        there.import_(file, passphrase="for the way there")
    assert caught.value.code == "key-exists"


def test_an_export_that_is_none_is_refused(store, tmp_path):
    file = tmp_path / "k.sealed"
    with pytest.raises(FormatError):
        store.import_(file, passphrase=None)
    file.write_bytes(b"x" * 100)
    with pytest.raises(FormatError):
        store.import_(file, passphrase=None)


@pytest.mark.parametrize(
    "secret", [SECRET, pack_keys(SECRET, OTHER_SET), pack_keys(SECRET, SET)[:-1]]
)
def test_an_export_without_keys_of_its_key_set_retires_none(store, tmp_path, secret):
    file = tmp_path / "k.sealed"
    key = store.add(SET, secret)
    store.export(key.key_id, file, passphrase="for the way there")
    there = KeyStore(Home(tmp_path / "there"), Unlock("passphrase there"))
    mine = there.add(SET, b"made there" * 9)
    with pytest.raises(FormatError):
        there.import_(file, passphrase="for the way there")
    assert there.all() == [mine]


@pytest.mark.parametrize(
    "notes", [b'{"color": "red"}', b'{"models": []}', b'{"retired_at": 1}', b"[]", b"x"]
)
def test_damaged_notes_are_a_typed_error(store, notes):
    key = store.add(SET, SECRET)
    (store.root / f"{key.key_id}.json").write_bytes(notes)
    for attempt in (store.info, store.note):
        with pytest.raises(FormatError):
            attempt(key.key_id)


def test_keys_added_at_once_have_one_passphrase_and_one_of_them_is_current(home):
    def slowly(phrase):
        threading.Event().wait(0.05)
        return phrase

    def attempt(phrase):
        try:
            KeyStore(home, Unlock(lambda _: slowly(phrase))).add(SET, SECRET)
        except AuthError as exc:
            return exc.code
        return phrase

    phrases = [PHRASE, PHRASE, "another passphrase", "another passphrase"]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(attempt, phrases))
    assert told.count("wrong-passphrase") == 2
    (phrase,) = set(told) - {"wrong-passphrase"}
    store = KeyStore(home, Unlock(phrase))
    assert [store.load(key.key_id) for key in store.all()] == [SECRET] * 2
    assert [bool(key.retired_at) for key in store.all()].count(False) == 1


def test_a_deleted_key_is_gone(store):
    key_id = store.add(SET, SECRET).key_id
    store.note(key_id, models={"m/1": ""})
    store.remove(key_id)
    assert store.all() == []
    assert [p.name for p in store.root.iterdir()] == []
    for attempt in (store.load, store.remove, store.info, store.note):
        with pytest.raises(NotFoundError):
            attempt(key_id)


@pytest.mark.parametrize("key_id", ["../../x", "", "A" * 16, "0" * 15])
def test_a_key_id_is_no_way_out_of_the_folder(store, key_id):
    with pytest.raises(FormatError):
        store.load(key_id)


def test_a_damaged_or_renamed_file_is_a_typed_error(store):
    key = store.add(SET, SECRET)
    path = store.root / f"{key.key_id}.sealed"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(FormatError) as caught:
        store.load(key.key_id)
    assert caught.value.code == "keys-damaged"
    path.write_bytes(good)
    path.rename(store.root / f"{'0' * 16}.sealed")
    with pytest.raises(FormatError):
        store.all()


def test_only_one_process_makes_keys_for_a_key_set(store, home):
    inside, most, lock = [], [], threading.Lock()

    def make(_):
        with KeyStore(home, Unlock(PHRASE)).making(SET):
            with lock:
                inside.append(1)
                most.append(len(inside))
            threading.Event().wait(0.01)
            with lock:
                inside.pop()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(make, range(6)))
    assert max(most) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"one line\nnext", "one line"), (b"crlf\r\n", "crlf"), (b"no newline", None)],
)
def test_a_passphrase_file_gives_its_first_line(tmp_path, content, expected):
    file = tmp_path / "p"
    file.write_bytes(content)
    assert read_passphrase(file) == (expected or content.decode())


@pytest.mark.parametrize("content", [None, b"", b"\nx", b"\xff\xfe", b"x" * 5000])
def test_a_file_that_holds_no_passphrase_is_refused(tmp_path, content):
    file = tmp_path / "p"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FormatError):
        read_passphrase(file)
