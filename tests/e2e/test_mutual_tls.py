"""`python -m gateway` over mutual TLS, and certificates that change while it runs."""

import os
import socket
import subprocess
import sys

import pytest
from cryptography import x509

from privacy.certs import Certificates
from privacy.client import Client, TlsFiles
from privacy.errors import AuthError, UnavailableError
from privacy.tls import client_context
from tests.support.live_gateway import free_port, wait_until

pytestmark = pytest.mark.slow
MODULE = "tests.support.gateway_with_fakes"


@pytest.fixture
def certs(tmp_path):
    certs = Certificates(tmp_path / "certs")
    certs.init("here")
    certs.issue("gw", kind="gateway", hosts=["localhost"])
    certs.issue("me", kind="client")
    return certs


def _files(certs, name):
    folder = certs.files(name)
    return TlsFiles(
        trust=folder / "trust.pem",
        certificate=folder / "tls.crt",
        key=folder / "tls.key",
    )


@pytest.fixture
def url(certs, tmp_path, repository_on_path):
    port, own = free_port(), certs.files("gw")
    chosen = {
        "data_dir": tmp_path / "data",
        "models_dir": tmp_path / "models",
        "port": port,
        "tls_cert": own / "tls.crt",
        "tls_key": own / "tls.key",
        "tls_client_ca": own / "trust.pem",
    }
    env = {f"PRIVACY_GATEWAY_{k.upper()}": str(v) for k, v in chosen.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        env={**os.environ, **repository_on_path, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _shown(certs, port), seconds=90, what="never served")
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _shown(certs, port):
    """Return the serial number of the certificate that the gateway shows."""
    context = client_context(_files(certs, "me"))
    try:
        with (
            socket.create_connection(("localhost", port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            shown = x509.load_der_x509_certificate(
                connection.getpeercert(binary_form=True)
            )
            return f"{shown.serial_number:x}"
    except OSError:  # not yet, or too busy to answer in time
        return None


def _ask(url, tls, home):
    with Client(url, api_key="pk_" + "A" * 43, home=home, tls=tls) as client:
        return client.models()


def test_a_gateway_takes_up_new_certificates_and_revocations_as_it_runs(
    url, certs, tmp_path
):
    port = int(url.rpartition(":")[2])
    home = tmp_path / "home"
    with pytest.raises(UnavailableError) as caught:
        _ask(url, TlsFiles(trust=certs.trust), home)
    assert "client certificate" in caught.value.message
    served = {i.name: i.serial for i in certs.all()[1]}
    assert _shown(certs, port) == served["gw"]
    certs.rotate()
    certs.renew()
    renewed = {i.name: i.serial for i in certs.all()[1]}
    wait_until(lambda: _shown(certs, port) == renewed["gw"], seconds=10)
    mine = _files(certs, "me")
    with pytest.raises(AuthError):  # so TLS let us through
        _ask(url, mine, home)
    certs.revoke("me")

    def is_refused():
        try:
            _ask(url, mine, home)
        except UnavailableError:
            return True
        except AuthError:
            return False

    wait_until(is_refused, seconds=10)
