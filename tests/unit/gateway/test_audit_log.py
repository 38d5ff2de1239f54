"""The audit log: in the database, over HTTP, and into its archive."""

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.log_keeper import LogKeeper, Refusals
from gateway.signing import ReceiptKeys
from gateway.store import audit as audit_store
from gateway.store.audit import Act, Audit, Who, note
from gateway.store.away import StoreAwayError
from gateway.store.database import Database
from gateway.store.log_tables import audit_entries, audit_state
from gateway.store.receipt_log import ReceiptLog
from privacy.client.home import Home
from privacy.client.log_heads import LogHeads
from privacy.encoding import sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.key_history import public_keys, read_history
from privacy.transparency.audit_chain import ChainEnd, follow, parse_entry
from privacy.transparency.tree_head import parse_head, sign_head, verify_head
from tests.support.live_gateway import wait_until
from tests.support.postgres import new_database

KEY = Ed25519PrivateKey.generate()


BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request, tmp_path):
    is_shared = getattr(request, "param", "sqlite") == "postgresql"
    database = Database(new_database() if is_shared else tmp_path / "gateway.sqlite")
    yield database
    database.close()


def lines_of(audit, after=0):
    return [line.encode() for line in audit.entries(after, 1000)]


@BOTH
def test_noted_acts_become_a_chain_that_verifies(database):
    audit = Audit(database, gateway="one")
    audit.record(Act(action="first", details={"n": 1}))
    assert audit.entries(0, 10) == []
    assert audit.chain() == 1
    with database.write() as c:
        note(c, Act(action="second", who=Who("key_1", "acme", "two", "r1")))
        note(c, Act(action="third", target="job_1", outcome="refused 403"))
    assert audit.chain() == 2
    assert audit.chain() == 0
    end, archived = audit.end()
    assert follow(lines_of(audit)) == end
    assert archived == ChainEnd()
    entries = [parse_entry(line) for line in lines_of(audit)]
    assert [e.action for e in entries] == ["first", "second", "third"]
    assert (entries[0].actor, entries[0].gateway) == ("gateway", "one")
    assert (entries[1].actor, entries[1].tenant) == ("key_1", "acme")


def test_an_act_that_is_rolled_back_is_not_noted(database):
    audit = Audit(database, gateway="one")

    def fail():
        with database.write() as c:
            note(c, Act(action="never"))
            raise RuntimeError("the act failed")

    with pytest.raises(RuntimeError):
        fail()
    assert audit.chain() == 0


@pytest.mark.parametrize("value", [float("nan"), "x" * 70000, object()])
def test_what_can_be_no_entry_is_refused_before_it_stands_in_the_way(database, value):
    audit = Audit(database, gateway="one")
    with pytest.raises(FormatError):
        audit.record(Act(action="odd", details={"value": value}))
    audit.record(Act(action="sound"))
    assert audit.chain() == 1


@BOTH
def test_several_gateways_make_one_chain(database, monkeypatch):
    monkeypatch.setattr(audit_store, "_NOTES", audit_store._NOTES.limit(3))
    monkeypatch.setattr(audit_store, "_AT_ONCE", 3)
    audits = [Audit(database, gateway=name) for name in ("one", "two", "three")]
    for i in range(12):
        audits[i % 3].record(Act(action=f"act {i}"))
    threads = [threading.Thread(target=a.chain) for a in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end, _ = audits[0].end()
    assert end.size == 12
    assert follow(lines_of(audits[0])) == end
    actions = {parse_entry(line).action for line in lines_of(audits[0])}
    assert actions == {f"act {i}" for i in range(12)}


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        sa.update(audit_entries).values(line="{}"),
        sa.delete(audit_entries),
        sa.delete(audit_entries).where(audit_entries.c.seq == 2),
    ],
)
def test_the_database_refuses_to_change_or_remove_entries(database, change):
    audit = Audit(database, gateway="one")
    for i in range(3):
        audit.record(Act(action=f"act {i}"))
    audit.chain()
    with pytest.raises(sa.exc.DBAPIError, match="audit log"), database.write() as c:
        c.execute(change)
    assert len(lines_of(audit)) == 3


