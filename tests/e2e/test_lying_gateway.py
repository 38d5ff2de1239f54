"""A gateway that changes its answers: the client returns nothing, and keeps nothing.

The real gateway and engines work; a transport between rewrites their answers.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from privacy.client import Client
from privacy.encoding import canonical_json
from privacy.errors import (
    LimitError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)

JOB = r"/v1/jobs/[^/]+"


class Between(httpx.BaseTransport):
    """Rewrites the answers to paths that match."""

    def __init__(self, path, change, method="GET"):
        self._inner = httpx.HTTPTransport()
        self._rule = re.compile(path), change, method

    def handle_request(self, request):
        path, change, method = self._rule
        response = self._inner.handle_request(request)
        if request.method != method or not path.fullmatch(request.url.path):
            return response
        body = change(response.read())
        headers = response.headers.copy()
        headers.pop("content-length", None)
        return httpx.Response(response.status_code, headers=headers, content=body)

    def close(self):
        self._inner.close()


@pytest.fixture
def lied_to(gateway, diagnosis, tmp_path):
    """Ask through a lying transport; return the error."""

    def ask(mode, path, change, method="GET"):
        with (
            Client(
                gateway.base_url,
                api_key=gateway.admin_key,
                home=tmp_path,
                allow_simulated=True,
                allow_insecure_srs=True,
                transport=Between(path, change, method),
            ) as client,
            pytest.raises(PrivacyError) as caught,
        ):
            client.infer(diagnosis.name, diagnosis.rows[:2].tolist(), mode=mode)
        assert not (tmp_path / "receipts").exists()
        return caught.value

    return ask


def changed(**members):
    return lambda raw: json.dumps({**json.loads(raw), **members}).encode()


def flipped(raw):
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (mode, what)
        for mode in ("fhe", "zkml", "tee")
        for what in ("result", "receipt", "evidence")
        if (mode, what) != ("fhe", "evidence")  # it has none
    ],
)
@pytest.mark.parametrize("change", [flipped, lambda _: b"", lambda raw: raw + b" "])
def test_a_changed_answer_is_a_failed_verification(lied_to, mode, what, change):
    error = lied_to(mode, f"{JOB}/{what}", change)
    assert isinstance(error, VerificationError), error
    assert error.exit_code == 6


@pytest.mark.parametrize("mode", ["fhe", "zkml", "tee"])
def test_another_jobs_receipt_is_refused(lied_to, owner, diagnosis, mode):
    earlier = owner.infer(diagnosis.name, diagnosis.rows[:2].tolist(), mode=mode)
    error = lied_to(mode, f"{JOB}/receipt", lambda _: earlier.receipt.read_bytes())
    assert error.code == "receipt-mismatch"


def other_key(raw, *, history):
    value = json.loads(raw)
    value["keys"][0]["x"] = "A" * 43
    if not history:
        del value["history"]
    return json.dumps(value).encode()


def test_a_receipt_of_another_key_is_not_verified(lied_to):
    without = partial(other_key, history=False)
    error = lied_to("zkml", "/.well-known/jwks.json", without)
    assert error.exit_code == 7
    assert "ask its operator" in error.message


def test_a_key_that_the_gateways_own_history_does_not_name_is_refused(lied_to):
    beside = partial(other_key, history=True)
    error = lied_to("zkml", "/.well-known/jwks.json", beside)
    assert error.exit_code == 6


@pytest.mark.parametrize("mode", ["fhe", "zkml"])
def test_a_changed_model_file_is_refused(lied_to, mode):
    path = rf"/v1/models/.*/files/{mode}/.*"
    assert lied_to(mode, path, flipped).code == "bundle-changed"
    assert isinstance(lied_to(mode, path, lambda raw: raw + b"x"), LimitError)


@pytest.mark.parametrize(
    "members",
    [
        {"name": "other"},
        {"outputs": 2},
        {"columns": []},
        {"files": {"fhe/../../x": {"sha256": "0" * 64, "bytes": 1, "public": True}}},
    ],
)
def test_a_changed_manifest_is_refused(lied_to, members):
    def change(raw):
        return canonical_json({**json.loads(raw), **members})

    error = lied_to("fhe", r"/v1/models/[^/]+", change)
    assert (error.code, error.exit_code) == ("bundle-signature", 6)


@pytest.mark.parametrize(
    "members",
    [
        {"id": "../../etc"},
        {"id": 7},
        {"status": "nearly"},
        {"status": None},
        {"progress": [1]},
        {"problem": "x"},
    ],
)
def test_a_job_that_is_none_is_refused(lied_to, members):
    error = lied_to("zkml", "/v1/jobs", changed(**members), method="POST")
    assert isinstance(error, UnavailableError), error
    assert error.code == "bad-gateway"


def test_a_malformed_attestation_is_a_failed_verification(lied_to):
    for change in (lambda _: b"{}", lambda _: b"", flipped):
        error = lied_to("tee", "/v1/attestations", change)
        assert isinstance(error, VerificationError), error


def test_a_reused_job_id_does_not_overwrite_a_receipt(gateway, diagnosis, tmp_path):
    rows = diagnosis.rows[:1].tolist()
    with Client(
        gateway.base_url,
        api_key=gateway.admin_key,
        home=tmp_path,
        allow_insecure_srs=True,
    ) as client:
        first = client.infer(diagnosis.name, rows, mode="zkml")
        kept = first.receipt.read_bytes()
        folder = first.receipt.parent
    with Client(
        gateway.base_url,
        api_key=gateway.admin_key,
        home=tmp_path,
        allow_insecure_srs=True,
        # Every job folder is taken, as if each id had been used before.
        transport=Between(
            "/v1/jobs", lambda raw: (_taken(folder, raw), raw)[1], "POST"
        ),
    ) as client:
        with pytest.raises(VerificationError) as caught:
            client.infer(diagnosis.name, rows, mode="zkml")
        assert caught.value.code == "job-id-reused"
    assert first.receipt.read_bytes() == kept


def _taken(folder, raw):
    other = folder.parent / json.loads(raw)["id"]
    other.mkdir()
    (other / "receipt.json").write_bytes(b"an earlier one")


def test_answers_of_jobs_at_once_are_all_right(gateway, diagnosis, tmp_path):
    """Fresh homes that are one folder: all make or load the same FHE keys."""
    expected = diagnosis.model.predict_proba(diagnosis.rows[:4])

    def ask(i):
        with Client(
            gateway.base_url, api_key=gateway.admin_key, home=tmp_path
        ) as client:
            rows = diagnosis.rows[i : i + 1].tolist()
            return client.infer(diagnosis.name, rows, mode="fhe").rows[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.probabilities == pytest.approx(wanted, abs=0.02)
