"""Keys of sealed models on the broker's disk: under a passphrase, and erasable."""

import time
from dataclasses import replace

import pytest

from privacy.broker import Deposits
from privacy.client.passphrase import Unlock
from privacy.errors import AuthError, FormatError, NotFoundError
from tests.support.sealed_bundle import unloaded

CONTENT_KEY = bytes(range(32))


def everything_in(folder):
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_a_deposit_opens_with_its_passphrase_only(home, sealed_bundle, policy):
    Deposits(home, Unlock("correct horse")).add(sealed_bundle, CONTENT_KEY, policy)
    opened = Deposits(home, Unlock("correct horse")).open(sealed_bundle.sha256)
    assert opened.content_key == CONTENT_KEY
    assert opened.policy == policy
    assert opened.deposit.model == "demo/1"
    assert opened.measurements == unloaded()
    assert "content_key" not in repr(opened)
    for unlock in (Unlock("another horse"), Unlock()):
        with pytest.raises(AuthError):
            Deposits(home, unlock).open(sealed_bundle.sha256)


def test_nothing_on_the_brokers_disk_holds_the_content_key(home, sealed_bundle, policy):
    Deposits(home, Unlock("correct horse")).add(sealed_bundle, CONTENT_KEY, policy)
    on_disk = everything_in(home)
    assert CONTENT_KEY not in on_disk
    assert b"correct horse" not in on_disk
    assert (home / "broker").stat().st_mode & 0o077 == 0


def test_keys_are_kept_under_a_passphrase_even_if_plaintext_is_allowed(
    home, sealed_bundle, policy, monkeypatch
):
    monkeypatch.delenv("PRIVACY_PASSPHRASE", raising=False)
    with pytest.raises(AuthError) as caught:
        Deposits(home, Unlock(allow_plaintext=True)).add(
            sealed_bundle, CONTENT_KEY, policy
        )
    assert caught.value.code == "passphrase-missing"


def test_another_passphrase_than_the_first_ones_is_refused(home, sealed_bundle, policy):
    Deposits(home, Unlock("correct horse")).add(sealed_bundle, CONTENT_KEY, policy)
    with pytest.raises(AuthError):
        Deposits(home, Unlock("another horse")).check_can_open()
    Deposits(home, Unlock("correct horse")).check_can_open()


def test_a_revoked_key_is_erased_and_remembered(deposits, home, sealed_bundle, policy):
    deposits.add(sealed_bundle, CONTENT_KEY, policy)
    gone = deposits.revoke("demo/1")
    assert gone.revoked_at
    assert not list((home / "broker").glob("*.sealed"))
    for ask in (deposits.known, deposits.open):
        with pytest.raises(NotFoundError) as caught:
            ask(sealed_bundle.sha256)
        assert caught.value.code == "key-revoked"
    assert deposits.revoke(sealed_bundle.sha256) == gone
    assert deposits.all() == [gone]


def test_a_revocation_that_was_interrupted_counts_and_can_be_finished(
    deposits, home, sealed_bundle, policy
):
    deposits.add(sealed_bundle, CONTENT_KEY, policy)
    path = home / "broker" / f"{sealed_bundle.sha256}.sealed"
    raw = path.read_bytes()
    gone = deposits.revoke("demo/1")
    path.write_bytes(raw)  # as if it had died before it erased the key
    for ask in (deposits.known, deposits.open):
        with pytest.raises(NotFoundError) as caught:
            ask(sealed_bundle.sha256)
        assert caught.value.code == "key-revoked"
    assert deposits.all() == [gone]
    assert deposits.revoke("demo/1") == gone
    assert not path.exists()


def test_a_model_that_was_never_deposited_is_unknown(deposits):
    for ask in (deposits.known, deposits.open, deposits.revoke):
        with pytest.raises(NotFoundError) as caught:
            ask("ab" * 32)
        assert caught.value.code == "unknown-key"


def test_a_file_of_another_model_is_not_taken_for_this_one(
    deposits, home, sealed_bundle, policy
):
    deposits.add(sealed_bundle, CONTENT_KEY, policy)
    other = "cd" * 32
    source = home / "broker" / f"{sealed_bundle.sha256}.sealed"
    source.rename(source.with_name(f"{other}.sealed"))
    with pytest.raises(FormatError):
        deposits.open(other)


def test_the_newest_deposit_comes_first(deposits, sealed_bundle, policy):
    again = replace(sealed_bundle, sha256="cd" * 32)
    deposits.add(sealed_bundle, CONTENT_KEY, policy)
    time.sleep(0.002)  # they are dated by the millisecond
    deposits.add(again, CONTENT_KEY, policy)
    assert [d.model_sha256 for d in deposits.all()] == [
        again.sha256,
        sealed_bundle.sha256,
    ]