def test_what_is_cut_off_past_the_triggers_is_found_by_a_tree_head(database):
    audit, log = Audit(database, gateway="one"), ReceiptLog(database)
    for i in range(4):
        audit.record(Act(action=f"act {i}"))
    audit.chain()
    log.integrate(most_age_s=600, sign=lambda head: sign_head(head, KEY))
    head = parse_head(log.head())
    heads = {head.audit_size: head.audit_sha256}
    lines = lines_of(audit)
    assert follow(lines, heads=heads).size == 4
    with pytest.raises(VerificationError, match="cut off"):
        follow(lines[:3], heads=heads)


def keeper(database, tmp_path, **options):
    audit = Audit(database, gateway="one")
    chosen = {"most_age_s": 600, "keep_s": 1e9, **options}
    return LogKeeper(
        ReceiptKeys(tmp_path / "receipt.key", database),
        ReceiptLog(database),
        audit,
        Refusals(),
        archive=tmp_path / "audit",
        **chosen,
    ), audit


@BOTH
def test_old_entries_go_to_files_that_the_chain_goes_on_from(
    database, tmp_path, monkeypatch
):
    monkeypatch.setattr("gateway.log_keeper.MOST_ENTRIES", 3)
    audit = Audit(database, gateway="one")
    for i in range(5):
        audit.record(Act(action="old", at=f"2020-01-01T00:00:0{i}.000Z"))
    audit.chain()
    keeping, audit = keeper(database, tmp_path, keep_s=3600)
    keeping.tick()
    keeping.archive()
    keeping.archive()
    files = sorted((tmp_path / "audit").iterdir())
    assert [f.name for f in files] == [
        "000000000001-000000000003.jsonl",
        "000000000004-000000000005.jsonl",
    ]
    assert {oct(f.stat().st_mode & 0o777) for f in files} == {"0o600"}
    archived = [line for f in files for line in f.read_bytes().splitlines()]
    end, past = audit.end()
    assert follow(archived) == past
    assert past.size == 5
    assert follow(lines_of(audit), start=past) == end
    assert follow([*archived, *lines_of(audit)]) == end


def test_an_archive_is_not_made_of_a_broken_chain(database, tmp_path):
    audit = Audit(database, gateway="one")
    audit.record(Act(action="old", at="2020-01-01T00:00:00.000Z"))
    audit.chain()
    keeping, audit = keeper(database, tmp_path, keep_s=3600)
    with database.write() as c:  # someone with rights to all of the database
        c.execute(sa.update(audit_state).values(archived_sha256="ab" * 32))
    with pytest.raises(VerificationError):
        keeping.archive()
    assert not (tmp_path / "audit").exists()
    assert len(lines_of(audit)) == len(audit.entries(0, 100)) > 0


def test_a_key_rotated_elsewhere_stalls_the_logs_until_it_is_here(database, tmp_path):
    keeping, _ = keeper(database, tmp_path)
    log, key_file = ReceiptLog(database), tmp_path / "receipt.key"
    old = key_file.read_bytes()
    keeping.tick()
    before = log.head()
    elsewhere = ReceiptKeys(key_file, database)
    elsewhere.rotate(overlap_s=60, log_size=None, since="")
    new = key_file.read_bytes()
    key_file.write_bytes(old)  # as on another machine, which has not got the new file
    keeping.tick()
    assert log.head() == before
    key_file.write_bytes(new)
    keeping.tick()
    assert log.head() != before
    verify_head(log.head(), public_keys(read_history(elsewhere.served())))


def test_refusals_are_one_entry_with_counts(database, tmp_path):
    keeping, audit = keeper(database, tmp_path)
    keeping.tick()
    before = audit.end()[0].size
    for i in range(100):
        keeping._refusals.add(401 if i % 4 else 403, f"10.0.0.{i % 50}")
    keeping.note_refusals()
    keeping.note_refusals()
    keeping.tick()
    (line,) = lines_of(audit, after=before)
    entry = parse_entry(line)
    assert (entry.action, entry.actor) == ("refused", "")
    assert entry.details["count"] == 100
    assert entry.details["status"] == {"401": 75, "403": 25}
    assert len(entry.details["from"]) == 16


