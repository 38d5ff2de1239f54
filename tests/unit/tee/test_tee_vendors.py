"""Simulated AMD, AWS and NVIDIA: each check passes on truth, fails on its lie."""

import random
from datetime import timedelta

import pytest

from privacy.errors import FormatError, PrivacyError
from privacy.tee.attest import attest, show
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.policy import Relaxations, parse_policy
from privacy.tee.simulated_vendors import (
    SimulatedAmd,
    SimulatedAws,
    SimulatedNvidia,
    issue,
)
from privacy.tee.simulated_x509 import issue_crl
from privacy.tee.trust import hardware_trust_store

DATA = bytes(range(64))
DEBUG = (0x30000 | 1 << 19).to_bytes(8, "little")
NONCE, DIGESTS = bytes(range(32)), [bytes([i]) * 48 for i in range(1, 5)]


def check(raw, vendor, now, certificates=(), store=None):
    (claims,) = attest(
        raw,
        trust_store=store or vendor.trust_store,
        collateral=Collateral(certificates=tuple(certificates)),
        now=now,
        checks=Checklist(),
        policy=Relaxations(allow_unchecked_collateral=True),
    ).claims
    assert claims.simulated
    return claims


def refused(*arguments, **options):
    with pytest.raises(PrivacyError) as caught:
        check(*arguments, **options)
    return caught.value.code


@pytest.fixture(scope="module")
def amd():
    return SimulatedAmd()


@pytest.fixture(scope="module")
def vlek():
    return SimulatedAmd(vlek=True)


@pytest.fixture
def aws(now):
    return SimulatedAws(now=now)


@pytest.fixture(scope="module")
def gpu():
    return SimulatedNvidia()


def test_snp_reports_under_vcek_and_vlek_are_accepted(amd, vlek, now):
    for vendor in (amd, vlek):
        raw = vendor.report(DATA)
        for given in (raw, raw + bytes(100), raw.hex().encode()):
            claims = check(given, vendor, now, [vendor.leaf.der])
            assert claims.format == "snp-v3"
            assert claims.report_data == DATA.hex()
            assert claims.svns["microcode"] == 84
            assert claims.measurements["vmpl"] == "00000000"


def test_a_policy_can_ask_at_which_privilege_level_a_report_was_made(amd, now):
    raw = amd.report(DATA, fields={0x30: b"\3"})
    claims = check(raw, amd, now, [amd.leaf.der])
    policy = parse_policy(
        b'allow_any_report_data = true\n[measurements.snp-v3]\nvmpl = "00000000"'
    )
    failed = [line for line in policy.check([claims], now=now) if not line.ok]
    assert [(line.name, line.code) for line in failed] == [
        ("vmpl", "measurement-mismatch")
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({0x08: DEBUG}, "debug-enclave", id="debug"),
        pytest.param({0x180: bytes(8)}, "tcb-mismatch", id="another TCB"),
        pytest.param({0x1A0: b"\0" * 64}, "chip-mismatch", id="masked chip"),
        pytest.param({0x1A0: b"\1" * 64}, "chip-mismatch", id="another chip"),
        pytest.param({0x48: b"\x04"}, "certificate-missing", id="says VLEK"),
        pytest.param({0x48: b"\x1c"}, "certificate-chain", id="says none"),
        pytest.param({0x00: b"\x04"}, "unknown-format", id="version"),
        pytest.param({0x34: b"\x02"}, "unsupported-report", id="algorithm"),
    ],
)
def test_snp_reports_that_lie_are_refused(amd, now, fields, code):
    raw = amd.report(DATA, fields=fields)
    expected = {code, "certificate-missing"} if "chain" in code else {code}
    assert refused(raw, amd, now, [amd.leaf.der]) in expected


@pytest.mark.parametrize(
    ("extension", "value", "code"),
    [
        ("3_3", b"\x02\x01\x18", "tcb-mismatch"),
        ("3_3", b"", "tcb-mismatch"),
        ("3_3", b"\x02\x02\x00\x17", "not-canonical"),
        ("3_8", b"\x04\x01\x54", "malformed"),
        ("4", b"\x07" * 64, "chip-mismatch"),
        ("4", b"", "chip-mismatch"),
    ],
)
def test_snp_leaves_of_another_chip_or_tcb_are_refused(
    amd, now, monkeypatch, extension, value, code
):
    monkeypatch.setattr(amd, "leaf", amd.make_leaf(**{extension: value}))
    assert refused(amd.report(DATA), amd, now, [amd.leaf.der]) == code


