"""Hostile bytes through a live gateway with real engines: typed, and it stays up."""

import random

import pytest

from privacy.encoding import pack, sha256_hex
from privacy.fhe.client import FheClient


@pytest.fixture(scope="module")
def credit(published, gateway):
    return published("credit")


@pytest.fixture(scope="module")
def api(gateway):
    with gateway.client() as client:
        yield client


def keys_and_input(model):
    path = model.bundle.path("fhe/client.json")
    keys = FheClient(path.read_bytes()).generate_keys()
    columns = model.bundle.manifest.columns
    rows = (model.rows[:1] - [c.offset for c in columns]) / [c.scale for c in columns]
    return keys, keys.evaluation_keys(), keys.encrypt(rows)


@pytest.fixture(scope="module")
def mine(credit):
    return keys_and_input(credit)


def submit(api, model, mode, blob, keys=None):
    body = {"model": model.name, "mode": mode, "input": api.upload(blob)}
    if keys is not None:
        body["keys"] = api.upload(keys, to="keys")
    reply = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    if reply.status_code >= 400:
        return reply.json()["code"]
    job = api.finished(reply.json()["id"])
    return (job["problem"] or {}).get("code", job["status"])


def damaged(blob):
    rng = random.Random(7)
    middle = len(blob) // 2
    return {
        "truncated": blob[:middle],
        "one byte short": blob[:-1],
        "trailing bytes": blob + b"\0" * 8,
        "random": rng.randbytes(min(len(blob), 1 << 20)),
        "packed random": pack([rng.randbytes(2000)]),
        "zeros": bytes(min(len(blob), 1 << 20)),
    }


def test_good_bytes_succeed(api, credit, mine):
    _, keys, blob = mine
    assert submit(api, credit, "fhe", blob, keys) == "succeeded"


@pytest.mark.parametrize(
    "how", ["truncated", "one byte short", "trailing bytes", "random", "zeros"]
)
def test_damaged_evaluation_keys_are_refused(api, credit, mine, how):
    _, keys, blob = mine
    assert submit(api, credit, "fhe", blob, damaged(keys)[how]) == "fhe-keys-mismatch"


@pytest.mark.parametrize("how", list(damaged(b"")))
def test_damaged_ciphertexts_are_refused(api, credit, mine, how):
    _, keys, blob = mine
    code = submit(api, credit, "fhe", damaged(blob)[how], keys)
    assert code in {"fhe-ciphertext-mismatch", "malformed", "truncated"}


def test_another_models_keys_and_ciphertexts_are_refused(api, credit, diagnosis, mine):
    _, keys, blob = mine
    _, other_keys, other_blob = keys_and_input(diagnosis)
    assert submit(api, credit, "fhe", other_blob, keys) == "fhe-ciphertext-mismatch"
    assert submit(api, credit, "fhe", blob, other_keys or b"x") == "fhe-keys-mismatch"
    assert submit(api, diagnosis, "fhe", blob) == "fhe-ciphertext-mismatch"


def test_fhe_without_keys_is_refused(api, credit, mine):
    assert submit(api, credit, "fhe", mine[2]) == "keys-missing"


@pytest.mark.parametrize(
    "blob",
    [
        b"x",
        b"{}",
        b'{"rows":[[1,2]],"salt":"AA"}',
        b'{"rows":[[1e400]],"salt":"AA"}',
        b'{"rows":[],"salt":"' + b"A" * 43 + b'"}',
        b'{"rows":[["a","b","c","d","e","f","g","h"]],"salt":"' + b"A" * 43 + b'"}',
        b'{"rows":[[1,2,3,4,5,6,7,8]],"salt":"' + b"A" * 43 + b'"} ',
    ],
)
def test_damaged_clear_rows_are_refused(api, credit, blob):
    code = submit(api, credit, "zkml", blob)
    assert code not in {"succeeded", "worker-died", "error"}


@pytest.mark.parametrize("blob", [b"x", bytes(500), pack([b"a", b"b", b"c"])])
def test_damaged_sealed_inputs_are_refused(api, credit, blob):
    code = submit(api, credit, "tee", blob)
    assert code in {"malformed", "unsealable", "enclave-gone"}


def test_a_body_that_is_not_its_digest_is_refused(api):
    reply = api.put(f"/v1/blobs/{sha256_hex(b'a')}", content=b"b")
    assert reply.status_code == 422
    assert reply.json()["code"] == "digest-mismatch"


def test_the_gateway_still_answers_everyone(api, owner, diagnosis):
    assert api.get("/readyz").is_success
    rows = diagnosis.rows[:1].tolist()
    for mode in ("fhe", "zkml", "tee"):
        assert owner.infer(diagnosis.name, rows, mode=mode).rows


def test_no_secret_reaches_the_log(gateway, mine, owner):
    log = gateway.log.read_bytes()
    assert owner.api_key.encode() not in log
    assert gateway.admin_key.encode() not in log
    assert b"Traceback" not in log