def test_refusals_that_cannot_be_noted_are_noted_later(database, tmp_path, monkeypatch):
    keeping, audit = keeper(database, tmp_path)
    for i in range(1, 17):
        keeping._refusals.add(401, f"10.0.0.{i}")
    with monkeypatch.context() as patched:

        def away(_act):
            keeping._refusals.add(403, "10.0.0.1")
            keeping._refusals.add(403, "10.0.0.17")
            raise StoreAwayError("the database is away")

        patched.setattr(audit, "record", away)
        with pytest.raises(StoreAwayError):
            keeping.note_refusals()
    keeping.note_refusals()
    keeping.tick()
    details = parse_entry(lines_of(audit)[-1]).details
    assert details["status"] == {"401": 16, "403": 2}
    assert details["from"]["10.0.0.1"] == 2
    assert len(details["from"]) == 16


def entries_of(api, after=0):
    found = api.get("/v1/audit", params={"after": after}).json()["lines"]
    return [parse_entry(line.encode()) for line in found]


def entry_with(api, **members):
    """Return the newest entry with these members, waiting for it."""

    def find():
        for entry in reversed(entries_of(api)):
            if all(getattr(entry, k) == v for k, v in members.items()):
                return entry
        return None

    return wait_until(find, seconds=10, every_s=0.15, what=f"no audit entry {members}")


def test_jobs_are_in_the_audit_log_by_digest(api):
    job = api.order({"do": "echo"}, wait=30).json()
    entry = entry_with(api, action="job-submitted", target=job["id"])
    assert (entry.tenant, entry.gateway, entry.outcome) == ("default", "local", "done")
    assert entry.actor.startswith("key_")
    assert entry.request_id
    assert entry.details == {
        "mode": "zkml",
        "model_sha256": job["model_sha256"],
        "input_sha256": job["input_sha256"],
        "keys_sha256": "",
    }
    api.delete(f"/v1/jobs/{job['id']}/result")
    entry_with(api, action="result-deleted", target=job["id"])


def test_a_cancelled_job_is_in_the_audit_log(api):
    job = api.order({"do": "sleep", "seconds": 30}).json()
    api.delete(f"/v1/jobs/{job['id']}")
    entry = entry_with(api, action="job-cancelled", target=job["id"])
    assert entry.actor.startswith("key_")


def test_what_operators_do_is_recorded_as_begun_and_as_done(api):
    made = api.post(
        "/v1/api-keys", json={"tenant": "default", "scopes": ["jobs:read"]}
    ).json()
    done = entry_with(api, action="POST /v1/api-keys", outcome="done")
    (begun,) = [
        e
        for e in entries_of(api)
        if e.request_id == done.request_id and e.outcome == "begun"
    ]
    assert begun.seq < done.seq
    api.delete(f"/v1/api-keys/{made['id']}")
    entry_with(
        api,
        action="DELETE /v1/api-keys/{key_id}",
        target=f"/v1/api-keys/{made['id']}",
        outcome="done",
    )
    api.delete("/v1/api-keys/key_none")
    entry_with(api, target="/v1/api-keys/key_none", outcome="refused 404")
    assert made["key"] not in api.get("/v1/audit").text


def test_reading_the_audit_log_is_in_the_audit_log(api):
    api.get("/v1/audit")
    entry_with(api, action="GET /v1/audit", outcome="done")


def test_what_cannot_be_recorded_is_answered_with_that(gateway, api, monkeypatch):
    def refuse(_act):
        raise StoreAwayError("the disk is full", code="storage-full")

    body = {"tenant": "default", "scopes": ["jobs:read"], "name": "unrecorded"}
    with monkeypatch.context() as patched:
        patched.setattr(gateway.app.state.gateway.audit, "record", refuse)
        for answer in (
            api.get("/v1/audit"),
            api.get("/v1/tenants/none"),
            api.post("/v1/api-keys", json=body),
        ):
            assert answer.status_code == 503
            assert answer.json()["code"] == "storage-full"
    made = api.get("/v1/api-keys").json()["api_keys"]
    assert "unrecorded" not in {key["name"] for key in made}


def test_refused_requests_are_counted(gateway, api):
    with gateway.client("pk_" + "A" * 43) as stranger:
        for _ in range(3):
            assert stranger.get("/v1/jobs").status_code == 401
    gateway.app.state.gateway._keeper.note_refusals()
    entry = entry_with(api, action="refused")
    assert entry.details["count"] >= 3
    assert entry.details["from"]["127.0.0.1"] >= 3


