"""The policy file: strict to read, and every requirement can refuse."""

from dataclasses import replace
from datetime import timedelta

import pytest

from privacy.errors import AppraisalError, FormatError
from privacy.tee.attest import NO_REFERENCE, attest
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.collateral import Collateral
from privacy.tee.policy import Relaxations, parse_policy
from privacy.tee.simulated_collateral import Defects, simulated_collateral
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import simulated_trust_store

DATA = bytes(range(64)).hex()
MRTD = "01" * 48
GOOD = f"""
report_data = "{DATA.upper()}"
[measurements.tdx-v4]
mrtd = "{MRTD}"
rtmr0 = ["{"00" * 48}", "{"02" * 48}"]
[minimum_svns.tdx-v4]
tee_tcb_svn0 = 6
"""


@pytest.fixture(scope="module")
def run(measurements, report_data):
    attester = SimulatedTdxAttester()
    raw = attester.quote(report_data, measurements)

    def run(policy, now, checks=None, **tcb_info):
        defects = Defects(tcb_info=tcb_info)
        return attest(
            raw,
            trust_store=simulated_trust_store(),
            collateral=simulated_collateral(attester.ca, now=now, defects=defects),
            now=now,
            checks=checks or Checklist(),
            policy=parse_policy(policy.encode()),
        )

    return run


def test_evidence_that_shows_what_the_policy_asks_for_is_accepted(run, now):
    verdict = run(GOOD, now)
    assert NO_REFERENCE not in verdict.caveats
    names = {check.name for check in verdict.checks}
    assert {"mrtd", "rtmr0", "svn tee_tcb_svn0", "report-data", "format"} <= names


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (MRTD, "03" * 48, "measurement-mismatch"),
        ("02" * 48, "03" * 48, "measurement-mismatch"),
        ("mrtd =", "pcr0 =", "measurement-mismatch"),
        (DATA.upper(), "00" * 64, "report-data-mismatch"),
        ("= 6", "= 7", "svn-too-low"),
        ("tee_tcb_svn0", "snp", "svn-too-low"),
        ("tdx-v4", "tdx-v5", "format-refused"),
        ("report_data", 'products = ["Milan"]\nreport_data', "product-refused"),
        ("report_data", 'hardware_ids = ["0a"]\nreport_data', "hardware-id-refused"),
        ("report_data", "require_gpu = true\nreport_data", "gpu-missing"),
    ],
)
def test_every_requirement_can_refuse(run, now, old, new, code):
    with pytest.raises(AppraisalError) as caught:
        run(GOOD.replace(old, new), now)
    assert caught.value.code == code


def test_all_failures_are_reported(run, now):
    checks = Checklist()
    bad = GOOD.replace(MRTD, "03" * 48).replace("= 6", "= 7")
    with pytest.raises(AppraisalError):
        run(bad, now, checks)
    codes = [check.code for check in checks.lines if not check.ok]
    assert codes == ["measurement-mismatch", "svn-too-low"]


def test_advisories_are_allowed_by_name(run, now):
    from privacy.tee.simulated_collateral import tcb_info

    levels = [{**tcb_info()["tcbLevels"][0], "advisoryIDs": ["INTEL-SA-1"]}]
    with pytest.raises(AppraisalError) as caught:
        run(GOOD, now, tcbLevels=levels)
    assert caught.value.code == "advisory-refused"
    run('allow_advisories = ["INTEL-SA-1"]\n' + GOOD, now, tcbLevels=levels)


def test_age_and_nonce_are_compared_where_the_format_has_them(now):
    text = """
        allow_any_report_data = true
        nonce = "AB"
        max_age_s = 60
        [measurements.nitro]
        pcr0 = "00"
    """
    policy = parse_policy(text.encode())
    claims = Claims(
        format="nitro",
        vendor="aws",
        simulated=True,
        debug=False,
        measurements={"pcr0": "00"},
        nonce="ab",
        made_at=now - timedelta(seconds=60),
    )

    def failures(**changes):
        lines = policy.check([replace(claims, **changes)], now=now)
        return [line.code for line in lines if not line.ok]

    assert failures() == []
    assert failures(nonce="ac") == ["nonce-mismatch"]
    assert failures(nonce="") == ["nonce-mismatch"]
    assert failures(made_at=now - timedelta(seconds=61)) == ["evidence-too-old"]


