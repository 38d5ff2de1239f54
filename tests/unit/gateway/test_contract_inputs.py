"""Inputs handed over for contracts: true ones, bounded, private to their tenant."""

import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.store import contract_inputs
from gateway.store.blobs import Blobs
from gateway.store.contract_inputs import ContractInputs, Name
from gateway.store.parts import Parts
from gateway.store.tables import contract_inputs as table
from gateway.store.uploads import Allowance, Uploads
from privacy.clock import now
from privacy.encoding import pack
from privacy.errors import LimitError, NotFoundError
from privacy.onchain import input_blob, terms_of
from tests.support.hand_made_bundle import write_bundle

SALT = bytes(range(32))
ROW = [0.25, 0.5]
NAME = Name("ab" * 32, "cd" * 32, is_sealed=False)
SEALED = pack([bytes(32), bytes(32), bytes(32), b"ciphertext"])


@pytest.fixture
def commitment(tmp_path):
    terms = terms_of(write_bundle(tmp_path).manifest)
    return terms.commitment(terms.describe(ROW, SALT)).hex()


def url(commitment, **options):
    more = "".join(f"&{k}={v}" for k, v in options.items())
    return f"/v1/contract-inputs/{commitment}?model=demo{more}"


def test_an_input_is_handed_over_and_fetched(api, commitment):
    body = input_blob([ROW], SALT)
    assert api.put(url(commitment), content=body).status_code == 201
    assert api.put(url(commitment), content=body).status_code == 200
    assert api.get(url(commitment)).content == body
    assert api.delete(url(commitment)).status_code == 204
    assert api.get(url(commitment)).status_code == 404


def test_an_input_of_another_commitment_is_refused(api, commitment):
    for body in (input_blob([[0.25, 0.6]], SALT), input_blob([ROW], bytes(32))):
        reply = api.put(url(commitment), content=body)
        assert reply.status_code in {400, 422}
        assert reply.json()["code"] == "wrong-input"
    assert api.get(url(commitment)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"no JSON", input_blob([ROW, ROW], SALT), input_blob([ROW], b"short")],
)
def test_what_is_no_input_is_refused(api, commitment, body):
    assert api.put(url(commitment), content=body).status_code in {400, 422}


def test_a_sealed_input_is_taken_as_it_is(api, commitment):
    where = url(commitment, sealed="true")
    assert api.put(where, content=SEALED).status_code == 201
    assert api.get(where).content == SEALED
    assert api.get(url(commitment)).status_code == 404
    ordered = pack([bytes(32), bytes(32), bytes(32), b"ciphertext", b"{}"])
    assert api.put(where, content=ordered).status_code in {400, 422}
    assert api.put(where, content=b"garbage").status_code in {400, 422}


def test_a_long_input_is_refused(api, commitment):
    body = bytes(contract_inputs.MAX_BYTES + 1)
    reply = api.put(url(commitment, sealed="true"), content=body)
    assert reply.json()["code"] == "too-large"


def test_an_input_that_does_not_come_is_not_waited_for(api, commitment, monkeypatch):
    monkeypatch.setattr("gateway.api.contract_inputs._PATIENCE_S", 0.1)

    def slow():
        yield b"{"
        time.sleep(1)
        yield b"}"

    reply = api.put(url(commitment), content=slow())
    assert reply.status_code == 408
    assert reply.json()["code"] == "upload-too-slow"


def test_inputs_are_their_tenants_and_the_watchers(gateway, api, stranger, commitment):
    body = input_blob([ROW], SALT)
    stranger.put(url(commitment), content=body)
    watcher = gateway.new_key("jobs:read", "inputs:read", tenant="operator")
    reader = gateway.new_key("jobs:read", tenant="third")
    with gateway.client(watcher) as client:
        assert client.get(url(commitment)).content == body
    with gateway.client(reader) as client:
        assert client.get(url(commitment)).status_code == 404
    stranger.delete(url(commitment))


