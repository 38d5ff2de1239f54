"""The log of receipts: in the database, and over HTTP."""

import base64
import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.store import receipt_log
from gateway.store.database import Database
from gateway.store.jobs import Jobs, NewJob, Outcome
from gateway.store.log_tables import log_heads, log_leaves, log_nodes
from gateway.store.receipt_log import ReceiptLog
from privacy.cli.app import run
from privacy.client import Client, verify_saved
from privacy.client.home import Home
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.jws import key_id
from privacy.key_history import public_keys, read_history
from privacy.receipt import parse_receipt
from privacy.transparency.inclusion import hashes_from
from privacy.transparency.merkle import (
    append,
    check_consistency,
    check_inclusion,
    leaf_hash,
    range_hash,
)
from privacy.transparency.tree_head import sign_head, verify_head
from tests.support.live_gateway import printed_json, wait_until
from tests.support.postgres import new_database
from tests.support.uploaded import uploaded

KEY = Ed25519PrivateKey.generate()
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}
NEW = NewJob(
    id="job_0",
    tenant="default",
    idempotency_key=None,
    request_sha256="r",
    model="demo",
    version="1",
    model_sha256="m",
    mode="zkml",
    simulated=False,
    input_sha256="i",
    keys_sha256="",
    options={},
)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "gateway.sqlite")
    yield database
    database.close()


def end_jobs(database, count, *, first=0):
    jobs = Jobs(database)
    uploaded(database, NEW.input_sha256, tenant=NEW.tenant)
    for i in range(first, first + count):
        new = replace(NEW, id=f"job_{i}")
        jobs.accept(new, max_queued=10**6, max_queued_by_tenant=10**6)
        jobs.finish(new.id, Outcome("failed"), lambda job, *_: job.id.encode())


def sign(head):
    return sign_head(head, KEY)


def integrate(log, most_age_s=600.0):
    return log.integrate(most_age_s=most_age_s, sign=sign)


def test_receipts_of_ended_jobs_are_logged_once_each(database):
    log = ReceiptLog(database)
    assert integrate(log) == 0
    assert verify_head(log.head(), TRUSTED)[0].size == 0
    sizes = []
    for first, count in ((0, 1), (1, 2), (3, 9), (12, 1)):
        end_jobs(database, count, first=first)
        assert integrate(log) == count
        sizes.append(verify_head(log.head(), TRUSTED)[0])
    assert integrate(log) == 0
    expected = [leaf_hash(f"job_{i}".encode()) for i in range(13)]
    assert log.leaves(0, 1000) == expected
    nodes = append(0, {}.__getitem__, expected)
    for head in sizes:
        assert head.root == range_hash(nodes.__getitem__, 0, head.size)
    with database.read() as c:
        stored = c.execute(sa.select(log_nodes)).all()
    assert {(n.level, n.position): n.hash for n in stored} == {
        node: value for node, value in nodes.items() if node[0]
    }


def test_every_proof_from_the_database_verifies(database):
    log = ReceiptLog(database)
    heads = {}
    for i in range(12):
        end_jobs(database, 1, first=i)
        integrate(log)
        heads[i + 1] = verify_head(log.head(), TRUSTED)[0]
    for size, head in heads.items():
        for i in range(size):
            leaf = leaf_hash(f"job_{i}".encode())
            index, path = log.prove_inclusion(leaf, size)
            assert index == i
            check_inclusion(leaf, index=i, size=size, path=path, root=head.root)
        for old in range(1, size + 1):
            path = log.prove_consistency(old, size)
            check_consistency((old, heads[old].root), (size, head.root), path)


def at_once(monkeypatch, number):
    monkeypatch.setattr(receipt_log, "_NEXT", receipt_log._NEXT.limit(number))
    monkeypatch.setattr(receipt_log, "_AT_ONCE", number)


def test_more_receipts_than_fit_one_transaction_are_all_logged(database, monkeypatch):
    at_once(monkeypatch, 4)
    end_jobs(database, 10)
    log = ReceiptLog(database)
    assert integrate(log) == 10
    assert verify_head(log.head(), TRUSTED)[0].size == 10


