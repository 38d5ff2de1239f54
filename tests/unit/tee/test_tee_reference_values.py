"""Reference values count if someone whom the policy names signed them, and in time."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.jwk import OKPKey

from privacy.encoding import canonical_json
from privacy.errors import CannotVerifyError, FormatError, PrivacyError
from privacy.jws import bare_jwk, key_id
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.policy import parse_policy
from privacy.tee.reference_values import (
    FORMAT,
    apply_reference_values,
    sign_reference_values,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
VALUES = {"tdx-v4": {"mrtd": ("01" * 48,), "rtmr0": ("02" * 48, "03" * 48)}}


@pytest.fixture
def policy():
    text = "allow_any_report_data = true\nreference_value_signers = ['SIGNER']\n"
    text += "[minimum_svns.tdx-v4]\ntee_tcb_svn0 = 1\n"
    return parse_policy(text.replace("SIGNER", key_id(KEY.public_key())).encode())


@pytest.fixture
def sign(now):
    def sign(values=VALUES, key=KEY, days=1):
        end = now + timedelta(days=days)
        token = sign_reference_values(values, key, issued_at=now, expires_at=end)
        return token.encode()

    return sign


def code_of(policy, manifest, now):
    with pytest.raises(PrivacyError) as caught:
        apply_reference_values(policy, manifest, now=now, checks=Checklist())
    return caught.value.code


def test_values_of_a_named_signer_are_compared(policy, sign, now):
    checks = Checklist()
    manifest = sign() + b"\n"
    applied = apply_reference_values(policy, manifest, now=now, checks=checks)
    assert applied.measurements == VALUES
    assert key_id(KEY.public_key()) in checks.lines[0].found
    claims = Claims(
        format="tdx-v4",
        vendor="intel",
        simulated=False,
        debug=False,
        measurements={"mrtd": "01" * 48, "rtmr0": "04" * 48},
        svns={"tee_tcb_svn0": 1},
    )
    failed = [line.code for line in applied.check([claims], now=now) if not line.ok]
    assert failed == ["measurement-mismatch"]


def test_without_its_manifest_the_policy_accepts_nothing(policy, sign, now):
    claims = Claims("tdx-v4", "intel", simulated=False, debug=False, measurements={})
    failed = [line.code for line in policy.check([claims], now=now) if not line.ok]
    assert failed == ["format-refused", "svn-too-low"]
    with pytest.raises(CannotVerifyError) as caught:
        apply_reference_values(policy, None, now=now, checks=Checklist())
    assert caught.value.code == "reference-values-missing"


def test_a_manifest_that_the_policy_does_not_want_is_refused(sign, now):
    text = "allow_any_report_data = true\n[measurements.nitro]\npcr0 = '00'"
    policy = parse_policy(text.encode())
    assert code_of(policy, sign(), now) == "bad-policy"
    assert apply_reference_values(policy, None, now=now, checks=Checklist()) is policy


def test_manifests_of_others_or_of_another_time_are_refused(policy, sign, now):
    assert code_of(policy, sign(key=OTHER), now) == "reference-values-signer"
    late, early = now + timedelta(days=2), now - timedelta(days=1)
    assert code_of(policy, sign(), late) == "reference-values-expired"
    assert code_of(policy, sign(), early) == "reference-values-expired"


def test_no_changed_byte_of_a_manifest_passes(policy, sign, now):
    manifest = sign()
    for at in range(len(manifest)):
        changed = bytearray(manifest)
        changed[at] ^= 1
        assert code_of(policy, bytes(changed), now)


def forge(value, **header):
    header = {"alg": "Ed25519", "typ": FORMAT, "jwk": bare_jwk(KEY.public_key())}
    payload = value if isinstance(value, bytes) else canonical_json(value)
    key = OKPKey.import_key(KEY)
    return jws.serialize_compact(header, payload, key, algorithms=["Ed25519"]).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "privacy-compute/reference-values/2"},
        {"more": 1},
        {"issued_at": "today"},
        {"expires_at": "2060-01-01T00:00:00"},
        {"measurements": {}},
        {"measurements": {"tdx-v4": {}}},
        {"measurements": {"tdx-v4": {"mrtd": []}}},
        {"measurements": {"tdx-v4": {"mrtd": ["xx"]}}},
        {"measurements": []},
    ],
)
def test_signed_manifests_of_another_shape_are_refused(policy, now, change):
    value = {
        "format": FORMAT,
        "issued_at": (now - timedelta(days=1)).isoformat(),
        "expires_at": (now + timedelta(days=1)).isoformat(),
        "measurements": {"tdx-v4": {"mrtd": ["00"]}},
    }
    apply_reference_values(policy, forge(value), now=now, checks=Checklist())
    with pytest.raises(FormatError):
        apply_reference_values(
            policy, forge(value | change), now=now, checks=Checklist()
        )
    plain = json.dumps(value).encode()
    assert code_of(policy, forge(plain), now) == "not-canonical"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"e30.e30",
        b"e30.e30.e30",
        b"e30.e30.e30.e30",
        b"W10.e30.e30",
        b"\xff.e30.e30",
        b"a" * (1 << 21),
    ],
)
def test_what_is_no_manifest_is_refused(policy, now, manifest):
    with pytest.raises(FormatError):
        apply_reference_values(policy, manifest, now=now, checks=Checklist())


def test_a_manifest_of_nothing_or_of_no_time_is_not_signed(sign):
    for arguments in ({"values": {}}, {"days": 0}):
        with pytest.raises(FormatError):
            sign(**arguments)
