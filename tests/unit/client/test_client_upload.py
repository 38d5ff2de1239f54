"""Uploads over a network that breaks, to a real gateway."""

import asyncio
import os

import httpx
import pytest

from privacy.client import AsyncClient, Client
from privacy.client.upload import upload, uploaded
from privacy.encoding import sha256_hex
from privacy.errors import LimitError, UnavailableError
from tests.support.cutting_proxy import CuttingProxy
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway

MIB = 1 << 20
BODY = os.urandom(8 * MIB)
PATH = f"/v1/keys/{sha256_hex(BODY)}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    write_bundle(folder / "models")
    with ThreadGateway.fake(folder, max_upload_bytes=16 * MIB) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_uploaded(gateway):
    yield
    with gateway.client() as api:
        api.delete(PATH)


def client_of(gateway, proxy, home):
    return Client(proxy.url, api_key=gateway.admin_key, home=home)


def flow(told, **more):
    return upload(PATH, BODY, notify=told.append, stage="upload keys", **more)


def test_a_broken_upload_goes_on_where_it_stopped(gateway, tmp_path):
    told = []
    cuts = [3 * MIB, 3 * MIB]
    with (
        CuttingProxy(gateway.settings.port, cuts) as proxy,
        client_of(gateway, proxy, tmp_path) as client,
    ):
        client.models()
        client.run(flow(told))
        assert client.run(uploaded(PATH)) == (True, 0)
        assert proxy.cuts_left == 0
        assert proxy.bytes_up < 12 * MIB  # whole each time would be 14
    done = [event["done"] for event in told]
    assert done[-1] == 10
    assert {e["stage"] for e in told} == {"upload keys"}


def test_the_asynchronous_client_goes_on_too(gateway, tmp_path):
    async def send(proxy):
        url, key = proxy.url, gateway.admin_key
        async with AsyncClient(url, api_key=key, home=tmp_path) as client:
            await client.models()
            await client.run(flow([]))
            return await client.run(uploaded(PATH))

    with CuttingProxy(gateway.settings.port, [3 * MIB]) as proxy:
        assert asyncio.run(send(proxy)) == (True, 0)
        assert proxy.bytes_up < 10 * MIB


def test_another_process_goes_on_with_what_an_earlier_one_left(gateway, tmp_path):
    cuts = [5 * MIB] + [2000] * 9
    with (
        CuttingProxy(gateway.settings.port, cuts) as proxy,
        client_of(gateway, proxy, tmp_path) as client,
    ):
        client.models()
        with pytest.raises(UnavailableError):
            client.run(flow([]))
    with Client(gateway.base_url, api_key=gateway.admin_key, home=tmp_path) as client:
        is_here, offset = client.run(uploaded(PATH))
        assert not is_here
        assert 4 * MIB < offset <= 5 * MIB
        told = []
        client.run(flow(told, offset=offset))
        assert told[0]["done"] >= 5
        assert client.run(uploaded(PATH)) == (True, 0)


def test_an_upload_that_is_refused_is_not_tried_again(gateway, tmp_path):
    asked, big = [], bytes(17 * MIB)
    path = f"/v1/keys/{sha256_hex(big)}"
    with (
        CuttingProxy(gateway.settings.port, []) as proxy,
        client_of(gateway, proxy, tmp_path) as client,
        pytest.raises(LimitError),
    ):
        client.run(upload(path, big, notify=asked.append, stage="x"))


@pytest.mark.parametrize("told", ["-1", "9" * 30, "x", "", "²"])
def test_a_gateway_that_lies_of_what_it_has_gets_the_whole(tmp_path, told):
    got = []

    def answer(request):
        if request.method == "HEAD":
            return httpx.Response(204, headers={"Upload-Offset": told.encode()})
        got.append(request.content)
        return httpx.Response(201, json={})

    transport = httpx.MockTransport(answer)
    with Client("http://127.0.0.1:1", home=tmp_path, transport=transport) as client:
        is_here, offset = client.run(uploaded(PATH))
        assert not is_here
        client.run(upload(PATH, b"x" * 9, notify=got.append, stage="x", offset=offset))
    assert got == [b"x" * 9]