def test_a_gpu_stands_beside_the_workload_not_instead_of_it(now):
    policy = parse_policy(f"require_gpu = true\n{GOOD}".encode())
    gpu = Claims(
        format="nvidia-spdm-1.1",
        vendor="nvidia",
        simulated=False,
        debug=None,
        measurements={},
        is_gpu=True,
    )
    failed = [line for line in policy.check([gpu], now=now) if not line.ok]
    assert [(line.name, line.code) for line in failed] == [
        ("workload", "format-refused")
    ]
    switch = replace(gpu, is_gpu=False)
    failed = [line for line in policy.check([switch], now=now) if not line.ok]
    assert [line.code for line in failed] == ["format-refused", "gpu-missing"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("report_data = 'aa'", id="no measurements"),
        pytest.param("report_data = 'aa'\n[measurements]", id="no format"),
        pytest.param("report_data = 'aa'\n[measurements.nitro]", id="no register"),
        pytest.param("[measurements.nitro]\npcr0 = 'aa'", id="no report data"),
        pytest.param(
            "report_data = 'a'\n[measurements.nitro]\npcr0 = 'aa'", id="data not hex"
        ),
        pytest.param(GOOD + "\n[more]", id="unknown table"),
        pytest.param("alow_debug = true\n" + GOOD, id="unknown name"),
        pytest.param("allow_debug = 1\n" + GOOD, id="another type"),
        pytest.param("max_age_s = true\n" + GOOD, id="true as number"),
        pytest.param("products = []\n" + GOOD, id="empty list"),
        pytest.param("products = [1]\n" + GOOD, id="list of numbers"),
        pytest.param("allow_tcb_statuses = ['Revoked']\n" + GOOD, id="revoked"),
        pytest.param("allow_any_report_data = true\n" + GOOD, id="contradiction"),
        pytest.param(GOOD.replace(MRTD, "xx"), id="measurement not hex"),
        pytest.param(GOOD.replace(f'"{MRTD}"', "7"), id="measurement a number"),
        pytest.param(GOOD.replace(f'"{MRTD}"', "[]"), id="no reference value"),
        pytest.param(GOOD.replace("= 6", "= '6'"), id="svn a text"),
        pytest.param(GOOD.replace("svns.tdx-v4", "svns.nitro"), id="svn of others"),
        pytest.param("=", id="not TOML"),
        pytest.param("reference_value_signers = ['a']\n" + GOOD, id="two sources"),
        pytest.param("# " + "x" * (1 << 20), id="too long"),
        pytest.param(GOOD.replace("[measurements.tdx-v4]", ""), id="no table"),
    ],
)
def test_a_policy_with_anything_odd_in_it_is_refused(text):
    with pytest.raises(FormatError):
        parse_policy(text.encode())


def level(status, date):
    from privacy.tee.simulated_collateral import tcb_info

    (known,) = tcb_info()["tcbLevels"]
    return [{**known, "tcbStatus": status, "tcbDate": date.strftime("%FT%TZ")}]


def test_an_outdated_platform_is_accepted_for_some_days_on_purpose(run, now):
    fresh, stale = now - timedelta(days=9), now - timedelta(days=11)
    grace = "allow_out_of_date_days = 10\n" + GOOD
    assert run(grace, now, tcbLevels=level("OutOfDate", fresh)).claims[0].tcb_date
    for policy, status, date in [
        (grace, "OutOfDate", stale),
        (GOOD, "OutOfDate", fresh),
        (grace, "SWHardeningNeeded", fresh),
        (grace, "OutOfDateConfigurationNeeded", fresh),
    ]:
        with pytest.raises(AppraisalError) as caught:
            run(policy, now, tcbLevels=level(status, date))
        assert caught.value.code == "tcb-status"
    for days in (-1, 4000):
        with pytest.raises(FormatError):
            parse_policy(f"allow_out_of_date_days = {days}\n{GOOD}".encode())


def test_a_minimum_of_intels_tcb_evaluations_can_refuse(run, now):
    policy = GOOD + "tcb_evaluation = 17\n"
    run(policy, now, tcbEvaluationDataNumber=17)
    with pytest.raises(AppraisalError) as caught:
        run(policy, now, tcbEvaluationDataNumber=16)
    assert caught.value.code == "svn-too-low"


def test_intels_platforms_are_named_by_family_and_processor(run, now):
    claims = run(GOOD, now).claims[0]
    assert (len(claims.product), len(claims.hardware_id)) == (12, 32)
    text = f'products = ["{claims.product}"]\nhardware_ids = ["{claims.hardware_id}"]\n'
    assert run(text + GOOD, now)


def test_what_the_policy_does_not_compare_is_said(run, now):
    (caveat,) = run(GOOD, now).caveats
    assert caveat == "not compared in tdx-v4: rtmr1, rtmr2, rtmr3, td_attributes, xfam"


def test_attributes_of_the_guest_can_be_compared(run, now):
    text = GOOD.replace("mrtd =", 'td_attributes = "0000001000000000"\nmrtd =')
    assert run(text, now)
    with pytest.raises(AppraisalError) as caught:
        run(text.replace("0000001000000000", "0000000000000000"), now)
    assert caught.value.code == "measurement-mismatch"


def test_evidence_that_does_not_say_when_is_refused_where_its_age_is_asked(run, now):
    with pytest.raises(AppraisalError) as caught:
        run("max_age_s = 60\n" + GOOD, now)
    assert caught.value.code == "evidence-too-old"


def test_a_module_that_is_not_intels_is_refused_without_collateral_too(now):
    from lying_attester import LyingTdxAttester

    from privacy.tee.parse import REGISTERS, Measurements

    registers = Measurements(*(bytes(48) for _ in REGISTERS))
    attester = LyingTdxAttester(report={"mrsignerseam": b"\1" * 48})
    with pytest.raises(AppraisalError) as caught:
        attest(
            attester.quote(bytes(64), registers),
            trust_store=simulated_trust_store(),
            collateral=Collateral(),
            now=now,
            checks=Checklist(),
            policy=Relaxations(allow_unchecked_collateral=True),
        )
    assert caught.value.code == "tdx-module-unknown"
