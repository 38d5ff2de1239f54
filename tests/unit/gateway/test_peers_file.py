import pytest
import sqlalchemy as sa

from gateway.peers.config import read_peers
from gateway.peers.hops import check_options, may_go_on, passed_on
from gateway.store.jobs import Jobs, NewJob
from gateway.store.peers import KEPT, PeerStore
from gateway.store.tables import peer_receipts
from privacy.errors import (
    AuthError,
    FormatError,
    NotFoundError,
    PrivacyError,
)
from privacy.modes import Mode
from tests.support.uploaded import uploaded

KEY_ID = "k" * 43
WHOLE = f"""
[[peer]]
name = "acme"
url = "https://acme.example:8400/"
api_key_file = "acme.key"
receipt_keys = ["{KEY_ID}"]
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "acme.key").write_text("pk_secret\n")

    def read(text):
        (tmp_path / "peers.toml").write_text(text)
        return read_peers(tmp_path / "peers.toml")

    return read


def test_a_peer_is_read_with_careful_defaults(read):
    (peer,) = read(WHOLE)
    assert (peer.name, peer.url) == ("acme", "https://acme.example:8400")
    assert peer.api_key == "pk_secret"
    assert "pk_secret" not in repr(peer)
    assert peer.modes == (Mode.FHE,)
    assert not peer.allow_clear_inputs
    assert not peer.allow_forwarding
    assert not peer.tls


def test_all_that_can_be_said_is_read(read, tmp_path, monkeypatch):
    monkeypatch.setenv("ACME_KEY", "pk_other")
    more = """
    modes = ["fhe", "zkml"]
    models = ["demo"]
    allow_clear_inputs = true
    max_jobs = 2
    time_limit_s = 30
    tls_ca = "trust.pem"
    """
    text = WHOLE.replace('api_key_file = "acme.key"', 'api_key_env = "ACME_KEY"')
    (peer,) = read(text + more)
    assert (peer.max_jobs, peer.time_limit_s, peer.models) == (2, 30, ("demo",))
    assert peer.api_key == "pk_other"
    assert peer.tls.trust == tmp_path / "trust.pem"


def test_inputs_in_the_clear_need_a_word_of_the_operators(read):
    with pytest.raises(FormatError, match="allow_clear_inputs"):
        read(WHOLE + 'modes = ["zkml"]')


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("[[peer]]", "[[peers]]"), FormatError),
        (("[[peer]]", "[peer]"), FormatError),
        (("[[peer]]", "peer = 1\n[x]"), FormatError),
        (('name = "acme"', 'name = "../acme"'), FormatError),
        (('name = "acme"', "name = 7"), FormatError),
        (('name = "acme"', 'name = "acme"\nmystery = 1'), FormatError),
        (("https://acme.example:8400/", "ftp://acme.example"), FormatError),
        (("https://acme.example:8400/", "https://user:pw@acme.example"), FormatError),
        (("https://acme.example:8400/", "https://acme.example/?x=1"), FormatError),
        (("https://acme.example:8400/", ""), FormatError),
        (("https://acme.example:8400/", "http://acme.example"), AuthError),
        (("acme.key", "missing.key"), NotFoundError),
        (('api_key_file = "acme.key"', 'api_key_env = "NOT_SET"'), AuthError),
        (('api_key_file = "acme.key"', ""), FormatError),
        ((KEY_ID, "short"), FormatError),
        ((f'["{KEY_ID}"]', "[]"), FormatError),
        ((f'["{KEY_ID}"]', "[7]"), FormatError),
        (("[[peer]]", "[[peer]]\nmax_jobs = 0"), FormatError),
        (("[[peer]]", "[[peer]]\nmax_jobs = true"), FormatError),
        (("[[peer]]", "[[peer]]\ntime_limit_s = -1"), FormatError),
        (("[[peer]]", '[[peer]]\nmodes = ["mpc"]'), NotFoundError),
        (("[[peer]]", '[[peer]]\nallow_forwarding = "yes"'), FormatError),
        (("[[peer]]", '[[peer]]\ntls_cert = "tls.crt"'), FormatError),
        (("[[peer]]", "not toml"), FormatError),
    ],
)
def test_a_file_that_says_anything_odd_is_refused(read, change, error):
    with pytest.raises(error):
        read(WHOLE.replace(*change))


def test_no_two_peers_have_one_name(read):
    with pytest.raises(FormatError, match="one name"):
        read(WHOLE + WHOLE)


def test_a_file_of_control_bytes_or_none_is_a_typed_error(read, tmp_path):
    with pytest.raises(NotFoundError):
        read_peers(tmp_path / "none.toml")
    (tmp_path / "peers.toml").write_bytes(b"\xff\x00")
    with pytest.raises(PrivacyError):
        read_peers(tmp_path / "peers.toml")
    (tmp_path / "acme.key").write_text("two words")
    with pytest.raises(AuthError) as caught:
        read(WHOLE)
    assert "two words" not in caught.value.message


def test_a_job_is_passed_on_once_and_never_back():
    fresh = {"note": 1}
    assert may_go_on(fresh, own=["a"], max_hops=1)
    second = passed_on(fresh, gateway="a", job_id="j1")
    check_options(second)
    assert not may_go_on(second, own=["b"], max_hops=1)
    assert may_go_on(second, own=["b"], max_hops=2)
    assert not may_go_on(second, own=["b", "a"], max_hops=2)
    third = passed_on(second, gateway="b", job_id="j2")
    assert [hop["gateway"] for hop in third["via"]] == ["a", "b"]
    assert not may_go_on({"peers": "never"}, own=["a"], max_hops=2)
    assert not may_go_on(fresh, own=["a"], max_hops=0)


def test_the_receipt_of_a_peer_is_kept_once_with_its_jobs_tenant(database):
    store = PeerStore(database)
    new = NewJob(
        id="job_1",
        tenant="other",
        idempotency_key=None,
        request_sha256="",
        model="demo",
        version="1",
        model_sha256="",
        mode="fhe",
        simulated=False,
        input_sha256="",
        keys_sha256="",
        options={},
    )
    uploaded(database, new.input_sha256, tenant=new.tenant)
    Jobs(database).accept(new, max_queued=1, max_queued_by_tenant=1)
    assert store.receipt("job_1") is None
    with database.write() as c:
        store.keep(c, "job_1", b"first")
        store.keep(c, "job_1", b"as retried")
    assert store.receipt("job_1") == b"as retried"
    with database.read() as c:
        assert c.execute(sa.select(peer_receipts.c.tenant)).scalars().all() == ["other"]


def test_lies_are_kept_up_to_a_number_and_distrust_ends(database):
    store = PeerStore(database)
    for i in range(KEPT + 3):
        store.add_lie("acme", code="x", message=str(i), said={}, distrust_s=60)
    store.add_lie("old", code="x", message="m", said={"job": "j"}, distrust_s=-1)
    assert len(store.lies("acme")) == KEPT
    assert store.lies("acme")[0]["message"] == str(KEPT + 2)
    assert store.distrusted().keys() == {"acme"}
    store.trust("acme")
    assert store.distrusted() == {}
    with pytest.raises(NotFoundError):
        store.trust("acme")
    assert store.lies("old")[0]["job_id"] == "j"
