import json
import shutil
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Use

from privacy.certs import Certificates
from privacy.cli.app import run
from privacy.errors import (
    AuthError,
    ConflictError,
    FormatError,
    NotFoundError,
    PrivacyError,
)
from privacy.tls import TlsFiles, client_context, server_context
from tests.support.tls import handshake

PASSPHRASE = "a passphrase of the authority"


@pytest.fixture
def certs(tmp_path):
    made = Certificates(tmp_path / "certs")
    made.init("here")
    made.issue("gw", kind="gateway", hosts=["localhost", "127.0.0.1"])
    made.issue("me", kind="client")
    return made


def _files(certs, name):
    folder = certs.files(name)
    return TlsFiles(
        trust=folder / "trust.pem",
        certificate=folder / "tls.crt",
        key=folder / "tls.key",
    )


def _meet(server, client, host="localhost"):
    return handshake(server_context(server), client_context(client), host)


def _leaf(certs, name):
    return x509.load_pem_x509_certificate((certs.files(name) / "tls.crt").read_bytes())


def test_a_gateway_and_a_client_of_one_authority_meet(certs):
    assert _meet(_files(certs, "gw"), _files(certs, "me")) == b"hello"
    assert _meet(_files(certs, "gw"), _files(certs, "gw"), "127.0.0.1") == b"hello"


def test_certificates_hold_up_under_the_strict_rules_of_rfc_5280(certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certs.trust)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_CRL_CHECK_LEAF
    me = _files(certs, "me")
    context.load_cert_chain(me.certificate, me.key)
    server = server_context(_files(certs, "gw"))
    assert handshake(server, context, "localhost") == b"hello"


def test_a_client_without_a_certificate_is_refused(certs):
    nobody = TlsFiles(trust=certs.trust)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        _meet(_files(certs, "gw"), nobody)


def test_a_certificate_of_another_authority_is_refused_on_either_side(certs, tmp_path):
    other = Certificates(tmp_path / "other")
    other.init("here")  # the same name makes no difference
    other.issue("gw", kind="gateway", hosts=["localhost"])
    other.issue("me", kind="client")
    mine, theirs = _files(certs, "me"), _files(other, "me")
    stranger = TlsFiles(
        trust=mine.trust, certificate=theirs.certificate, key=theirs.key
    )
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        _meet(_files(certs, "gw"), stranger)
    with pytest.raises(ssl.SSLCertVerificationError):
        _meet(_files(other, "gw"), mine)


def test_a_server_under_another_name_is_refused(certs):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _meet(_files(certs, "gw"), _files(certs, "me"), "elsewhere")


def test_a_clients_certificate_cannot_serve(certs):
    me = _files(certs, "me")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _meet(me, _files(certs, "gw"))


