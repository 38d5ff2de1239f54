"""Attestation Results: whoever relies on a token gets what the Verifier found."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from privacy.encoding import b64url_decode
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    VerificationError,
)
from privacy.tee.attest import Verdict
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.ear import PROFILE, check_result, sign_refusal, sign_result
from privacy.tee.policy import EvidencePolicy, Relaxations
from privacy.tee.tiers import tier_of, worst

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
POLICY = EvidencePolicy(Relaxations(), {"tdx-v4": {"mrtd": ("00",)}})
GENUINE = Claims(
    format="tdx-v4",
    vendor="intel",
    simulated=False,
    debug=False,
    measurements={"mrtd": "00"},
    report_data="ab",
    tcb_status="UpToDate",
)


@pytest.fixture
def sign(now):
    def sign(*changes, policy=POLICY, nonce="", at=now):
        claims = tuple(replace(GENUINE, **c) for c in changes or ({},))
        verdict = Verdict(claims, (), (), at)
        return sign_result(verdict, policy, KEY, nonce=nonce).encode()

    return sign


@pytest.fixture
def check(now):
    def check(token, *, keys=(KEY,), at=now, **options):
        public = [key.public_key() for key in keys]
        return check_result(token, public, now=at, **options)

    return check


def refused(check, *arguments, **options):
    with pytest.raises(PrivacyError) as caught:
        check(*arguments, **options)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (AppraisalError("x", code="debug-enclave"), ("executables", 96), "refused"),
        (VerificationError("x", code="bad-signature"), ("hardware", 99), "refused"),
        (FormatError("x"), ("hardware", 99), "refused"),
        (CannotVerifyError("x"), ("hardware", 0), "none"),
        (
            AppraisalError("x", code="simulated-evidence"),
            ("hardware", 97),
            "refused",
        ),
    ],
)
def test_a_refusal_says_why_and_is_relied_on_by_nobody(check, now, error, said, status):
    token = sign_refusal(
        error, KEY, form="tdx-v4", at=now, nonce="nonce 12", about={"model": "m"}
    ).encode()
    name, value = said
    claims = json.loads(b64url_decode(token.decode().split(".")[1], what="payload"))
    (part,) = claims["submods"].values()
    assert part["ear_trustworthiness_vector"] == {name: value}
    assert part["ear_verifier_claims"] == {"code": error.code, "refused": "x"}
    assert claims["ear_status"] == ("none" if status == "none" else "contraindicated")
    assert (claims["model"], claims["eat_nonce"]) == ("m", "nonce 12")
    allowed = {"allow_simulated": True, "allow_warning": True}
    assert refused(check, token, **allowed) == "result-status"
    code = "simulated-evidence" if claims["simulated"] else "result-status"
    assert refused(check, token) == code


def test_a_result_says_what_the_verifier_found(sign, check, now):
    result = check(sign(nonce="nonce 12"), nonce="nonce 12")
    assert (result.status, result.simulated) == ("affirming", False)
    assert result.issued_at == now.replace(microsecond=0)
    assert result.claims["eat_profile"] == PROFILE
    (part,) = result.claims["submods"].values()
    assert part["ear_trustworthiness_vector"] == {
        "hardware": 2,
        "executables": 3,
        "runtime-opaque": 2,
    }
    assert part["ear_attester_claims"]["measurements"] == {"mrtd": "00"}
    assert part["ear_attester_claims"]["dbgstat"] == "disabled"
    assert part["ear_verifier_claims"]["tcb_status"] == "UpToDate"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"debug": True}, "contraindicated"),
        ({"simulated": True}, "contraindicated"),
        ({"tcb_status": "SWHardeningNeeded"}, "warning"),
        ({"advisories": ("INTEL-SA-1",)}, "warning"),
        ({"unchecked": ("revocation",)}, "none"),
        ({"tcb_status": "OutOfDate", "unchecked": ("revocation",)}, "warning"),
        ({"debug": None, "tcb_status": ""}, "affirming"),
    ],
)
def test_a_weakness_is_in_the_status(sign, check, change, status):
    token = sign(change)
    claims = jwt.decode(token, OKPKey.import_key(KEY), algorithms=["Ed25519"]).claims
    assert claims["ear_status"] == status
    assert claims["simulated"] is change.get("simulated", False)
    if status == "affirming":
        check(token)
    elif change.get("simulated"):
        assert refused(check, token) == "simulated-evidence"
    else:
        assert refused(check, token) == "result-status"
        if status == "warning":
            assert check(token, allow_warning=True).status == "warning"
        else:
            assert refused(check, token, allow_warning=True) == "result-status"


def test_the_worst_piece_of_evidence_decides(sign, check):
    token = sign({}, {"format": "nvidia-spdm-1.1", "debug": True})
    assert refused(check, token) == "result-status"
    token = sign({}, {"simulated": True})
    assert refused(check, token) == "simulated-evidence"


def test_simulated_evidence_is_accepted_only_on_purpose_and_still_judged(sign, check):
    token = sign({"simulated": True})
    result = check(token, allow_simulated=True)
    assert (result.status, result.simulated) == ("affirming", True)
    token = sign({"simulated": True, "debug": True})
    assert refused(check, token, allow_simulated=True) == "result-status"


def test_a_result_without_reference_values_is_not_relied_on(sign, check):
    token = sign(policy=Relaxations())
    assert refused(check, token, allow_warning=True) == "result-status"


@pytest.mark.parametrize(
    ("unchecked", "status"), [((), "affirming"), (("reference measurements",), "none")]
)
def test_a_device_counts_as_compared_by_its_vendors_values(
    sign, check, unchecked, status
):
    device = {"format": "nvidia-spdm-1.1", "vendor": "nvidia", "debug": None}
    token = sign({}, device | {"unchecked": unchecked, "tcb_status": ""})
    if status == "affirming":
        assert check(token).status == status
    else:
        assert refused(check, token) == "result-status"


def test_a_result_of_another_verifier_is_refused(sign, check):
    assert refused(check, sign(), keys=[OTHER]) == "result-signature"
    assert refused(check, sign(), keys=[]) == "result-signature"
    assert check(sign(), keys=[OTHER, KEY])


def test_a_result_counts_for_ten_minutes(sign, check, now):
    token = sign()
    check(token, at=now + timedelta(minutes=9))
    for late in (timedelta(minutes=11), -timedelta(minutes=2)):
        assert refused(check, token, at=now + late) == "result-expired"
    old = sign(at=now - timedelta(days=300))
    assert refused(check, old) == "result-expired"
    assert refused(check, token, at=now.replace(tzinfo=None)) == "malformed"


def test_a_result_to_another_nonce_is_refused(sign, check):
    assert refused(check, sign(), nonce="nonce 12") == "result-nonce"
    assert refused(check, sign(nonce="nonce 11"), nonce="nonce 12") == "result-nonce"
    for nonce in ("short", "x" * 89):
        with pytest.raises(FormatError):
            sign(nonce=nonce)


def forge(claims, key=None, **header):
    header = {"alg": "Ed25519", "typ": "eat+jwt"} | header
    key = key or OKPKey.import_key(KEY)
    return jwt.encode(header, claims, key, algorithms=[header["alg"]]).encode()


@pytest.fixture
def said(sign):
    return jwt.decode(sign(), OKPKey.import_key(KEY), algorithms=["Ed25519"]).claims


def test_tokens_of_other_types_or_algorithms_are_refused(check, said, sign):
    assert check(forge(said))
    assert refused(check, forge(said, typ="JWT")) == "result-signature"
    secret = OctKey.import_key(KEY.public_key().public_bytes_raw())
    assert refused(check, forge(said, secret, alg="HS256")) == "result-signature"
    _, body, _ = sign().split(b".")
    none = b"eyJhbGciOiJub25lIiwidHlwIjoiZWF0K2p3dCJ9"
    assert refused(check, b".".join([none, body, b""])) == "result-signature"
    assert refused(check, b"." * (1 << 19)) == "too-large"


@pytest.mark.parametrize(
    "change",
    [
        {"eat_profile": "tag:github.com,2023:veraison/ear"},
        {"simulated": "no"},
        {"simulated": None},
        {"submods": {}},
        {"submods": []},
        {"submods": {"a": 1}},
        {"submods": {"a": {"ear_status": "affirming"}}},
        {"iat": True},
        {"exp": 1 << 40},
        {"exp": "tomorrow"},
    ],
)
def test_tokens_of_another_shape_are_refused(check, said, change):
    assert refused(check, forge(said | change)) == "result-profile"


@pytest.mark.parametrize(
    ("vector", "status"),
    [
        ({"hardware": 97}, "affirming"),
        ({"hardware": "2"}, "affirming"),
        ({"hardware": 200}, "contraindicated"),
        ({"hardware": 2}, "good"),
    ],
)
def test_a_status_that_is_not_of_its_vector_is_refused(check, said, vector, status):
    part = {"ear_status": status, "ear_trustworthiness_vector": vector}
    token = forge(said | {"submods": {"a": part}})
    assert refused(check, token) == "result-profile"


def test_what_a_vector_leaves_out_is_not_affirmed(check, said):
    part = {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": 2}}
    token = forge(said | {"submods": {"a": part}})
    assert refused(check, token) == "result-status"


def test_a_lifetime_beyond_ten_minutes_is_refused(check, said):
    assert refused(check, forge(said | {"exp": said["exp"] + 60})) == "result-expired"


def test_no_changed_byte_of_a_token_passes(sign, check):
    token = sign()
    for at in range(len(token)):
        changed = bytearray(token)
        changed[at] ^= 1
        codes = {"result-signature", "not-canonical", "malformed"}
        assert refused(check, bytes(changed)) in codes


def test_every_step_of_the_check_is_a_line(sign, check):
    checks = Checklist()
    check(sign(nonce="nonce 12"), nonce="nonce 12", checks=checks)
    assert [line.name.removeprefix("result-") for line in checks.lines] == [
        "signature",
        "profile",
        "age",
        "nonce",
        "origin",
        "status",
    ]
    assert all(line.ok for line in checks.lines)
    json.dumps([line.found for line in checks.lines])


def test_tiers_are_those_of_ar4si():
    tiers = {
        "none": (-1, 0, 1),
        "affirming": (2, 31, -2, -32),
        "warning": (32, 95, -33, -96),
        "contraindicated": (96, 127, -97, -128),
    }
    for tier, values in tiers.items():
        assert {tier_of(v) for v in values} == {tier}
    assert worst([]) == "none"
    assert worst(["affirming", "none"]) == "none"
