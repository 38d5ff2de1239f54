"""An enclave's whole evidence before a policy: what is beside the quote counts, too."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from lying_attester import LyingTdxAttester
from tee_models import MODEL_SHA256, linear_model

from privacy.encoding import b64url, canonical_json
from privacy.errors import AppraisalError, FormatError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.client import check_evidence
from privacy.tee.enclave import Enclave
from privacy.tee.engine import Engine
from privacy.tee.measure import measure_loaded
from privacy.tee.policy import Relaxations, parse_policy
from privacy.tee.simulated_collateral import SimulatedCollateral
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import simulated_trust_store

MODEL = linear_model()
MEASURED = measure_loaded(MODEL)
NONCE, NOW = bytes(range(32)), datetime(2026, 11, 21, tzinfo=UTC)
DEBUG = b"\1" + bytes(7)
POLICY = f"""
allow_any_report_data = true
require_events = ["keys", "model"]
[measurements.tdx-v4]
rtmr2 = "{MEASURED.rtmr2.hex()}"
"""


def evidence_of(attester=None):
    enclave = Enclave(
        Engine(MODEL),
        attester or SimulatedTdxAttester(),
        MEASURED,
        model_sha256=MODEL_SHA256,
    )
    return enclave.evidence(NONCE)


def verdict_on(evidence, policy=POLICY):
    return attest(
        evidence,
        trust_store=simulated_trust_store(),
        collateral=SimulatedCollateral(NOW).collateral(evidence),
        now=NOW,
        checks=Checklist(),
        policy=parse_policy(policy.encode()) if policy else Relaxations(),
    )


def refused(evidence, policy=POLICY):
    with pytest.raises(AppraisalError) as caught:
        verdict_on(evidence, policy)
    return caught.value.code


@pytest.fixture(scope="module")
def evidence():
    return evidence_of()


@pytest.mark.parametrize("policy", [POLICY, None])
def test_honest_evidence_is_accepted_with_all_that_it_shows(evidence, policy):
    names = {check.name for check in verdict_on(evidence, policy).checks}
    assert "enclave-binding" in names
    assert ("events" in names) == bool(policy)


@pytest.mark.parametrize("policy", [POLICY, None])
@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b64url(bytes(32))},
        {"model_sha256": "00" * 32},
        {"signing_public_key": b64url(bytes(32))},
        {"chain_public_key": b64url(bytes(64))},
        {"event_log": []},
    ],
)
def test_what_the_quote_does_not_vouch_for_is_refused(evidence, change, policy):
    changed = canonical_json({**json.loads(evidence), **change})
    assert refused(changed, policy) in {"report-data-mismatch", "event-missing"}


def test_an_event_that_did_not_happen_is_missed(evidence):
    policy = POLICY.replace('"model"', '"circuit"')
    assert refused(evidence, policy) == "event-missing"


def test_a_bare_quote_shows_no_events():
    quote = SimulatedTdxAttester().quote(bytes(64), MEASURED)
    assert refused(quote) == "event-missing"


def test_a_policy_cannot_require_an_event_that_nobody_knows():
    with pytest.raises(FormatError, match="expected one of") as caught:
        parse_policy(POLICY.replace('"model"', '"lunch"').encode())
    assert caught.value.code == "bad-policy"


def test_a_policy_that_names_a_debug_enclave_does_not_accept_it():
    """Its values fit; that its host can look in must be allowed by its own name."""
    debug = evidence_of(LyingTdxAttester(report={"td_attributes": DEBUG}))
    policy = POLICY + f'td_attributes = "{DEBUG.hex()}"\n'
    assert refused(debug, policy) == "debug-enclave"
    verdict = verdict_on(debug, "allow_debug = true\n" + policy)
    assert verdict.claims[0].debug is True


def test_no_platform_policy_lets_a_client_seal_to_a_debug_enclave():
    debug = evidence_of(LyingTdxAttester(report={"td_attributes": DEBUG}))
    platform = parse_policy((POLICY + f'td_attributes = "{DEBUG.hex()}"\n').encode())
    for one in (None, platform, replace(platform, require_events=())):
        with pytest.raises(AppraisalError) as caught:
            check_evidence(
                debug,
                nonce=NONCE,
                reference=MEASURED.as_dict(),
                model_sha256=MODEL_SHA256,
                now=NOW,
                platform=one,
                allow_simulated=True,
            )
        assert caught.value.code == "debug-enclave"