def test_the_start_is_in_the_audit_log_without_what_settings_say(api):
    entry = entry_with(api, action="gateway-started")
    assert entry.actor == "gateway"
    assert "data_dir" in entry.details["settings"]
    assert "/tmp" not in str(entry.details)


def test_the_audit_log_is_for_operators_only(stranger):
    for path in ("/v1/audit", "/v1/audit/heads"):
        assert stranger.get(path).json()["code"] == "missing-scope"


def test_served_entries_and_heads_fit_together(api):
    def fitting():
        found = api.get("/v1/audit").json()
        notes = api.get("/v1/audit/heads").json()["heads"]
        heads = [parse_head(n.encode()) for n in notes]
        lines = [line.encode() for line in found["lines"]]
        named = {h.audit_size: h.audit_sha256 for h in heads if h.audit_size}
        known = {s: h for s, h in named.items() if s <= len(lines)}
        return known and follow(lines, heads=known) and lines

    lines = wait_until(fitting, every_s=0.15)
    assert sha256_hex(lines[0]) == parse_entry(lines[1]).previous_sha256


def test_an_operator_exports_and_verifies_the_audit_log(privacy, tmp_path):
    code, told = privacy("audit", "verify")
    assert (code, told["first"]) == (0, 1)
    file = tmp_path / "audit.jsonl"
    code, told = privacy("audit", "export", file)
    assert code == 0
    assert len(file.read_bytes().splitlines()) == told["last"]
    code, offline = privacy("audit", "verify", file)
    assert (code, offline["last"], offline["sha256"]) == (
        0,
        told["last"],
        told["sha256"],
    )
    assert offline["heads"] >= 1
    assert privacy("audit", "export", file)[0] == 2
    code, listed = privacy("audit", "list", "--limit", "3")
    assert (code, len(listed["entries"])) == (0, 3)


def test_a_changed_cut_or_headless_export_is_told_apart(privacy, tmp_path, api):
    file = tmp_path / "audit.jsonl"
    assert privacy("audit", "export", file)[0] == 0
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        b"".join([*lines[:2], lines[2].replace(b"done", b"dine"), *lines[3:]])
    )
    code, told = privacy("audit", "verify", file)
    assert (code, told["error"]["code"]) == (6, "audit-broken")
    assert "entry 4" in told["error"]["message"]
    file.write_bytes(b"".join(lines[:3]))
    code, told = privacy("audit", "verify", file)
    assert (code, told["error"]["code"]) == (6, "audit-truncated")
    file.write_bytes(b"".join(lines))
    keys = tmp_path / "keys.json"
    keys.write_bytes(api.get("/.well-known/jwks.json").content)
    elsewhere = ["--home", tmp_path / "elsewhere", "--keys", keys]
    code, told = privacy("audit", "verify", file, *elsewhere)
    assert (code, told["error"]["code"]) == (7, "no-tree-head")
    (link, *_) = LogHeads(Home(tmp_path / "home").log_folder(str(api.base_url))).all()
    head = tmp_path / "head"
    head.write_bytes(link.note)
    code, told = privacy("audit", "verify", file, "--head", head, *elsewhere)
    assert (code, told["heads"]) == (0, 1)


def test_a_head_of_another_log_is_not_held_against_an_export(
    gateway, privacy, tmp_path
):
    file, head = tmp_path / "audit.jsonl", tmp_path / "head"
    assert privacy("audit", "export", file)[0] == 0
    store = gateway.app.state.gateway
    other = replace(parse_head(store.receipt_log.head()), origin="another/log")
    head.write_bytes(store.receipt_keys.sign_head(other))
    code, told = privacy("audit", "verify", file, "--head", head)
    assert (code, told["error"]["code"]) == (7, "other-log")


def test_audit_verify_refuses_what_is_no_export(privacy, tmp_path):
    file = tmp_path / "x"
    assert privacy("audit", "verify", file)[1]["error"]["code"] == "no-such-file"
    for content in (b"", b"hello\n"):
        file.write_bytes(content)
        assert privacy("audit", "verify", file)[1]["error"]["code"] == "no-entries"