def test_several_gateways_log_every_receipt_once(monkeypatch):
    at_once(monkeypatch, 2)
    shared = Database(new_database())
    end_jobs(shared, 12)
    logs = [ReceiptLog(shared) for _ in range(3)]
    threads = [threading.Thread(target=integrate, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = verify_head(logs[0].head(), TRUSTED)[0]
    leaves = logs[0].leaves(0, 100)
    shared.close()
    assert sorted(leaves) == sorted(leaf_hash(f"job_{i}".encode()) for i in range(12))
    nodes = append(0, {}.__getitem__, leaves)
    assert (head.size, head.root) == (12, range_hash(nodes.__getitem__, 0, 12))


def test_nothing_is_lost_or_doubled_if_signing_fails_midway(database):
    end_jobs(database, 3)
    log = ReceiptLog(database)

    def fail(_head):
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        log.integrate(most_age_s=600, sign=fail)
    assert log.leaves(0, 10) == []
    assert integrate(log) == 3
    assert len(log.leaves(0, 10)) == 3


def test_there_is_no_proof_of_what_is_not_in_the_log(database):
    log = ReceiptLog(database)
    end_jobs(database, 3)
    integrate(log)
    with pytest.raises(NotFoundError):
        log.prove_inclusion(leaf_hash(b"stranger"), 3)
    with pytest.raises(NotFoundError):
        log.prove_inclusion(leaf_hash(b"job_2"), 2)
    with pytest.raises(NotFoundError):
        log.prove_inclusion(leaf_hash(b"job_2"), 4)
    with pytest.raises(NotFoundError):
        log.prove_consistency(2, 4)
    with pytest.raises(FormatError):
        log.prove_consistency(3, 2)


def test_a_head_is_signed_again_once_it_is_old(database):
    log = ReceiptLog(database)
    integrate(log)
    first = log.head()
    integrate(log)
    assert log.head() == first
    time.sleep(0.005)
    integrate(log, most_age_s=0.001)
    assert log.head() != first


def test_of_every_hour_only_the_last_head_is_kept(database):
    log = ReceiptLog(database)
    for i in range(3):
        end_jobs(database, 1, first=i)
        integrate(log)
    assert len(log.heads(limit=10)) in {1, 2}  # an hour may just begin
    with database.write() as c:
        c.execute(sa.update(log_heads).values(signed_at="2026-01-01T00:00:00.000Z"))
    end_jobs(database, 1, first=3)
    integrate(log)
    kept = [verify_head(note, TRUSTED)[0].size for note in log.heads(limit=10)]
    assert kept[:2] == [4, 3]


def test_the_size_at_a_time_counts_what_was_logged_before(database):
    log = ReceiptLog(database)
    end_jobs(database, 2)
    integrate(log)
    with database.write() as c:
        c.execute(sa.update(log_leaves).values(logged_at="2026-01-01T00:00:00.000Z"))
    end_jobs(database, 3, first=2)
    integrate(log)
    assert log.size_at("2026-01-01T00:00:00.000Z") == 0
    assert log.size_at("2026-01-02T00:00:00.000Z") == 2
    assert log.size_at("9999-01-01T00:00:00.000Z") == 5


def trusted_of(api):
    return public_keys(read_history(api.get("/.well-known/jwks.json").json()))


def test_anyone_checks_that_a_job_was_logged(gateway, api):
    job = api.order({"do": "echo"}, wait=30).json()
    receipt = api.get(f"/v1/jobs/{job['id']}/receipt").content
    leaf = leaf_hash(receipt)
    with gateway.client("") as anyone:

        def proven():
            head, _ = verify_head(anyone.get("/v1/log/head").content, trusted_of(api))
            asked = {"leaf_hash": leaf.hex(), "size": head.size}
            reply = anyone.get("/v1/log/proof", params=asked) if head.size else None
            return (head, reply.json()) if reply and reply.is_success else None

        head, found = wait_until(proven, seconds=20)  # usually within two
        path = hashes_from(found["path"])
        check_inclusion(
            leaf, index=found["index"], size=head.size, path=path, root=head.root
        )
        with pytest.raises(VerificationError):
            check_inclusion(
                leaf_hash(b"other"),
                index=found["index"],
                size=head.size,
                path=path,
                root=head.root,
            )
        hashes = anyone.get("/v1/log/leaves").json()["leaf_hashes"]
        assert base64.b64encode(leaf).decode() in hashes
        api.order({"do": "echo"}, wait=30)
        later = wait_until(
            lambda: (
                (
                    new := verify_head(
                        anyone.get("/v1/log/head").content, trusted_of(api)
                    )[0]
                ).size
                > head.size
                and new
            )
        )
        asked = {"from": head.size, "to": later.size}
        reply = anyone.get("/v1/log/consistency", params=asked).json()
        check_consistency(
            (head.size, head.root), (later.size, later.root), hashes_from(reply["path"])
        )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("proof?leaf_hash=" + "ab" * 32 + "&size=1", 404, "not-in-log"),
        ("proof?leaf_hash=" + "ab" * 32 + "&size=9999999", 404, "not-in-log"),
        ("proof?leaf_hash=xyz&size=1", 422, "invalid-request"),
        ("proof?leaf_hash=" + "ab" * 32 + "&size=0", 422, "invalid-request"),
        ("consistency?from=1&to=9999999", 404, "not-in-log"),
        ("consistency?from=2&to=1", 422, "bad-log-size"),
        ("consistency?from=0&to=1", 422, "invalid-request"),
        ("leaves?limit=100000", 422, "invalid-request"),
    ],
)
def test_odd_questions_to_the_log_are_typed_errors(gateway, path, status, code):
    with gateway.client("") as anyone:
        reply = anyone.get(f"/v1/log/{path}")
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_client_fetches_a_log_entry_and_verifies_it_offline(gateway, api, tmp_path):
    job = api.order({"do": "echo"}, mode="fhe", model="keyless", wait=30).json()
    home = Home(tmp_path / "home")
    path = home.receipt_folder(job["id"]) / "receipt.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(api.get(f"/v1/jobs/{job['id']}/receipt").content)
    output = api.get(f"/v1/jobs/{job['id']}/result").content
    path.with_name("output.bin").write_bytes(output)
    with Client(gateway.base_url, home=home.root) as client:
        client.fetch_log_entries([path], wait_s=10)
        assert client.audit_log()["own_receipts"] == 1
    verdict = verify_saved(path, home=home, log=True)
    assert [(s.name, s.verdict) for s in verdict.steps] == [
        ("log", "ok"),
        ("log-consistency", "ok"),
        ("signature", "ok"),
        ("output", "ok"),
    ]


