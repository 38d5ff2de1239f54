import copy

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import key_id, public_jwk
from privacy.key_history import (
    begin,
    check_counts,
    extend,
    key_set,
    read_history,
    revoke,
    succeed,
)

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(4)]
IDS = [key_id(k.public_key()) for k in KEYS]
DAYS = [f"2026-11-2{i}T00:00:00.000Z" for i in range(5)]


def rotated(count, keys=KEYS):
    history = begin(keys[0], at=DAYS[0])
    for old, new, day in zip(keys, keys[1:count], DAYS[1:], strict=False):
        history = succeed(history, new, old, at=day, until=day)
    return history


def test_a_history_tells_every_key_and_when_it_ended():
    found = read_history(key_set(rotated(3)))
    assert list(found) == IDS[:3]
    assert [k.until for k in found.values()] == [DAYS[1], DAYS[2], ""]
    served = key_set(rotated(3))["keys"]
    assert [k["kid"] for k in served] == [IDS[2], IDS[1], IDS[0]]


def test_a_client_that_pinned_the_first_key_follows_to_the_newest():
    for pinned in (key_set(rotated(1)), {"keys": key_set(rotated(1))["keys"]}):
        assert list(extend(pinned, key_set(rotated(3)))) == IDS[:3]


def test_a_key_nobody_vouched_for_is_not_accepted():
    pinned = key_set(rotated(1))
    stranger = key_set(begin(KEYS[3], at=DAYS[0]))
    with pytest.raises(VerificationError, match="another history"):
        extend(pinned, stranger)
    with pytest.raises(CannotVerifyError, match="do not vouch"):
        extend({"keys": pinned["keys"]}, stranger)
    added = {"keys": [*pinned["keys"], public_jwk(KEYS[3].public_key())]}
    with pytest.raises(CannotVerifyError, match="do not vouch"):
        extend({"keys": pinned["keys"]}, added)


def test_nobody_stands_before_a_key_that_was_pinned_without_its_history():
    thief = begin(KEYS[3], at=DAYS[0])
    history = succeed(thief, KEYS[0], KEYS[3], at=DAYS[1], until=DAYS[1])
    with pytest.raises(CannotVerifyError, match="do not vouch"):
        extend({"keys": key_set(rotated(1))["keys"]}, key_set(history))


def test_a_key_that_did_not_sign_its_own_naming_is_not_in_a_history():
    served = key_set(rotated(2))
    stranger = key_set(succeed(rotated(1), KEYS[3], KEYS[0], at=DAYS[1], until=DAYS[1]))
    entry = served["history"][1]
    for signature in (
        entry["jws"],
        stranger["history"][1]["jws_of_next"],
        "a..b",
        None,
    ):
        changed = copy.deepcopy(served)
        changed["history"][1]["jws_of_next"] = signature
        with pytest.raises(VerificationError):
            read_history(changed)
    del served["history"][1]["jws_of_next"]
    with pytest.raises(VerificationError, match="signatures"):
        read_history(served)


def test_two_successors_of_one_key_are_a_fork():
    honest = key_set(rotated(2))
    forged = key_set(rotated(2, [KEYS[0], KEYS[3]]))
    with pytest.raises(VerificationError) as caught:
        extend(honest, forged)
    assert caught.value.code == "key-history-fork"
    with pytest.raises(VerificationError):
        extend(honest, key_set(rotated(1)))


def test_a_served_key_outside_the_history_is_refused():
    served = key_set(rotated(2))
    served["keys"].append(public_jwk(KEYS[3].public_key()))
    with pytest.raises(VerificationError, match="does not name"):
        read_history(served)


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("action", "first"),
        ("action", "revoked"),
        ("kid", IDS[3]),
        ("x", "AAAA"),
        ("at", DAYS[4]),
        ("until", DAYS[4]),
        ("log_size", 7),
        ("log_size", True),
        ("previous_sha256", "ab" * 32),
    ],
)
def test_a_changed_statement_breaks_the_history(at, member, value):
    served = copy.deepcopy(key_set(rotated(3)))
    statement = served["history"][at]["statement"]
    if statement[member] == value:
        return
    statement[member] = value
    with pytest.raises(VerificationError) as caught:
        read_history(served)
    assert caught.value.code == "key-history-broken"


@pytest.mark.parametrize(
    "history", [[], {}, "x", [1], [{}], [{"statement": {}, "jws": "a..b"}]]
)
def test_what_is_no_history_is_refused(history):
    with pytest.raises((FormatError, VerificationError)):
        read_history({"history": history})


def test_receipts_of_an_ended_key_count_until_its_end():
    old = read_history(key_set(rotated(2)))[IDS[0]]
    check_counts(old, finished_at=DAYS[1])
    with pytest.raises(VerificationError, match="ended at") as caught:
        check_counts(old, finished_at=DAYS[2], log_index=0)
    assert caught.value.code == "receipt-key-ended"


def test_receipts_of_a_revoked_key_count_only_if_the_log_had_them_before():
    history = revoke(rotated(2), IDS[0], KEYS[1], at=DAYS[3], since=DAYS[0], log_size=5)
    old = read_history(key_set(history))[IDS[0]]
    check_counts(old, finished_at=DAYS[0], log_index=4)
    with pytest.raises(CannotVerifyError, match="only the log can show"):
        check_counts(old, finished_at=DAYS[0])
    with pytest.raises(VerificationError, match="revoked from entry 5"):
        check_counts(old, finished_at=DAYS[0], log_index=5)
    assert [k["kid"] for k in key_set(history)["keys"]] == [IDS[1]]


def test_a_key_revoked_twice_counts_by_the_earlier_size():
    history = rotated(2)
    for size in (5, 9, 0, 7):
        history = revoke(
            history, IDS[0], KEYS[1], at=DAYS[3], since=DAYS[0], log_size=size
        )
        expected = {5: 5, 9: 5, 0: 0, 7: 0}[size]
        assert read_history(key_set(history))[IDS[0]].revoked_log_size == expected


def test_the_key_of_the_day_cannot_be_revoked_by_itself():
    for kid in (IDS[0], IDS[3]):
        with pytest.raises(FormatError, match="rotate first"):
            revoke(rotated(1), kid, KEYS[0], at=DAYS[1], since=DAYS[0], log_size=0)


def test_a_key_set_without_history_has_keys_without_end():
    found = read_history({"keys": [public_jwk(KEYS[0].public_key())]})
    assert found[IDS[0]].until == ""
    check_counts(found[IDS[0]], finished_at=DAYS[4])
