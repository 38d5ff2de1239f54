"""The gateway's receipt keys: made, rotated, revoked, shared, and after a crash."""

import json
from dataclasses import replace
from threading import Thread

import pytest

from gateway.signing import KEY_FILE, ReceiptKeys
from gateway.store.audit import Audit
from gateway.store.database import Database
from privacy.cli.app import run
from privacy.clock import now
from privacy.errors import ConflictError, FormatError, UnavailableError
from privacy.key_history import check_counts, extend, public_keys, read_history
from privacy.receipt import Receipt, verify_receipt
from privacy.transparency.audit_chain import parse_entry

RECEIPT = Receipt(
    job_id="job_1",
    model="demo",
    version="1",
    model_sha256="ab" * 32,
    mode="fhe",
    status="failed",
    problem="x",
    input_sha256="ab" * 32,
    keys_sha256="",
    output_sha256="",
    evidence_kind="",
    evidence_sha256="",
    node="local",
    simulated=False,
    options={},
    submitted_at="2026-11-21T15:00:00.000Z",
    started_at="2026-11-21T15:00:00.000Z",
    finished_at="2026-11-21T15:00:01.000Z",
)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "gateway.sqlite")
    yield database
    database.close()


@pytest.fixture
def keys(database, tmp_path):
    return ReceiptKeys(tmp_path / KEY_FILE, database)


def rotate(keys, **options):
    return keys.rotate(**{"overlap_s": 60, "log_size": None, "since": "", **options})


def check(raw, served, *, log_index=None):
    known = read_history(served)
    receipt = verify_receipt(raw, public_keys(known))
    kid = next(k for k in known if _signed_by(raw, known, k))
    check_counts(known[kid], finished_at=receipt.finished_at, log_index=log_index)


def _signed_by(raw, known, kid):
    try:
        return verify_receipt(raw, {kid: known[kid].public_key})
    except Exception:  # noqa: BLE001 - another key's
        return False


def test_old_receipts_verify_after_any_number_of_rotations(keys):
    raws, first = [], keys.served()
    for _ in range(3):
        raws.append(keys.sign(replace(RECEIPT, finished_at=now())))
        rotate(keys)
    raws.append(keys.sign(replace(RECEIPT, finished_at=now())))
    extend(first, keys.served())
    for raw in raws:
        check(raw, keys.served())
    assert len(keys.served()["keys"]) == 4


def test_the_old_private_key_is_gone_after_a_rotation(keys, tmp_path):
    old = (tmp_path / KEY_FILE).read_bytes()
    rotate(keys)
    kept = [p for p in tmp_path.iterdir() if p.is_file()]
    assert not any(old in p.read_bytes() for p in kept)
    assert oct((tmp_path / KEY_FILE).stat().st_mode & 0o777) == "0o600"


def test_a_running_gateway_takes_over_what_a_command_rotated(keys, database, tmp_path):
    command = ReceiptKeys(tmp_path / KEY_FILE, database)
    rotate(command)
    assert keys.key_id != command.key_id
    keys.refresh()
    assert keys.key_id == command.key_id
    assert keys.served() == command.served()


def test_a_gateway_without_the_shared_key_does_not_start(keys, database, tmp_path):
    with pytest.raises(UnavailableError, match="not the key of the day") as caught:
        ReceiptKeys(tmp_path / "other" / KEY_FILE, database)
    assert caught.value.code == "receipt-key-mismatch"


def test_a_gateway_that_lost_the_key_to_a_rotation_stops_signing_at_its_end(
    keys, database, tmp_path
):
    copy = tmp_path / "second" / KEY_FILE
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / KEY_FILE).read_bytes())
    second = ReceiptKeys(copy, database)
    rotate(keys, overlap_s=60)
    second.refresh()
    assert not second.is_current
    check(second.sign(replace(RECEIPT, finished_at=now())), keys.served())
    copy.write_bytes((tmp_path / KEY_FILE).read_bytes())
    second.refresh()
    assert second.is_current
    copy.write_bytes(b"\1" * 32)
    rotate(keys, overlap_s=-1)
    second.refresh()
    with pytest.raises(UnavailableError, match="not the key of the day"):
        second.sign(RECEIPT)


