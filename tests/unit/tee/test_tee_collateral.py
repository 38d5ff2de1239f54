"""Collateral in files: every kind is read, anything else refused or passed over."""

import base64
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privacy.errors import FormatError
from privacy.tee import collateral as module
from privacy.tee.collateral import (
    Collateral,
    FileCollateral,
    kept_in,
    parse_collateral,
)
from privacy.tee.detect import detect
from privacy.tee.simulated_collateral import Defects, simulated_collateral
from privacy.tee.simulated_pki import make_ca, make_root


@pytest.fixture(scope="module")
def ca():
    return make_ca(make_root())


@pytest.fixture
def given(ca, now):
    return simulated_collateral(ca, now=now, defects=Defects())


def pem(der, label="CERTIFICATE"):
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"


@pytest.fixture
def members(given):
    (info,), (identity,) = given.tcb_infos, given.qe_identities
    chain = pem(given.certificates[0])
    return {
        "pck_crl_issuer_chain": chain,
        "root_ca_crl": given.crls[0].hex(),
        "pck_crl": pem(given.crls[1], "X509 CRL"),
        "tcb_info_issuer_chain": chain,
        "tcb_info": info.body.decode(),
        "tcb_info_signature": info.signature.hex(),
        "qe_identity_issuer_chain": chain,
        "qe_identity": identity.body.decode(),
        "qe_identity_signature": identity.signature.hex(),
    }


def test_a_set_and_its_parts_one_by_one_are_the_same(given, members, tmp_path):
    assert parse_collateral(json.dumps(members).encode(), what="set") == given
    (info,), (identity,) = given.tcb_infos, given.qe_identities
    answers = [("tcbInfo", info), ("enclaveIdentity", identity)]
    files = [given.certificates[0], *given.crls]
    files += [
        b'{"%s":%b,"signature":"%b"}\n'
        % (name.encode(), signed.body, signed.signature.hex().encode())
        for name, signed in answers
    ]
    for i, raw in enumerate(files):
        (tmp_path / str(i)).write_bytes(raw)
    (tmp_path / "README").write_text("a folder may hold anything")
    (tmp_path / "large").write_bytes(bytes(module.MAX_FILE_BYTES + 1))
    found = FileCollateral((tmp_path,)).collateral()
    for name in Collateral.__dataclass_fields__:
        assert set(getattr(found, name)) == set(getattr(given, name))


@pytest.mark.parametrize(
    "change",
    [
        {"root_ca_crl": "xx"},
        {"root_ca_crl": "00"},
        {"tcb_info_signature": "0"},
        {"tcb_info": 1},
        {"qe_identity": None},
        {"pck_crl": pem(b"\x30\x00", "X509 CRL")},
        {"pck_crl_issuer_chain": pem(b"\x30\x00")},
        {"pck_crl_issuer_chain": "-----BEGIN CERTIFICATE-----"},
    ],
)
def test_a_set_with_anything_odd_in_it_is_refused(members, change):
    with pytest.raises(FormatError):
        parse_collateral(json.dumps(members | change).encode(), what="set")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x30\x00",
        b"{",
        b"-----BEGIN PRIVATE KEY-----",
        b'{"tcbInfo":{},"signature":"00"}',
        bytes(module.MAX_FILE_BYTES + 1),
    ],
)
def test_what_is_no_collateral_is_refused(raw):
    with pytest.raises(FormatError):
        parse_collateral(raw, what="file")


def test_folders_with_too_much_and_paths_that_are_not_there_are_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MAX_FILES", 1)
    for name in ("a", "b"):
        (tmp_path / name).touch()
    with pytest.raises(FormatError) as caught:
        FileCollateral((tmp_path,)).collateral()
    assert caught.value.code == "too-many-files"
    with pytest.raises(FormatError, match="there is no"):
        FileCollateral((tmp_path / "none",)).collateral()


def test_an_empty_source_and_a_folder_not_there_yet_give_nothing(tmp_path):
    assert FileCollateral(()).collateral() == Collateral()
    assert kept_in(tmp_path / "none").collateral() == Collateral()
    assert kept_in(tmp_path).collateral() == Collateral()


@pytest.mark.parametrize(
    "devices",
    [
        [],
        [1],
        [{}],
        [{"evidence": "", "certificate": ""}] * 65,
        [{"evidence": "!!!", "certificate": ""}],
        [{"evidence": base64.b64encode(b"11e001ff").decode(), "certificate": ""}],
        [{"evidence": "", "certificate": 1}],
    ],
)
def test_lists_of_devices_with_anything_odd_are_refused(devices):
    with pytest.raises(FormatError):
        detect(json.dumps(devices).encode())


def test_certificates_beside_a_device_must_be_certificates(ca):
    evidence = base64.b64encode(bytes.fromhex("11e001ff")).decode()
    chain = pem(ca.certificate.public_bytes(Encoding.DER)).encode()

    def listed(certificate):
        device = {
            "evidence": evidence,
            "certificate": base64.b64encode(certificate).decode(),
        }
        return detect(json.dumps([device]).encode())

    (item,) = listed(chain)
    assert x509.load_der_x509_certificate(item.certificates[0]) == ca.certificate
    with pytest.raises(FormatError):
        listed(chain.replace(b"MII", b"AAA", 1))


def of_no_known_version(der, marker):
    head = bytes.fromhex(marker)
    assert head in der
    return der.replace(head, head[:-1] + b"\x07", 1)


def test_certificates_and_lists_of_no_known_version_are_malformed(given):
    certificate = of_no_known_version(given.certificates[0], "a003020102")
    crl = of_no_known_version(given.crls[0], "020101")
    texts = pem(certificate).encode(), pem(crl, "X509 CRL").encode()
    for raw in (certificate, crl, *texts):
        with pytest.raises(FormatError):
            parse_collateral(raw, what="file")
    entry = {"evidence": "", "certificate": base64.b64encode(texts[0]).decode()}
    entry["evidence"] = base64.b64encode(bytes.fromhex("11e001ff")).decode()
    with pytest.raises(FormatError):
        detect(json.dumps([entry]).encode())


def test_a_broken_statement_in_a_folder_is_passed_over(tmp_path):
    for name in ("tcbInfo", "enclaveIdentity"):
        text = f'{{"{name}":{{x}},"signature":"{"0" * 128}"}}'
        (tmp_path / name).write_text(text)
        with pytest.raises(FormatError):
            parse_collateral(text.encode(), what=name)
    assert kept_in(tmp_path).collateral() == Collateral()