def test_snp_reports_of_another_key_or_root_are_refused(amd, vlek, now):
    raw = amd.report(DATA)
    assert refused(raw, amd, now, [amd.make_leaf().der]) == "report-signature"
    assert refused(raw, amd, now) == "certificate-missing"
    # The same names under another root: its CA did not sign this leaf.
    assert refused(raw, vlek, now, [amd.leaf.der]) == "certificate-signature"
    store = hardware_trust_store()
    assert refused(raw, amd, now, [amd.leaf.der], store) == "simulated-evidence"
    assert refused(raw, amd, now, store=store) == "certificate-missing"


def test_nitro_documents_are_accepted_with_and_without_tag(aws, now):
    for tagged in (False, True):
        members = {"nonce": b"n", "user_data": b"u", "public_key": b"k"}
        raw = aws.document(members=members, tagged=tagged)
        claims = check(raw, aws, now)
        assert (claims.nonce, claims.report_data) == (b"n".hex(), b"u".hex())
        assert claims.measurements["pcr2"] == "03" * 48


@pytest.mark.parametrize(
    ("members", "code"),
    [
        pytest.param({"pcrs": dict.fromkeys(range(3), bytes(48))}, "debug-enclave"),
        pytest.param({"pcrs": {0: b"\1" * 48}}, "malformed", id="too few PCRs"),
        pytest.param(
            {"pcrs": dict.fromkeys(range(3), b"\x01")}, "malformed", id="short"
        ),
        pytest.param({"digest": "SHA256"}, "unsupported-document"),
        pytest.param({"timestamp": 0}, "malformed", id="time 0"),
        pytest.param({"timestamp": 1 << 60}, "malformed", id="far time"),
        pytest.param({"timestamp": 1_500_000_000_000}, "made-at"),
        pytest.param({"module_id": 7}, "malformed", id="module id"),
        pytest.param({"module_id": None}, "unsupported-document", id="no module id"),
        pytest.param({"more": 1}, "unsupported-document", id="unknown member"),
        pytest.param({"cabundle": []}, "malformed", id="no bundle"),
        pytest.param({"cabundle": [b"x"]}, "untrusted-root", id="no root"),
        pytest.param({"certificate": b"x"}, "certificate-malformed", id="no leaf"),
        pytest.param({"certificate": "x"}, "malformed", id="text as leaf"),
    ],
)
def test_nitro_documents_that_lie_are_refused(aws, now, members, code):
    assert refused(aws.document(members=members), aws, now) == code


def test_nitro_documents_of_others_or_another_time_are_refused(aws, now):
    raw = aws.document()
    assert refused(raw, SimulatedAws(now=now), now) == "untrusted-root"
    late, early = now + timedelta(hours=4), now - timedelta(minutes=5)
    assert refused(raw, aws, late) == "certificate-expired"
    assert refused(raw, aws, early) == "certificate-expired"
    other = SimulatedAws(now=now)
    members = {"certificate": aws.leaf.der, "cabundle": [aws.root.der, aws.ca.der]}
    stolen = other.document(members=members)
    assert refused(stolen, aws, now) == "document-signature"
    members = {"cabundle": [aws.root.der]}
    assert refused(aws.document(members=members), aws, now) == "certificate-signature"


def test_a_nitro_leaf_without_constraints_is_refused(aws, now):
    aws.leaf = issue("bare", aws.ca, bare=True)
    assert refused(aws.document(), aws, now) == "certificate-role"


def test_a_document_beyond_its_size_is_refused(aws, now):
    raw = aws.document(members={"user_data": bytes(1 << 15)})
    assert refused(raw, aws, now) == "too-large"


def test_a_nitro_leaf_may_not_issue_certificates(aws, now):
    aws.leaf, ca = issue("below a leaf", aws.leaf), aws.leaf
    bundle = [aws.root.der, aws.ca.der, ca.der]
    raw = aws.document(members={"cabundle": bundle, "certificate": aws.leaf.der})
    assert refused(raw, aws, now) == "certificate-role"


def test_gpu_reports_are_accepted(gpu, now):
    claims = check(gpu.report(NONCE, DIGESTS), gpu, now, gpu.chain)
    assert (claims.nonce, claims.product) == (NONCE.hex(), "GH100")
    assert claims.measurements["m4"] == "04" * 48


