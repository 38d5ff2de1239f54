"""Evidence and statements have one encoding and refuse everything else."""

import contextlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import b64url, canonical_json, parse_object
from privacy.errors import FormatError, VerificationError
from privacy.tee.composite import Device, devices_to_bytes
from privacy.tee.evidence import Evidence, Statement, parse_evidence
from privacy.tee.kem import CLASSIC, HYBRID, KemPublicKey
from privacy.tee.runtime_log import RuntimeEvent

KEY = Ed25519PrivateKey.generate()
STATEMENT = Statement(
    "ab" * 32, bytes(32), bytes(32), "cd" * 32, "ef" * 32, simulated=True
)
SHOWN = Evidence(
    format="tdx-v4",
    quote=b"quote",
    hpke_public_keys=(
        KemPublicKey(HYBRID, bytes(1216)),
        KemPublicKey(CLASSIC, bytes(range(32))),
    ),
    signing_public_key=KEY.public_key().public_bytes_raw(),
    nonce=bytes(32),
    model_sha256="ab" * 32,
    event_log=(RuntimeEvent("keys", {"hpke": "00"}),),
)
DEVICES = devices_to_bytes([Device(b"report", (b"leaf", b"root"))])
JOB = replace(SHOWN, statement=STATEMENT, signature=STATEMENT.sign(KEY))


@pytest.mark.parametrize(
    "evidence",
    [
        SHOWN,
        JOB,
        replace(SHOWN, chain_public_key=bytes(64)),
        replace(SHOWN, event_log=(), device_evidence=DEVICES),
    ],
)
def test_evidence_survives_the_wire(evidence):
    assert parse_evidence(evidence.to_bytes()) == evidence


@pytest.mark.parametrize("evidence", [SHOWN, JOB])
def test_evidence_refuses_missing_members(evidence):
    for name in parse_object(evidence.to_bytes(), what="evidence"):
        value = parse_object(evidence.to_bytes(), what="evidence")
        del value[name]
        with pytest.raises(FormatError):
            parse_evidence(canonical_json(value))


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"quote": 7},
        {"quote": "a b"},
        {"hpke_public_keys": {}},
        {"hpke_public_keys": [b64url(bytes(32))]},
        {"hpke_public_keys": {CLASSIC: "AAAA"}},
        {"hpke_public_keys": {CLASSIC: b64url(bytes(1216))}},
        {"hpke_public_keys": {"P256": b64url(bytes(65))}},
        {"event_log": "none"},
        {"event_log": [{"event": "keys"}]},
        {"event_log": [{"event": "other", "detail": {}}]},
        {"event_log": [{"event": ["keys"], "detail": {}}]},
        {"event_log": [{"event": "keys", "detail": {"a": 1}}]},
        {"event_log": [{"event": "keys", "detail": {"a": "b" * 257}}]},
        {"event_log": [{"event": "keys", "detail": {}}] * 65},
        {"device_evidence": b64url(b"{}")},
        {"device_evidence": b64url(b'{"devices":[]}')},
        {"signing_public_key": "AAAA"},
        {"chain_public_key": "AAAA"},
        {"signature": "AAAA"},
        {"nonce": "AAAA"},
        {"model_sha256": "no digest"},
        {"statement": "none"},
        {"statement": {**STATEMENT.as_dict(), "extra": 1}},
        {"statement": {**STATEMENT.as_dict(), "domain": "another"}},
        {"statement": {**STATEMENT.as_dict(), "simulated": "yes"}},
        {"statement": {**STATEMENT.as_dict(), "input_sha256": "short"}},
        {"statement": {**STATEMENT.as_dict(), "job": "AAAA"}},
    ],
)
def test_evidence_refuses_members_that_are_not_what_they_should_be(change):
    value = parse_object(JOB.to_bytes(), what="evidence")
    with pytest.raises(FormatError):
        parse_evidence(canonical_json({**value, **change}))


def test_evidence_refuses_another_encoding_of_the_same_value():
    with pytest.raises(FormatError) as caught:
        parse_evidence(JOB.to_bytes().replace(b":", b": ", 1))
    assert caught.value.code == "not-canonical"


@given(st.data())
def test_any_splice_of_evidence_parses_or_is_a_format_error(data):
    raw = JOB.to_bytes()
    at = data.draw(st.integers(0, len(raw)))
    middle = data.draw(st.binary(max_size=16))
    with contextlib.suppress(FormatError):
        changed = raw[:at] + middle + raw[at + data.draw(st.integers(0, 16)) :]
        assert parse_evidence(changed).to_bytes() == changed.removesuffix(b"\n")


def test_report_data_depends_on_every_part():
    classic, hybrid = SHOWN.hpke_public_keys[::-1]
    changes = [
        {},
        {"nonce": b"\1" * 32},
        {"hpke_public_keys": (classic,)},
        {"hpke_public_keys": (hybrid,)},
        {"hpke_public_keys": (hybrid, KemPublicKey(CLASSIC, bytes(32)))},
        {"signing_public_key": bytes(32)},
        {"chain_public_key": b"\1" * 64},
        {"model_sha256": "01" * 32},
        {"event_log": ()},
        {"event_log": SHOWN.event_log * 2},
        {"device_evidence": DEVICES},
        {"device_evidence": devices_to_bytes([Device(b"another", (b"leaf",))])},
    ]
    seen = {replace(SHOWN, **change).report_data for change in changes}
    assert len(seen) == len(changes)
    assert {len(value) for value in seen} == {64}


@pytest.mark.parametrize("size", [0, 31, 33])
def test_report_data_refuses_a_nonce_that_is_not_32_bytes(size):
    with pytest.raises(FormatError) as caught:
        _ = replace(SHOWN, nonce=bytes(size)).report_data
    assert caught.value.code == "bad-nonce"


def test_evidence_of_another_version_says_so():
    value = parse_object(JOB.to_bytes(), what="evidence")
    old = {name: part for name, part in value.items() if name != "version"}
    for changed in (old, {**value, "version": 4}, {**value, "version": "3"}):
        with pytest.raises(FormatError, match="update the older") as caught:
            parse_evidence(canonical_json(changed))
        assert caught.value.code == "evidence-version"


def test_a_signed_statement_holds():
    JOB.check_signature(STATEMENT)


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "00" * 32},
        {"nonce": b"\1" * 32},
        {"job": b"\1" * 32},
        {"input_sha256": "00" * 32},
        {"output_sha256": "00" * 32},
        {"simulated": False},
    ],
)
def test_a_statement_changed_in_any_field_is_refused(change):
    with pytest.raises(VerificationError) as caught:
        JOB.check_signature(replace(STATEMENT, **change))
    assert caught.value.code == "statement-signature"


def test_a_statement_signed_by_another_key_is_refused():
    other = replace(JOB, signature=STATEMENT.sign(Ed25519PrivateKey.generate()))
    with pytest.raises(VerificationError):
        other.check_signature(STATEMENT)