def test_a_key_rotated_while_the_gateway_runs_signs_what_comes_next(
    gateway, api, tmp_path, capsys
):
    def signer():
        job = api.order({"do": "echo"}, wait=30).json()
        return parse_receipt(api.get(f"/v1/jobs/{job['id']}/receipt").content)[1]

    before = signer()
    home = Home(tmp_path / "home")
    with Client(gateway.base_url, home=home.root) as client:
        client.log_head()
        data = str(gateway.settings.data_dir)
        assert run(["gateway", "rotate-key", "--data", data, "--json"]) == 0
        told = printed_json(capsys.readouterr().out)
        assert told["previous"] == before
        wait_until(lambda: signer() == told["kid"], seconds=10)
        wait_until(lambda: client.log_head().size and True)
    assert list(home.receipt_keys(gateway.base_url)) == [before, told["kid"]]


def test_a_key_that_is_not_looked_at_does_not_lift_the_rate(gateway, monkeypatch):
    limits = gateway.app.state.gateway.rates._defaults
    monkeypatch.setattr(
        gateway.app.state.gateway.rates, "_defaults", replace(limits, unauthenticated=1)
    )
    with gateway.client("pk_made_up") as anyone:
        answers = [anyone.get("/v1/log/head").status_code for _ in range(4)]
    assert 429 in answers


def test_the_commands_fetch_show_audit_and_verify(privacy, api, tmp_path):
    code, head = privacy("log", "head")
    assert code == 0
    assert head["origin"].startswith("privacy-compute/receipts/")
    home, paths = Home(tmp_path / "home"), []
    for _ in range(2):
        order = api.order({"do": "echo"}, mode="fhe", model="keyless", wait=30)
        job = order.json()["id"]
        paths.append(home.receipt_folder(job) / "receipt.json")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(api.get(f"/v1/jobs/{job}/receipt").content)
        output = api.get(f"/v1/jobs/{job}/result").content
        paths[-1].with_name("output.bin").write_bytes(output)
    assert privacy("verify", paths[0], "--log")[0] == 7
    code, told = privacy("log", "fetch")
    assert code == 0
    assert sorted(told["entries"]) == sorted(
        str(p.with_name("receipt.tlog-proof")) for p in paths
    )
    assert privacy("log", "fetch")[1] == {"entries": []}
    code, verdict = privacy("verify", paths[0], "--log")
    assert (code, verdict["steps"][0]["verdict"]) == (0, "ok")
    keys = tmp_path / "keys.json"
    keys.write_bytes(api.get("/.well-known/jwks.json").content)
    stranger = ["--keys", keys, "--home", tmp_path / "elsewhere"]
    code, verdict = privacy("verify", paths[0], "--log", *stranger)
    assert (code, len(verdict["caveats"])) == (0, 1)
    code, told = privacy("log", "audit")
    assert (code, told["own_receipts"]) == (0, 2)
    code, told = privacy("log", "fetch", tmp_path / "none.json")
    assert (code, told["error"]["code"]) == (2, "no-such-file")