def test_gpu_reports_that_lie_or_are_of_others_are_refused(gpu, now):
    raw, other = gpu.report(NONCE, DIGESTS), SimulatedNvidia()
    lying = gpu.report(NONCE, DIGESTS, opaque={20: other.fwid})
    assert refused(lying, gpu, now, gpu.chain) == "firmware-mismatch"
    empty = gpu.report(NONCE, DIGESTS, opaque={20: b""})
    assert refused(empty, gpu, now, gpu.chain) == "firmware-mismatch"
    assert refused(raw, other, now, gpu.chain) == "untrusted-root"
    mixed = (other.leaf.der, gpu.ca.der, gpu.root.der)
    assert refused(raw, gpu, now, mixed) == "certificate-signature"
    assert refused(other.report(NONCE, DIGESTS), gpu, now, gpu.chain) == (
        "report-signature"
    )
    assert refused(raw, gpu, now, [gpu.leaf.der]) == "certificate-missing"
    longest = [bytes(65)]
    assert refused(gpu.report(NONCE, longest), gpu, now, gpu.chain) == (
        "unsupported-report"
    )


def test_gpu_reports_need_not_name_their_firmware(gpu, now, monkeypatch):
    said = {kind: v for kind, v in gpu._opaque().items() if kind != 20}
    monkeypatch.setattr(gpu, "_opaque", lambda: said)
    assert check(gpu.report(NONCE, DIGESTS), gpu, now, gpu.chain)


def test_gpu_reports_with_bytes_behind_their_measurements_are_refused(gpu):
    raw = gpu.report(NONCE, DIGESTS)
    size = int.from_bytes(raw[42:45], "little")
    longer = (size + 1).to_bytes(3, "little") + raw[45 : 45 + size] + b"\0"
    with pytest.raises(FormatError) as caught:
        show(raw[:42] + longer + raw[45 + size :])
    assert caught.value.code == "not-canonical"


def test_an_snp_leaf_with_an_issuer_that_is_no_text_is_passed_over(amd, now):
    odd = amd.leaf.der.replace(b"SEV-Simulated", b"\xffEV-Simulated")
    assert odd != amd.leaf.der
    assert refused(amd.report(DATA), amd, now, [odd]) == "certificate-missing"


@pytest.fixture(params=["amd", "aws", "gpu"])
def honest(request, amd, aws, gpu):
    return {
        "amd": lambda: (amd.report(DATA) + bytes(8), amd, [amd.leaf.der]),
        "aws": lambda: (aws.document(), aws, []),
        "gpu": lambda: (gpu.report(NONCE, DIGESTS), gpu, gpu.chain),
    }[request.param]()


def mutate(honest, now, count):
    raw, vendor, certificates = honest
    check(raw, vendor, now, certificates)
    source = random.Random(20261121)
    for _ in range(count):
        changed = bytearray(raw)
        changed[source.randrange(len(raw))] ^= source.randrange(1, 256)
        with pytest.raises(PrivacyError):
            check(bytes(changed), vendor, now, certificates)


def test_no_byte_flip_ever_verifies(honest, now):
    mutate(honest, now, 300)


def test_every_truncation_is_malformed(honest):
    raw = honest[0].rstrip(b"\0")
    for size in range(0, len(raw), 7):
        with pytest.raises(FormatError):
            show(raw[:size])


def test_certificates_with_keys_nobody_knows_are_refused_like_others(amd, gpu, now):
    curve = bytes.fromhex("06052b81040022")  # P-384, in a certificate's key
    unknown = bytes.fromhex("06052b81040034")
    odd = amd.leaf.der.replace(curve, unknown)
    assert odd != amd.leaf.der
    found = refused(amd.report(DATA), amd, now, [odd])
    assert found == "certificate-signature"
    chain = (gpu.leaf.der, gpu.ca.der.replace(curve, unknown), gpu.root.der)
    raw = gpu.report(NONCE, DIGESTS)
    assert refused(raw, gpu, now, chain) == "certificate-signature"


def test_a_given_list_that_names_a_ca_of_aws_is_looked_into(aws, now):
    zone = issue("zone", aws.ca, ca=True)
    aws.leaf = issue("enclave", zone)
    bundle = [aws.root.der, aws.ca.der, zone.der]
    raw = aws.document(members={"cabundle": bundle})
    serial = aws.ca.certificate.serial_number
    for revoked, code in (([], ""), ([serial], "certificate-revoked")):
        crl = issue_crl(aws.root, now, revoked=revoked)
        lists = Collateral(crls=(crl,))
        if code:
            with pytest.raises(PrivacyError) as caught:
                verdict_on(raw, aws, now, lists)
            assert caught.value.code == code
        else:
            assert verdict_on(raw, aws, now, lists).claims[0].unchecked == ()


def verdict_on(raw, vendor, now, collateral):
    return attest(
        raw,
        trust_store=vendor.trust_store,
        collateral=collateral,
        now=now,
        checks=Checklist(),
        policy=Relaxations(),
    )
