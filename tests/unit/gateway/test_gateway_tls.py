import asyncio
import socket
import time
from contextlib import ExitStack, suppress

import pytest

from gateway import handshake
from gateway.executors.base import NodeLostError
from gateway.peers.config import Peer
from gateway.peers.link import Link
from gateway.settings import Settings
from privacy.certs import Certificates
from privacy.cli.app import run
from privacy.client import AsyncClient, Client, TlsFiles
from privacy.client.home import Home
from privacy.errors import FormatError, UnavailableError
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway, wait_until

AT_ONCE = 5


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    certs = Certificates(tmp_path_factory.mktemp("certs"))
    certs.init("here")
    certs.issue("gw", kind="gateway", hosts=["127.0.0.1"])
    certs.issue("me", kind="client")
    return certs


@pytest.fixture(scope="module")
def gateway(certs, tmp_path_factory):
    folder, own = tmp_path_factory.mktemp("gateway"), certs.files("gw")
    write_bundle(folder / "models")
    with ThreadGateway.fake(
        folder,
        tls_cert=own / "tls.crt",
        tls_key=own / "tls.key",
        tls_client_ca=own / "trust.pem",
        max_connections_by_address=AT_ONCE,
        trusted_proxies=[],
    ) as gateway:
        yield gateway


@pytest.fixture
def mine(certs):
    own = certs.files("me")
    return TlsFiles(
        trust=own / "trust.pem", certificate=own / "tls.crt", key=own / "tls.key"
    )


def _models(gateway, tmp_path, tls, **more):
    with Client(
        gateway.base_url, api_key=gateway.admin_key, home=tmp_path, tls=tls, **more
    ) as client:
        return [m["name"] for m in client.models()]


def test_a_client_with_a_certificate_is_served(gateway, mine, tmp_path):
    assert _models(gateway, tmp_path, mine) == ["demo"]

    async def ask():
        async with AsyncClient(
            gateway.base_url, api_key=gateway.admin_key, home=tmp_path, tls=mine
        ) as client:
            return await client.models()

    assert len(asyncio.run(ask())) == 1


def test_the_environment_or_the_login_names_the_files(
    gateway, mine, tmp_path, monkeypatch
):
    variables = zip(("CA", "CERT", "KEY"), mine.all, strict=True)
    for name, path in variables:
        monkeypatch.setenv(f"PRIVACY_TLS_{name}", str(path))
    assert _models(gateway, tmp_path, TlsFiles()) == ["demo"]
    home = ["--home", str(tmp_path), "--json"]
    login = ["login", gateway.base_url, "--api-key", gateway.admin_key, *home]
    assert run(login) == 0
    for name in ("CA", "CERT", "KEY"):
        monkeypatch.delenv(f"PRIVACY_TLS_{name}")
    assert Home(tmp_path).tls(gateway.base_url) == mine
    with Client(home=tmp_path) as client:
        assert [m["name"] for m in client.models()] == ["demo"]


def test_a_client_without_a_certificate_is_told_so(gateway, mine, tmp_path):
    nobody = TlsFiles(trust=mine.trust)
    with pytest.raises(UnavailableError, match="client certificate"):
        _models(gateway, tmp_path, nobody)


def test_a_gateway_that_the_client_does_not_trust_gets_no_request(
    gateway, mine, tmp_path
):
    other = Certificates(tmp_path / "other")
    other.init("here")
    distrusting = TlsFiles(
        trust=other.trust, certificate=mine.certificate, key=mine.key
    )
    with pytest.raises(UnavailableError, match="its certificate was refused"):
        _models(gateway, tmp_path, distrusting)


def test_plain_http_gets_no_answer(gateway, tmp_path):
    with Client(gateway.base_url.replace("https", "http"), home=tmp_path) as client:
        with pytest.raises(UnavailableError) as caught:
            client.models()
        assert caught.value.code == "gateway-unreachable"


def _silent(gateway):
    return socket.create_connection(("127.0.0.1", gateway.settings.port), 10)


def _is_served(gateway, tmp_path, tls):
    with suppress(UnavailableError):
        return _models(gateway, tmp_path, tls) == ["demo"]
    return False


def test_who_says_nothing_in_a_handshake_is_cut_off(gateway, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.3)
    with _silent(gateway) as sock:
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 5


def test_connections_in_a_handshake_count_for_their_address(gateway, mine, tmp_path):
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            stack.enter_context(_silent(gateway))
        with _silent(gateway) as one_more, suppress(ConnectionError):
            assert one_more.recv(1) == b""
        with pytest.raises(UnavailableError):
            _models(gateway, tmp_path, mine)
    wait_until(lambda: _is_served(gateway, tmp_path, mine))


def _peer(gateway, tls):
    return Peer(
        name="far",
        url=gateway.base_url,
        api_key=gateway.admin_key,
        receipt_keys=("x",),
        tls=tls,
    )


def test_a_peer_is_spoken_to_over_mutual_tls(gateway, mine):
    async def models(tls):
        link = Link(_peer(gateway, tls))
        try:
            reply = await link.ask("GET", "/v1/models")
        finally:
            await link.close()
        return reply.objects("models")

    assert len(asyncio.run(models(mine))) == 1
    with pytest.raises(NodeLostError):
        asyncio.run(models(TlsFiles(trust=mine.trust)))
    with pytest.raises(NodeLostError, match="its certificate was refused"):
        asyncio.run(models(TlsFiles()))


def test_settings_want_both_files(tmp_path):
    with pytest.raises(FormatError, match="go together"):
        _ = Settings(tls_cert=tmp_path / "tls.crt").tls
    assert not Settings().tls
