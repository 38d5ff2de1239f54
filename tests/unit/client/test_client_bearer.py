"""The key or token that goes along, and how the client waits when told to."""

import asyncio
import time

import httpx
import pytest

from privacy.client import AsyncClient, Client, drive
from privacy.errors import AuthError, LimitError

URL = "http://127.0.0.1:1"
PROBLEM = {"code": "rate-limited", "family": "LimitError", "detail": "too often"}


@pytest.fixture
def pauses(monkeypatch):
    found = []

    async def nap(seconds):
        found.append(seconds)

    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(asyncio, "sleep", nap)
    return found


def held_back(times, *, after="7", problem=PROBLEM):
    """Return a gateway that refuses so many requests before it answers."""
    left = [times]

    def answer(request):
        if left[0]:
            left[0] -= 1
            return httpx.Response(429, json=problem, headers={"Retry-After": after})
        return httpx.Response(200, json={"models": []})

    return httpx.MockTransport(answer)


def test_the_client_waits_as_long_as_it_is_told(pauses, tmp_path):
    with Client(URL, api_key="pk_x", home=tmp_path, transport=held_back(2)) as client:
        assert client.models() == []
    assert pauses == [7.0, 7.0]


def test_the_asynchronous_client_waits_too(pauses, tmp_path):
    async def ask():
        given = {"api_key": "pk_x", "home": tmp_path, "transport": held_back(1)}
        async with AsyncClient(URL, **given) as client:
            return await client.models()

    assert asyncio.run(ask()) == []
    assert pauses == [7.0]


def test_the_client_does_not_wait_for_ever(pauses, tmp_path):
    transport = held_back(1000, after="50")
    with (
        Client(URL, api_key="pk_x", home=tmp_path, transport=transport) as client,
        pytest.raises(LimitError) as refusal,
    ):
        client.models()
    assert refusal.value.code == "rate-limited"
    assert sum(pauses) <= drive.RATE_PATIENCE_S


def test_a_full_queue_is_an_error_at_once(pauses, tmp_path):
    full = {**PROBLEM, "code": "queue-full"}
    transport = held_back(1, problem=full)
    with (
        Client(URL, api_key="pk_x", home=tmp_path, transport=transport) as client,
        pytest.raises(LimitError) as refusal,
    ):
        client.models()
    assert (refusal.value.code, pauses) == ("queue-full", [])


def test_a_tokens_file_is_read_anew_for_each_request(monkeypatch, tmp_path):
    seen = []

    def answer(request):
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={"models": []})

    file = tmp_path / "token"
    file.write_text("a.b.c\n")
    monkeypatch.setenv("PRIVACY_TOKEN_FILE", str(file))
    with Client(URL, home=tmp_path, transport=httpx.MockTransport(answer)) as client:
        client.models()
        file.write_text("d.e.f")
        client.models()
    assert seen == ["Bearer a.b.c", "Bearer d.e.f"]


def test_a_key_given_or_in_the_environment_comes_before_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PRIVACY_TOKEN_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("PRIVACY_API_KEY", "pk_env")
    with Client(URL, home=tmp_path) as client:
        assert client.api_key == "pk_env"
    monkeypatch.delenv("PRIVACY_API_KEY")
    with pytest.raises(AuthError) as refusal:
        Client(URL, home=tmp_path)
    assert refusal.value.code == "no-token"


@pytest.mark.parametrize("content", [b"", b"\xff", b"two words", b"x" * 20_000])
def test_a_file_without_a_token_is_a_typed_error(monkeypatch, tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    monkeypatch.setenv("PRIVACY_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(AuthError):
        Client(URL, home=tmp_path)
