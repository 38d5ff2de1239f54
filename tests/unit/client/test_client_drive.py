"""The drivers against a gateway that lies, floods, disappears and comes back."""

import asyncio
import gzip
import json

import httpx
import pytest

from privacy.client import AsyncClient, Client, drive
from privacy.client.wire import Call
from privacy.errors import (
    AuthError,
    FormatError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)


@pytest.fixture(autouse=True)
def _made_up_hosts(monkeypatch):
    monkeypatch.setenv("PRIVACY_ALLOW_PLAIN_HTTP", "1")


URL = "http://gateway.test"


@pytest.fixture
def client_of(tmp_path):
    """Return a client whose gateway is a function."""

    def make(answer):
        transport = httpx.MockTransport(answer)
        return Client(URL, api_key="pk_x", home=tmp_path, transport=transport)

    return make


def one(call):
    return (yield call)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b'{"models":{}}', b'{"models":[1]}', b"<html>"]
)
def test_an_answer_that_is_not_the_apis_is_a_typed_error(client_of, body):
    with (
        client_of(lambda _: httpx.Response(200, content=body)) as client,
        pytest.raises(UnavailableError) as caught,
    ):
        client.models()
    assert caught.value.code == "bad-gateway"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_endless_answer_is_cut_off(client_of, encoding):
    def flood():
        packed = gzip.compress(bytes(1 << 20)) if encoding == "gzip" else bytes(1 << 16)
        while True:
            yield packed

    def answer(request):
        assert request.headers["accept-encoding"] == "identity"
        headers = {"Content-Encoding": encoding}
        return httpx.Response(200, headers=headers, content=flood())

    with client_of(answer) as client, pytest.raises(LimitError) as caught:
        client.run(one(Call("GET", "/x", limit=1 << 18)))
    assert caught.value.code == "answer-too-large"


def test_an_answer_that_cannot_be_unpacked_is_a_typed_error(client_of):
    headers = {"Content-Encoding": "gzip"}

    def answer(_):
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"no"))

    with client_of(answer) as client, pytest.raises(UnavailableError):
        client.models()


def test_a_redirect_takes_the_api_key_nowhere(client_of):
    asked = []

    def answer(request):
        asked.append(request.url.host)
        return httpx.Response(307, headers={"Location": "http://elsewhere.test/"})

    with client_of(answer) as client, pytest.raises(UnavailableError):
        client.models()
    assert asked == ["gateway.test"]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthError), (403, AuthError), (404, NotFoundError), (502, UnavailableError)],
)
def test_a_status_without_a_body_is_still_told_apart(client_of, status, error):
    with client_of(lambda _: httpx.Response(status)) as client, pytest.raises(error):
        client.run(one(Call("HEAD", "/v1/keys/x")))


def test_a_problem_of_hostile_types_is_still_an_error(client_of):
    problem = {"family": ["x"], "code": {"a": 1}, "detail": [1]}
    answer = httpx.Response(400, json=problem)
    with client_of(lambda _: answer) as client, pytest.raises(PrivacyError):
        client.models()


@pytest.mark.parametrize(
    "url", ["foo", "ftp://x", "http://", "http://h:99999", "http://h:x", "x:1", "//x"]
)
def test_an_address_that_is_none_is_refused(tmp_path, url):
    with pytest.raises(FormatError) as caught:
        Client(url, home=tmp_path)
    assert caught.value.code == "bad-address"


@pytest.mark.parametrize("key", ["é", "pk x", "pk\n", "pk\r\nX-Evil: 1"])
def test_a_key_that_is_no_header_is_refused_and_not_quoted(tmp_path, key):
    with pytest.raises(AuthError) as caught:
        Client(URL, api_key=key, home=tmp_path)
    assert key not in caught.value.message


def test_a_job_id_of_the_users_stays_one_segment_of_the_path(client_of):
    asked = []

    def answer(request):
        asked.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.job("../api-keys?x#y")
    assert asked == [b"/v1/jobs/..%2Fapi-keys%3Fx%23y"]


def restarting(away, *, first=1):
    """Answer once, then be away for some requests, then answer again."""
    state = {"asked": 0}

    def answer(_):
        state["asked"] += 1
        if first < state["asked"] <= first + away:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"models": []})

    return answer


def test_a_gateway_that_restarts_is_waited_for(client_of, monkeypatch):
    monkeypatch.setattr(drive, "_PAUSE_S", 0.001)
    with client_of(restarting(3)) as client:
        assert client.models() == []
        assert client.models() == []


def test_a_gateway_that_never_answered_is_not_waited_for(client_of):
    with (
        client_of(restarting(1, first=0)) as client,
        pytest.raises(UnavailableError) as caught,
    ):
        client.models()
    assert caught.value.code == "gateway-unreachable"


def test_patience_ends(client_of, monkeypatch):
    monkeypatch.setattr(drive, "_PAUSE_S", 0.001)
    monkeypatch.setattr(drive, "RESTART_S", 0.05)
    with client_of(restarting(10**9)) as client:
        client.models()
        with pytest.raises(UnavailableError):
            client.models()


def test_what_must_not_happen_twice_is_not_sent_twice(client_of):
    with client_of(restarting(1)) as client:
        client.models()
        with pytest.raises(UnavailableError):
            client.run(one(Call("POST", "/v1/api-keys", body=b"{}")))


def test_a_long_upload_tells_how_far_it_is(tmp_path):
    body, told, got = bytes(range(256)) * 8192, [], []

    def answer(request):
        got.append((request.headers["content-length"], request.content))
        return httpx.Response(201)

    async def handle(request):
        await request.aread()
        return answer(request)

    call = Call("PUT", "/v1/keys/x", body=body, sent=told.append)
    with Client(URL, home=tmp_path, transport=httpx.MockTransport(answer)) as client:
        client.run(one(call))

    async def again():
        transport = httpx.MockTransport(handle)
        async with AsyncClient(URL, home=tmp_path, transport=transport) as client:
            await client.run(one(call))

    asyncio.run(again())
    assert told == list(range(1, 11)) * 2
    assert got == [(str(len(body)), body)] * 2


def test_both_clients_offer_the_same_methods():
    names = [
        {n for n in dir(c) if not n.startswith("_")} for c in (Client, AsyncClient)
    ]
    assert names[0] == names[1]


def test_a_saved_key_goes_to_its_own_gateway_only(tmp_path, monkeypatch):
    monkeypatch.delenv("PRIVACY_API_KEY", raising=False)
    saved = {"gateway": "http://mine.test", "api_key": "pk_mine"}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert Client("http://mine.test", home=tmp_path).api_key == "pk_mine"
    assert Client("http://other.test", home=tmp_path).api_key == ""


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_api_key_does_not_cross_a_network_in_the_clear(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("PRIVACY_ALLOW_PLAIN_HTTP", raising=False)
    far, near = "http://gateway.example", ("http://[::1]:1", "http://localhost:1")
    with pytest.raises(AuthError) as caught:
        kind(far, api_key="pk_x", home=tmp_path)
    assert caught.value.code == "plain-http"
    for fine in (*near, "https://gateway.example"):
        kind(fine, api_key="pk_x", home=tmp_path)
    kind(far, api_key="pk_x", home=tmp_path, allow_plain_http=True)
    monkeypatch.setenv("PRIVACY_ALLOW_PLAIN_HTTP", "1")
    kind(far, api_key="pk_x", home=tmp_path)
