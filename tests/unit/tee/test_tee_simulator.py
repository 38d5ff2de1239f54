"""The simulated vendor is public, reproducible and in Intel's formats."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import privacy.tee.trust as trust_module
from privacy.encoding import sha256_hex
from privacy.errors import VerificationError
from privacy.tee.chain import SGX_EXTENSION
from privacy.tee.parse import parse_tdx_quote
from privacy.tee.simulated_pki import make_ca, make_leaf, make_root
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import (
    INTEL_ROOT_SHA256,
    SIMULATED_ROOT_SHA256,
    hardware_trust_store,
    simulated_trust_store,
)

ROOTS = Path(trust_module.__file__).parent / "roots"


def test_the_shipped_simulated_root_is_reproduced():
    pem = make_root().certificate.public_bytes(Encoding.PEM)
    assert (ROOTS / "simulated_intel_root.pem").read_bytes() == pem


def test_each_store_ships_its_own_pinned_root():
    assert sha256_hex(hardware_trust_store().intel) == INTEL_ROOT_SHA256
    assert sha256_hex(simulated_trust_store().intel) == SIMULATED_ROOT_SHA256
    assert not hardware_trust_store().simulated
    assert simulated_trust_store().simulated


def test_a_changed_root_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "roots").mkdir()
    pem = (ROOTS / "simulated_intel_root.pem").read_bytes()
    (tmp_path / "roots" / "intel_sgx_root.pem").write_bytes(pem)
    monkeypatch.setattr(trust_module, "files", lambda _: tmp_path)
    with pytest.raises(VerificationError) as caught:
        hardware_trust_store.__wrapped__()  # the function itself remembers
    assert caught.value.code == "root-changed"


def test_the_intel_root_is_the_one_real_quotes_carry(vectors):
    quote = parse_tdx_quote((vectors / "dcap-qvl" / "tdx_quote").read_bytes())
    assert quote.certificates[-1] == hardware_trust_store().intel


def test_every_attester_has_keys_of_its_own(measurements):
    first, second = SimulatedTdxAttester(), SimulatedTdxAttester()
    assert first.certificates[0] != second.certificates[0]
    assert first.certificates[2] == second.certificates[2]


def test_two_quotes_of_the_same_thing_differ(measurements, report_data):
    attester = SimulatedTdxAttester()
    quotes = {attester.quote(report_data, measurements) for _ in range(3)}
    assert len(quotes) == 3


def test_the_sgx_extension_has_the_shape_of_a_real_one(vectors):
    real = parse_tdx_quote((vectors / "dcap-qvl" / "tdx_quote").read_bytes())
    ours = make_leaf(make_ca(make_root())).certificate
    theirs = x509.load_der_x509_certificate(real.certificates[0])
    assert oids(ours) == oids(theirs) - {"1.2.840.113741.1.13.1.7"}


def oids(certificate):
    """Return the OIDs one level into the SGX extension, read with a tiny DER walk."""
    value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value.value
    pairs = [children(pair) for pair in children(value)]
    return {dotted(pair[0]) for pair in pairs}


def children(der):
    _, body, _ = tlv(der, 0)
    found, at = [], 0
    while at < len(body):
        _, _, end = tlv(body, at)
        found.append(body[at:end])
        at = end
    return found


def tlv(der, at):
    size, at_body = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(der[at_body : at_body + count], "big")
        at_body += count
    return der[at], der[at_body : at_body + size], at_body + size


def dotted(der):
    _, body, _ = tlv(der, 0)
    numbers, value = [], 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    return ".".join(map(str, [numbers[0] // 40, numbers[0] % 40, *numbers[1:]]))
