"""This verifier and dcap-qvl give the same verdict, but for differences listed here."""

import random
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy.errors import PrivacyError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import parse_collateral
from privacy.tee.parse import REGISTERS, Measurements, parse_quote
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_collateral import Defects, simulated_collateral, tcb_info
from privacy.tee.simulated_pki import make_root
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.tcb import REVOKED, STATUSES
from privacy.tee.trust import (
    SIMULATED_SGX_QE_MRSIGNER,
    hardware_trust_store,
    simulated_trust_store,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dcap_quotes import FORMS, as_members, make_quote, sign

dcap_qvl = pytest.importorskip("dcap_qvl", reason="a test dependency")

WE_ALONE_REFUSE = {
    "not-canonical": "it accepts bytes behind a quote and in its PEM text",
    "unsupported-quote": "it does not check the outer certification type",
    "untrusted-root": "it ignores the root that a quote carries and uses its own",
    "certificate-malformed": "likewise, where that root does not parse",
}


IT_ALONE_REFUSES = {
    "sgx-v4": "SGX TEE quote must have version 3",
    "sgx-v5": "SGX TEE quote must have version 3",
}
SHARED = [form for form in FORMS if form not in IT_ALONE_REFUSES]


@pytest.fixture(scope="module")
def attester():
    return SimulatedTdxAttester()


@pytest.fixture(scope="module")
def quotes(attester):
    registers = Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))
    data = bytes(range(64))
    return {form: make_quote(attester, form, data, registers) for form in FORMS}


def sgx_collateral():
    info = tcb_info()
    return {
        "tcb_info": {"id": "SGX", "tcbLevels": info["tcbLevels"]},
        "qe_identity": {
            "id": "QE",
            "mrsigner": SIMULATED_SGX_QE_MRSIGNER.hex().upper(),
            "isvprodid": 1,
        },
    }


def collateral_for(form, attester, now, **defects):
    base = sgx_collateral() if form.startswith("sgx") else {}
    parts = {
        name: base.get(name, {}) | defects.pop(name, {})
        for name in ("tcb_info", "qe_identity")
    }
    return simulated_collateral(
        attester.ca, now=now, defects=Defects(**parts, **defects)
    )


def ours(raw, collateral, now, store=None):
    """Return the status and advisories, or the code of the refusal."""
    allowed = tuple(s for s in STATUSES if s not in {REVOKED, "UpToDate"})
    try:
        verdict = attest(
            raw,
            trust_store=store or simulated_trust_store(),
            collateral=collateral,
            now=now,
            checks=Checklist(),
            policy=Relaxations(allow_tcb_statuses=allowed),
        )
    except PrivacyError as exc:
        return None, exc.code
    (claims,) = verdict.claims
    return (claims.tcb_status, set(claims.advisories)), "ok"


def theirs(raw, attester, collateral, now):
    members = as_members(attester, collateral)
    given = dcap_qvl.QuoteCollateralV3(**members)
    root = make_root().der
    try:
        report = dcap_qvl.verify_with_root_ca(raw, given, root, int(now.timestamp()))
    except ValueError as exc:
        return None, str(exc)
    if report.status == REVOKED:
        return None, "revoked"
    return (report.status, set(report.advisory_ids)), "ok"


def compare(raw, attester, collateral, now, explained=None):
    mine, code = ours(raw, collateral, now)
    other, reason = theirs(raw, attester, collateral, now)
    if mine != other:
        known = mine is None and code in WE_ALONE_REFUSE
        assert known, f"ours {mine} ({code}), theirs {other} ({reason})"
        if explained is not None:
            explained[code] += 1
    return mine is not None


@pytest.mark.parametrize("form", IT_ALONE_REFUSES)
def test_what_it_alone_refuses(quotes, attester, now, form):
    arguments = collateral_for(form, attester, now), now
    assert ours(quotes[form], *arguments)[1] == "ok"
    assert IT_ALONE_REFUSES[form] in theirs(quotes[form], attester, *arguments)[1]


def test_an_outdated_current_module_is_refused_by_both(quotes, attester, now):
    quote = parse_quote(quotes["tdx-v5-1.5"])
    report = replace(quote.report, tee_tcb_svn2=bytes(16))
    raw = sign(attester, replace(quote, report=report))
    assert not compare(raw, attester, collateral_for("tdx-v5", attester, now), now)


@pytest.mark.parametrize("form", SHARED)
def test_both_accept_genuine_quotes_of_every_form(quotes, attester, now, form):
    raw = quotes[form]
    assert parse_quote(raw).format == form[:6]
    assert compare(raw, attester, collateral_for(form, attester, now), now)


@pytest.mark.parametrize("form", FORMS)
def test_both_refuse_debug(quotes, attester, now, form):
    quote = parse_quote(quotes[form])
    if form.startswith("sgx"):
        raw = quote.report.raw
        report = replace(quote.report, raw=raw[:48] + b"\7" + raw[49:])
    else:
        attributes = b"\1" + quote.report.td_attributes[1:]
        report = replace(quote.report, td_attributes=attributes)
    raw = sign(attester, replace(quote, report=report))
    assert not compare(raw, attester, collateral_for(form, attester, now), now)