def test_a_rotation_broken_off_before_it_was_stored_changes_nothing(
    keys, database, tmp_path, monkeypatch
):
    def crash(*_args, **_options):
        raise RuntimeError("killed here")

    before = keys.key_id
    monkeypatch.setattr(keys, "_store", crash)
    with pytest.raises(RuntimeError):
        rotate(keys)
    again = ReceiptKeys(tmp_path / KEY_FILE, database)
    assert again.key_id == before
    assert not (tmp_path / f"{KEY_FILE}.next").exists()


def test_a_rotation_broken_off_after_it_was_stored_is_completed(
    keys, database, tmp_path, monkeypatch
):
    def crash():
        raise RuntimeError("killed here")

    before = keys.key_id
    monkeypatch.setattr(keys, "_adopt", crash)
    with pytest.raises(RuntimeError):
        rotate(keys)
    again = ReceiptKeys(tmp_path / KEY_FILE, database)
    assert again.key_id != before
    assert again.is_current
    again.sign(RECEIPT)


def test_a_gateway_that_looks_in_the_middle_of_a_rotation_spoils_nothing(
    keys, database, tmp_path, monkeypatch
):
    command = ReceiptKeys(tmp_path / KEY_FILE, database)
    looking, store = Thread(target=keys.refresh), command._store

    def slowly(*args, **options):
        looking.start()  # the new file is there, the history is not
        looking.join(0.3)
        store(*args, **options)

    monkeypatch.setattr(command, "_store", slowly)
    rotate(command)
    looking.join()
    keys.refresh()
    assert keys.is_current
    assert command.is_current
    assert keys.key_id == command.key_id


def test_rotations_at_once_follow_one_another(keys, database, tmp_path):
    other = ReceiptKeys(tmp_path / KEY_FILE, database)  # knows the first key only
    first = rotate(keys)
    second = rotate(other)
    assert second["previous"] == first["kid"]
    keys.refresh()
    assert keys.key_id == second["kid"]
    keys._history = keys._history[:2]  # as if read before the second
    with pytest.raises(ConflictError, match="try again"):
        keys._store(other._history)


def test_a_rotation_is_in_the_audit_log(keys, database):
    rotate(keys)
    audit = Audit(database, gateway="one")
    audit.chain()
    acts = [parse_entry(line.encode()) for line in audit.entries(0, 10)]
    assert [(a.action, a.actor) for a in acts] == [
        ("receipt-key-made", "gateway"),
        ("receipt-key-made", "operator"),
    ]
    assert acts[1].target == keys.key_id


def test_a_stolen_key_is_revoked_with_its_rotation(keys):
    raw = keys.sign(replace(RECEIPT, finished_at=now()))
    rotate(keys, log_size=4, since="2026-01-01T00:00:00.000Z")
    check(raw, keys.served(), log_index=3)
    with pytest.raises(Exception, match="revoked from entry 4"):
        check(raw, keys.served(), log_index=4)
    assert len(keys.served()["keys"]) == 1


@pytest.mark.parametrize("since", ["yesterday", "2026-01-01", "2999-01-01T00:00:00Z"])
def test_rotate_key_refuses_a_time_that_is_none(keys, tmp_path, since, capsys):
    del keys
    words = ["gateway", "rotate-key", "--json", "--stolen-since", since]
    code = run([*words, "--data", str(tmp_path)])
    assert code == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad-time"


def test_rotate_key_needs_a_gateway_that_was_started(tmp_path, capsys):
    assert run(["gateway", "rotate-key", "--data", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no-such-file"


def test_rotate_key_revokes_an_earlier_key(keys, database, tmp_path, capsys):
    old = keys.key_id
    data = ["gateway", "rotate-key", "--data", str(tmp_path), "--json"]
    assert run(data) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["previous"], made["revoked"]) == (old, None)
    stolen = ["--stolen-since", "2026-01-01T00:00:00+02:00"]
    assert run([*data, "--revoke", old, *stolen]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"kid": made["kid"], "revoked": old, "log_size": 0}
    assert run([*data, "--revoke", old]) == 2
    assert run([*data, "--revoke", made["kid"], *stolen]) == 2
    keys.refresh()
    known = read_history(keys.served())
    assert known[old].revoked_log_size == 0
    assert keys.served()["history"][-1]["statement"]["until"] == (
        "2025-12-31T22:00:00.000Z"
    )


def test_a_key_file_that_is_none_is_refused(database, tmp_path):
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(FormatError, match="restore it"):
        ReceiptKeys(tmp_path / KEY_FILE, database)
