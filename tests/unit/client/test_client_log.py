"""A data owner against a log that is honest, and one that is not."""

import dataclasses
import json

import pytest

from privacy.client import Client, verify_saved
from privacy.client.home import Home
from privacy.client.infer import gateway_keys
from privacy.client.log_heads import LogHeads
from privacy.clock import now
from privacy.encoding import sha256_hex
from privacy.errors import CannotVerifyError, NotFoundError, VerificationError
from privacy.jws import key_id
from privacy.key_history import begin, revoke, succeed
from privacy.receipt import Receipt, sign_receipt
from tests.support.log_site import LogSite

OUTPUT = b"an encrypted answer"
HONEST = Receipt(
    job_id="job_1",
    model="demo",
    version="1",
    model_sha256="ab" * 32,
    mode="fhe",
    status="succeeded",
    problem="",
    input_sha256="ab" * 32,
    keys_sha256="",
    output_sha256=sha256_hex(OUTPUT),
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
def site():
    return LogSite()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def client(site, home):
    with Client(site.url, home=home.root, transport=site.transport()) as client:
        yield client


def save(home, site, job_id="job_1", *, logged=True, **changes):
    """Keep a receipt as `infer` does, and log it."""
    changes = {"finished_at": now(), **changes}
    receipt = dataclasses.replace(HONEST, job_id=job_id, **changes)
    path = home.receipt_folder(job_id) / "receipt.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(sign_receipt(receipt, site.key))
    (path.parent / "output.bin").write_bytes(OUTPUT)
    if logged:
        site.log.append(path.read_bytes())
    return path


def verdicts(path, home, **options):
    found = verify_saved(path, home=home, log=True, **options)
    return found.exit_code, {s.name: s.verdict for s in found.steps}, found


def test_a_logged_receipt_verifies_offline(site, home, client):
    site.log += [b"others", b"receipts"]
    path = save(home, site)
    (entry,) = client.fetch_log_entries([path])
    assert entry.name == "receipt.tlog-proof"
    site.log.append(b"later")
    client.log_head()
    code, steps, verdict = verdicts(path, home)
    assert code == 0
    assert list(steps) == ["log", "log-consistency", "signature", "output"]
    assert verdict.caveats == ()
    assert "entry 2 of 3" in verdict.steps[0].detail


def test_without_a_log_entry_nothing_is_said_of_the_log(site, home, client):
    path = save(home, site)
    client.log_head()
    code, steps, _ = verdicts(path, home)
    assert code == 7
    assert steps["log"] == steps["log-consistency"] == "could not check"
    assert verify_saved(path, home=home).exit_code == 0


def test_the_entry_of_another_receipt_is_false(site, home, client):
    one, two = save(home, site, "job_1"), save(home, site, "job_2")
    (entry,) = client.fetch_log_entries([one])
    two.with_suffix(".tlog-proof").write_bytes(entry.read_bytes())
    code, steps, _ = verdicts(two, home)
    assert (code, steps["log"]) == (6, "failed")


def test_the_log_of_another_gateway_says_nothing_of_a_receipt(
    site, home, client, tmp_path
):
    path = save(home, site, logged=False)
    other = LogSite()
    other.url, other.origin = "http://other.test", "privacy-compute/receipts/other"
    other.log.append(path.read_bytes())
    elsewhere = Home(tmp_path / "other")
    transport = other.transport()
    with Client(other.url, home=elsewhere.root, transport=transport) as there:
        there.fetch_log_entries([path])
    client.log_head()
    own, others = home.receipt_keys(site.url), elsewhere.receipt_keys(other.url)
    code, steps, _ = verdicts(path, home, trusted=[own, others])
    assert (code, steps["log"]) == (7, "could not check")
    assert steps["signature"] == "ok"


def test_someone_who_saw_no_head_learns_what_was_not_checked(
    site, home, client, tmp_path
):
    path = save(home, site)
    client.fetch_log_entries([path])
    keys = home.receipt_keys(site.url)
    code, _, verdict = verdicts(path, Home(tmp_path / "other"), trusted=[keys])
    assert code == 0
    assert any("whether others are shown another log" in c for c in verdict.caveats)


def test_an_entry_that_nothing_ties_to_seen_heads_cannot_be_compared(
    site, home, client, tmp_path
):
    path = save(home, site)
    with Client(site.url, home=tmp_path / "other", transport=site.transport()) as other:
        other.fetch_log_entries([path])  # under a head that this home never saw
    site.log += [b"more"]
    client.log_head()
    code, steps, _ = verdicts(path, home)
    assert code == 7
    assert (steps["log"], steps["log-consistency"]) == ("ok", "could not check")


def test_an_entry_under_a_head_of_a_fork_is_false(site, home, client, tmp_path):
    path = save(home, site)
    site.log += [b"x"]
    with Client(site.url, home=tmp_path / "other", transport=site.transport()) as other:
        other.fetch_log_entries([path])
    site.log[1] = b"another past"
    client.log_head()
    code, steps, _ = verdicts(path, home)
    assert (code, steps["log-consistency"]) == (6, "failed")


def fork_last(site):
    site.log[-1] = b"rewritten"


def fork_first(site):
    site.log[0] = b"rewritten"
    site.log.append(b"more")


def shrink(site):
    site.log.pop()


def rename(site):
    site.origin = "privacy-compute/receipts/other"


@pytest.mark.parametrize("lie", [fork_last, fork_first, shrink, rename])
def test_a_log_that_changes_its_past_is_found_out(site, home, client, lie):
    site.log += [b"a", b"b", b"c"]
    client.log_head()
    before = LogHeads(home.log_folder(site.url)).all()
    lie(site)
    with pytest.raises(VerificationError) as caught:
        client.log_head()
    assert caught.value.code == "log-fork"
    (evidence,) = home.log_folder(site.url).glob("fork-*.json")
    kept = json.loads(evidence.read_bytes())
    assert kept["old"] != kept["new"]
    assert str(evidence) in caught.value.message
    assert LogHeads(home.log_folder(site.url)).all() == before


def test_an_audit_log_that_loses_its_end_is_found_out(site, home, client):
    site.audit = (7, "ab" * 32)
    client.log_head()
    for audit in ((7, "cd" * 32), (6, "ab" * 32)):
        site.audit = audit
        with pytest.raises(VerificationError) as caught:
            client.log_head()
        assert caught.value.code == "audit-truncated"


def test_a_clock_that_was_set_back_does_not_hide_what_the_audit_log_lost(
    site, home, client
):
    site.log, site.audit = [b"a"], (7, "ab" * 32)
    client.log_head()
    site.log, site.audit = [b"a", b"b"], (6, "cd" * 32)
    site.clock = lambda: "2020-01-01T00:00:00.000Z"
    with pytest.raises(VerificationError) as caught:
        client.log_head()
    assert caught.value.code == "audit-truncated"


def test_an_older_head_of_the_same_log_does_not_replace_a_newer(site, home, client):
    old = site.head()
    site.audit = (3, "ab" * 32)
    client.log_head()
    site.served_head = old
    client.log_head()
    (link,) = LogHeads(home.log_folder(site.url)).all()
    assert link.head.audit_size == 3


def test_a_receipt_that_is_not_logged_is_said_to_be_missing(site, home, client):
    path = save(home, site, logged=False)
    site.log.append(b"another's")
    with pytest.raises(NotFoundError, match="does not have 1 of these"):
        client.fetch_log_entries([path], wait_s=0)


def test_the_whole_log_makes_the_signed_root(site, home, client):
    site.log += [b"%d" % i for i in range(7)]
    save(home, site)
    found = client.audit_log()
    assert (found["size"], found["own_receipts"]) == (8, 1)
    site.served_head = site.head()
    site.log[3] = b"other"
    with pytest.raises(VerificationError, match="do not make the signed root"):
        client.audit_log()


def test_an_audit_finds_a_receipt_that_was_left_out(site, home, client):
    site.log.append(b"another's")
    save(home, site, logged=False, finished_at="2026-01-01T00:00:00.000Z")
    with pytest.raises(VerificationError, match="lacks 1 receipts") as caught:
        client.audit_log()
    assert caught.value.code == "not-in-log"


def test_receipts_of_before_and_after_a_rotation_verify(site, home, client):
    old = save(home, site, "job_1")
    client.fetch_log_entries([old])
    site.rotate()
    new = save(home, site, "job_2")
    client.fetch_log_entries([new])
    assert verdicts(old, home)[0] == 0
    assert verdicts(new, home)[0] == 0
    assert verify_saved(old, home=home).exit_code == 0


def test_a_receipt_dated_after_its_key_ended_is_false(site, home, client):
    old = save(home, site, finished_at="2999-01-01T00:00:00.000Z")
    client.log_head()
    assert verify_saved(old, home=home).exit_code == 0
    site.rotate()
    client.log_head()
    assert verify_saved(old, home=home).exit_code == 6


def test_a_receipt_of_a_revoked_key_needs_a_log_entry_of_before(site, home, client):
    early, late = save(home, site, "job_1"), save(home, site, "job_2")
    client.fetch_log_entries([early])
    site.rotate(revoked_at=1)
    client.log_head()
    assert verify_saved(early, home=home).exit_code == 7
    assert verdicts(early, home)[0] == 7  # that head is the revoked key's word, too
    client.fetch_log_entries([early, late])
    assert verdicts(early, home)[0] == 0
    code, steps, _ = verdicts(late, home)
    assert (code, steps["log"], steps["signature"]) == (6, "ok", "failed")


def test_a_receipt_of_a_stolen_key_does_not_count_by_another_gateways_log(
    site, home, client
):
    thief = LogSite()
    thief.url = "http://thief.test"
    forged = save(home, site, logged=False)
    thief.log.append(forged.read_bytes())
    site.log += [b"a", b"b"]
    site.rotate(revoked_at=2)
    client.log_head()
    with Client(thief.url, home=home.root, transport=thief.transport()) as other:
        other.fetch_log_entries([forged])  # entry 0, under a key that is trusted here
        code, steps, _ = verdicts(forged, home)
        assert (code, steps["log"]) == (7, "could not check")
    # The thief may name the stolen key among his own, and revoke it, too.
    stolen, own = LogSite(), thief.key
    stolen.key, stolen.history = own, begin(own, at=now())
    stolen.url, stolen.log = "http://thief-2.test", thief.log
    kid = site.history[0]["statement"]["kid"]
    stolen.history = succeed(stolen.history, site.first, own, at=now(), until=now())
    stolen.key = LogSite().key
    stolen.history = succeed(
        stolen.history, stolen.key, site.first, at=now(), until=now()
    )
    stolen.history = revoke(
        stolen.history, kid, stolen.key, at=now(), since=now(), log_size=99
    )
    with Client(stolen.url, home=home.root, transport=stolen.transport()) as other:
        other.fetch_log_entries([forged])
    code, steps, _ = verdicts(forged, home)
    assert (code, steps["log"]) == (7, "could not check")


def test_the_client_follows_a_rotation_when_it_meets_a_new_signer(site, home, client):
    def keys(signer=""):
        return client.run(gateway_keys(home, site.url, signer=signer))

    first = key_id(site.key.public_key())
    assert list(keys()) == [first]
    asked = len(site.asked)
    assert list(keys(first)) == [first]
    assert len(site.asked) == asked  # pinned: not asked again
    site.rotate()
    second = key_id(site.key.public_key())
    assert list(keys(second)) == [first, second]


def test_the_client_refuses_a_key_that_nobody_vouched_for(site, home, client):
    client.log_head()
    stranger = LogSite()
    site.key, site.history = stranger.key, stranger.history
    with pytest.raises(VerificationError) as caught:
        client.log_head()
    assert caught.value.code == "key-history-fork"
    assert home.receipt_keys(site.url) != stranger.history


def test_a_head_signed_by_an_ended_key_is_refused(site, home, client):
    client.log_head()
    old = site.key
    site.rotate(until="2026-01-01T00:00:00.000Z")
    site.key = old
    with pytest.raises(VerificationError) as caught:
        client.log_head()
    assert caught.value.code == "receipt-key-ended"


def test_a_head_of_an_unknown_key_is_refused(site, home, client):
    client.log_head()
    site.key = LogSite().key
    with pytest.raises(CannotVerifyError, match="no trusted key"):
        client.log_head()