@pytest.fixture
def make(tmp_path, database):
    """Return a function that opens the store of a gateway with such a quota."""
    blobs, parts = Blobs(tmp_path / "blobs"), Parts(tmp_path / "uploads")

    def make(quota_bytes=1000):
        allowance = Allowance(
            max_bytes=1 << 20, quota_bytes=quota_bytes, ttl_s={contract_inputs.KIND: 60}
        )
        uploads = Uploads(database, blobs, parts, allowance)
        return ContractInputs(database, blobs, uploads, ttl_s=60)

    return make


def age(database, tenant, seconds=50.0):
    with database.write() as c:
        these = sa.update(table).where(table.c.tenant == tenant)
        c.execute(these.values(created_at=now(plus_s=-seconds)))


def files(tmp_path):
    folders = (tmp_path / "blobs", tmp_path / "uploads")
    return [p for folder in folders for p in folder.rglob("*") if p.is_file()]


def test_anothers_input_is_neither_replaced_nor_preferred(make, database):
    store = make()
    store.put("second", NAME, b"1")
    age(database, "second")
    store.put("first", NAME, b"2")
    assert store.get(NAME) == b"1"
    assert store.get(NAME, tenant="first") == b"2"
    store.delete("first", NAME)
    assert store.get(NAME) == b"1"
    with pytest.raises(NotFoundError):
        store.get(replace(NAME, is_sealed=True))


def test_handing_an_input_over_again_gives_up_no_precedence(make, database, tmp_path):
    store = make()
    store.put("requester", NAME, b"to an enclave that has died")
    age(database, "requester")
    store.put("a squatter", NAME, b"junk")
    assert not store.put("requester", NAME, b"to the next enclave")
    assert store.get(NAME) == b"to the next enclave"
    assert len(files(tmp_path)) == 2  # the one that was replaced is gone


def test_a_tenant_hands_over_so_many_inputs_and_no_more(make, monkeypatch):
    monkeypatch.setattr(contract_inputs, "MAX_BY_TENANT", 1)
    store = make()
    store.put("one", NAME, b"1")
    store.put("one", NAME, b"1")
    with pytest.raises(LimitError):
        store.put("one", replace(NAME, is_sealed=True), b"2")


def test_inputs_are_within_their_tenants_quota(make, tmp_path):
    store = make(quota_bytes=10)
    store.put("one", NAME, b"12345678")
    other = replace(NAME, is_sealed=True)
    with pytest.raises(LimitError) as refusal:
        store.put("one", other, b"123")
    assert refusal.value.code == "quota-exceeded"
    store.put("two", other, b"123")
    store.delete("one", NAME)
    store.put("one", other, b"1234567890")
    assert len(files(tmp_path)) == 2


def test_one_input_under_two_names_is_kept_until_both_are_gone(make, tmp_path):
    store, other = make(), replace(NAME, model_sha256="ef" * 32)
    for name in (NAME, other):
        assert store.put("one", name, b"1")
    store.delete("one", NAME)
    assert store.get(other) == b"1"
    store.delete("one", other)
    assert not files(tmp_path)


def test_an_input_whose_bytes_are_deleted_meanwhile_is_handed_over_all_the_same(
    make, monkeypatch
):
    store, other, sent = make(), replace(NAME, model_sha256="ef" * 32), []
    own_bytes = Uploads.own_bytes

    def own_and_delete(uploads, content, owner):
        own_bytes(uploads, content, owner)
        sent.append(owner)
        if len(sent) == 2:  # before it is named, another request does this
            store.delete("one", other)

    monkeypatch.setattr(Uploads, "own_bytes", own_and_delete)
    store.put("one", other, b"1")
    assert store.put("one", NAME, b"1")
    assert len(sent) == 3
    assert store.get(NAME) == b"1"


def test_inputs_expire_and_are_private(make, database, tmp_path):
    store = make()
    store.put("one", NAME, b"1")
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert store.sweep() == 0
    age(database, "one", 61)
    with pytest.raises(NotFoundError):
        store.get(NAME)
    assert store.sweep() == 1
    assert not path.exists()