def test_expired_certificates_are_refused(tmp_path):
    long_ago = datetime.now(UTC) - timedelta(days=40)
    old = Certificates(tmp_path / "certs", clock=lambda: long_ago)
    old.init("here")
    old.issue("gw", kind="gateway", hosts=["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="has expired"):
        _meet(_files(old, "gw"), _files(old, "gw"))
    now = Certificates(tmp_path / "certs")
    assert now.renew() == ["gw"]
    assert _meet(_files(now, "gw"), _files(now, "gw")) == b"hello"


def test_a_revoked_client_is_refused_once_the_server_has_the_new_list(certs):
    server = server_context(_files(certs, "gw"))
    certs.revoke("me")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        _meet(_files(certs, "gw"), _files(certs, "me"))
    server._looked_at = 0.0  # a second has passed: the running server reads it, too
    with pytest.raises(ssl.SSLError):
        handshake(server, client_context(_files(certs, "me")), "localhost")
    certs.issue("me", kind="client")
    assert _meet(_files(certs, "gw"), _files(certs, "me")) == b"hello"


def test_what_a_renewal_replaced_is_revoked_with_it(certs, tmp_path):
    stolen = tmp_path / "stolen"
    shutil.copytree(certs.files("me"), stolen)
    thief = TlsFiles(
        trust=certs.trust, certificate=stolen / "tls.crt", key=stolen / "tls.key"
    )
    certs.renew(["me"])
    certs.rotate()
    certs.renew()
    assert _meet(_files(certs, "gw"), thief) == b"hello"
    (me,) = [i for i in certs.all()[1] if i.name == "me"]
    assert len(me.earlier) == 2
    certs.revoke("me")
    for files in (thief, _files(certs, "me")):
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            _meet(_files(certs, "gw"), files)


def test_a_revoked_server_is_refused(certs):
    certs.revoke("gw")
    me = _files(certs, "me")
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        _meet(
            TlsFiles(
                **{f: getattr(_files(certs, "gw"), f) for f in ("certificate", "key")}
            ),
            me,
        )


def test_an_authority_is_rotated_by_overlap(certs):
    before = client_context(_files(certs, "me"))
    old = certs.trust.read_bytes()
    new = certs.rotate()
    assert old in certs.trust.read_bytes()
    with pytest.raises(ConflictError, match="has not ended"):
        certs.rotate()
    with pytest.raises(ConflictError, match="gw, me"):
        certs.retire()
    assert _meet(_files(certs, "gw"), _files(certs, "me")) == b"hello"
    assert certs.renew() == ["gw", "me"]
    assert {i.authority for i in certs.all()[1]} == {new.id}
    before._looked_at = 0.0  # a client that has run all along
    server = server_context(_files(certs, "gw"))
    assert handshake(server, before, "localhost") == b"hello"
    gone = certs.retire()
    assert not list(certs.folder.glob(f"ca/{gone.id}*"))
    assert certs.trust.read_bytes().count(b"BEGIN CERTIFICATE") == 1
    assert _meet(_files(certs, "gw"), _files(certs, "me")) == b"hello"
    with pytest.raises(ConflictError, match="one authority only"):
        certs.retire()


def test_certificates_of_the_old_authority_are_refused_after_its_retirement(certs):
    old = _files(certs, "me")
    kept = {p: p.read_bytes() for p in (old.certificate, old.key)}
    certs.rotate()
    certs.renew()
    certs.retire()
    for path, content in kept.items():
        path.write_bytes(content)
    with pytest.raises(ssl.SSLError):
        _meet(_files(certs, "gw"), old)


def test_renewed_files_are_taken_up_without_a_restart(certs):
    server = server_context(_files(certs, "gw"))
    first = server._current()
    certs.renew(["gw"])
    server._looked_at = 0.0
    assert server._current() is not first
    assert handshake(server, client_context(_files(certs, "me")), "localhost")


def test_half_replaced_files_leave_what_was_read_before(certs):
    files = _files(certs, "gw")
    server = server_context(files)
    files.certificate.write_bytes((certs.files("me") / "tls.crt").read_bytes())
    server._looked_at = 0.0
    assert handshake(server, client_context(_files(certs, "me")), "localhost")


def test_only_a_third_of_its_life_left_makes_a_certificate_due(tmp_path):
    at = datetime.now(UTC)
    certs = Certificates(tmp_path / "certs", clock=lambda: at)
    certs.init("here")
    certs.issue("gw", kind="gateway", hosts=["localhost"], days=30)
    at += timedelta(days=19)
    assert certs.renew() == []
    at += timedelta(days=2)
    assert certs.renew() == ["gw"]


def test_extensions_say_what_a_certificate_is_for(certs):
    leaf = _leaf(certs, "me").extensions
    assert list(leaf.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        Use.CLIENT_AUTH
    ]
    names = leaf.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["urn:privacy-compute:client:me"]
    usage = leaf.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert not usage.value.key_cert_sign
    assert not leaf.get_extension_for_class(x509.BasicConstraints).value.ca
    days = _leaf(certs, "me").not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < days < timedelta(days=31)


def test_a_certificate_never_outlives_its_authority(tmp_path):
    certs = Certificates(tmp_path / "certs")
    made = certs.init("here", days=5)
    leaf = certs.issue("gw", kind="gateway", hosts=["localhost"], days=30)
    assert leaf.expires_at == made.expires_at


def test_private_keys_are_readable_by_their_owner_only(certs):
    keys = [*certs.folder.glob("issued/*/tls.key"), *certs.folder.glob("ca/*.key")]
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_the_authoritys_key_is_under_the_passphrase(tmp_path):
    Certificates(tmp_path, passphrase=PASSPHRASE).init("here")
    assert b"PRIVATE KEY" not in next(tmp_path.glob("ca/*.key")).read_bytes()
    with pytest.raises(AuthError, match="give its passphrase"):
        Certificates(tmp_path).issue("me", kind="client")
    with pytest.raises(AuthError, match="does not open"):
        Certificates(tmp_path, passphrase="another one").issue("me", kind="client")
    assert Certificates(tmp_path, passphrase=PASSPHRASE).issue("me", kind="client")


@pytest.mark.parametrize(
    ("name", "kind", "hosts", "error"),
    [
        ("../up", "client", [], FormatError),
        ("x", "client", ["localhost"], FormatError),
        ("x", "gateway", [], FormatError),
        ("x", "server", ["localhost"], FormatError),
        ("x", "gateway", ["not a host"], FormatError),
        ("x", "gateway", ["UPPER.example"], FormatError),
        ("x", "gateway", ["a..b"], FormatError),
        ("gw", "gateway", ["localhost"], ConflictError),
    ],
)
def test_odd_requests_are_refused_and_leave_nothing(certs, name, kind, hosts, error):
    before = certs.all()
    with pytest.raises(error):
        certs.issue(name, kind=kind, hosts=hosts)
    assert certs.all() == before


def test_nothing_is_issued_without_an_authority(tmp_path):
    with pytest.raises(NotFoundError, match="certs init"):
        Certificates(tmp_path).issue("gw", kind="client")
    Certificates(tmp_path).init("here")
    with pytest.raises(ConflictError, match="certs rotate"):
        Certificates(tmp_path).init("here")
    with pytest.raises(NotFoundError, match="there are: none"):
        Certificates(tmp_path).renew(["gw"])


def test_a_damaged_list_is_a_typed_error(certs):
    for content in (b"{}", b"[]", b"nonsense", b'{"format":"other"}'):
        (certs.folder / "certs.json").write_bytes(content)
        with pytest.raises(PrivacyError):
            certs.all()


def test_files_that_are_no_certificates_are_typed_errors(certs, tmp_path):
    good = _files(certs, "gw")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for odd in (
        TlsFiles(trust=empty),
        TlsFiles(trust=tmp_path / "missing.pem"),
        TlsFiles(certificate=good.certificate, key=empty),
        TlsFiles(certificate=good.certificate, key=certs.files("me") / "tls.key"),
    ):
        with pytest.raises(FormatError) as caught:
            client_context(odd)
        assert caught.value.code == "tls-files"
    with pytest.raises(FormatError, match="go together"):
        TlsFiles(certificate=good.certificate)
    with pytest.raises(FormatError, match="needs a TLS certificate"):
        server_context(TlsFiles(trust=certs.trust))


def test_the_commands_make_rotate_and_list(tmp_path, capsys):
    folder = ["--dir", str(tmp_path / "ca"), "--json"]

    def told(*words):
        assert run(["certs", *words, *folder]) == 0
        return json.loads(capsys.readouterr().out)

    first = told("init", "--name", "acme")
    assert first["name"] == "acme"
    made = told("issue", "gw", "--host", "localhost", "--host", "10.0.0.1")
    assert made["hosts"] == ["localhost", "10.0.0.1"]
    assert (tmp_path / "ca" / "issued" / "gw" / "tls.crt").is_file()
    told("issue", "me", "--kind", "client")
    assert told("revoke", "me")["revoked_at"]
    assert told("renew") == {
        "renewed": [],
        "files": str(tmp_path / "ca" / "issued"),
    }
    told("rotate")
    assert [c["due"] for c in told("list")["certificates"]] == [True, False]
    assert told("renew")["renewed"] == ["gw"]
    assert told("retire")["id"] == first["id"]
    assert run(["certs", "issue", "gw", "--host", "x", *folder]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "already-issued"