def level(status="UpToDate", **svns):
    """The first level of the simulated TCB info with other numbers."""
    (known,) = tcb_info()["tcbLevels"]
    tcb = {
        k: [dict(c) for c in v] if isinstance(v, list) else v
        for k, v in known["tcb"].items()
    }
    for name, svn in svns.items():
        kind, _, index = name.partition("_")
        if kind == "pce":
            tcb["pcesvn"] = svn
        else:
            tcb[f"{kind}tcbcomponents"][int(index)]["svn"] = svn
    advisories = [] if status == "UpToDate" else [f"INTEL-SA-{status}"]
    return {**known, "tcb": tcb, "tcbStatus": status, "advisoryIDs": advisories}


def random_defects(source):
    """Levels from high to low, as Intel lists them; dcap-qvl would sort others."""
    bases = {"sgx_0": 2, "sgx_7": 5, "tdx_0": 5, "tdx_1": 0, "tdx_2": 6, "pce": 11}
    name = source.choice(list(bases))
    higher = level(source.choice(STATUSES), **{name: bases[name] + source.randrange(4)})
    levels = [higher, level(source.choice(STATUSES))][source.randrange(2) :]
    ages = [timedelta(0), timedelta(days=29), timedelta(days=31), timedelta(days=-1)]
    qe_level = {
        "tcb": {"isvsvn": source.randrange(8)},
        "tcbDate": "2024-03-13T00:00:00Z",
        "tcbStatus": source.choice(["UpToDate", "OutOfDate", REVOKED]),
    }
    return {
        "tcb_info": {"tcbLevels": levels},
        "qe_identity": {"tcbLevels": [qe_level]} if source.random() < 0.5 else {},
        "age": source.choices(ages, [8, 1, 1, 1])[0],
    }


def differ(quotes, attester, now, count, explained=None):
    source = random.Random(20261121)
    accepted = 0
    for i in range(count):
        form = SHARED[i % len(SHARED)]
        raw, defects = bytearray(quotes[form]), {}
        if source.random() < 0.5:
            defects = random_defects(source)
        else:
            raw[source.randrange(len(raw))] ^= source.randrange(1, 256)
        collateral = collateral_for(form, attester, now, **defects)
        accepted += compare(bytes(raw), attester, collateral, now, explained)
    return accepted


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_sample_of_changed_quotes_and_collateral_gets_the_same_verdict(
    quotes, attester, now
):
    assert differ(quotes, attester, now, 240) > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_many_changed_quotes_and_collateral_get_the_same_verdict(quotes, attester, now):
    explained = Counter()
    assert differ(quotes, attester, now, 12_000, explained) > 1000
    print("explained:", dict(explained))  # noqa: T201
    assert {"untrusted-root", "not-canonical"} <= set(explained)


REAL = [
    ("tdx_quote", "tdx_quote_collateral.json"),
    ("sgx_quote", "sgx_quote_collateral.json"),
    ("tdx_quote_outdated", "tdx_quote_outdated_collateral.json"),
]
SOON = "2025-06-20T00:00:00Z", "2026-02-20T00:00:00Z", "2026-09-01T00:00:00Z"


def real(vectors, file, beside, at, change):
    """The verdicts of both on a real quote, by the real root, maybe changed."""
    folder = vectors / "dcap-qvl"
    raw, members = change((folder / file).read_bytes()), (folder / beside).read_bytes()
    now, given = datetime.fromisoformat(at), parse_collateral(members, what=beside)
    mine, code = ours(raw, given, now, store=hardware_trust_store())
    theirs_given = dcap_qvl.QuoteCollateralV3.from_json(members.decode())
    try:
        report = dcap_qvl.verify(raw, theirs_given, int(now.timestamp()))
        other = None
        if report.status != REVOKED:
            other = report.status, set(report.advisory_ids)
    except ValueError:
        other = None
    return mine, other, code


@pytest.mark.parametrize("at", SOON)
@pytest.mark.parametrize(("file", "beside"), REAL)
def test_both_say_the_same_of_real_quotes(vectors, file, beside, at):
    mine, other, code = real(vectors, file, beside, at, lambda raw: raw)
    assert mine == other, code
    if (file, at) == ("tdx_quote", SOON[0]):
        assert mine == ("UpToDate", set())


@pytest.mark.parametrize(("file", "beside"), REAL[:2])
def test_both_say_the_same_of_changed_real_quotes(vectors, file, beside):
    source = random.Random(7)

    def change(raw):
        changed = bytearray(raw)
        changed[source.randrange(len(raw.rstrip(b"\0")))] ^= source.randrange(1, 256)
        return bytes(changed)

    for _ in range(60):
        mine, other, code = real(vectors, file, beside, SOON[0], change)
        assert mine is None
        assert other is None or code in WE_ALONE_REFUSE


@pytest.fixture
def now():
    return datetime.now(UTC)
