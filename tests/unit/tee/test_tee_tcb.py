"""TCB status and revocation, by collateral that is honest, stale, forged or hostile."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lying_attester import LyingTdxAttester

from privacy.errors import FormatError, PrivacyError
from privacy.tee.attest import attest
from privacy.tee.chain import load_certificate
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral, SignedJson, parse_collateral
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_collateral import (
    Defects,
    make_signer,
    simulated_collateral,
    tcb_info,
)
from privacy.tee.simulated_pki import issue, make_ca, make_root
from privacy.tee.trust import simulated_trust_store


@pytest.fixture(scope="module")
def platform(measurements, report_data):
    """An attester and one quote of it."""
    attester = LyingTdxAttester()
    return attester, attester.quote(report_data, measurements)


def check(platform, now, defects=None, collateral=None, **options):
    attester, raw = platform
    given = collateral or simulated_collateral(
        attester.ca, now=now, defects=defects or Defects()
    )
    return attest(
        raw,
        trust_store=simulated_trust_store(),
        collateral=given,
        now=now,
        checks=Checklist(),
        policy=Relaxations(**options),
    )


def refused(platform, now, defects=None, collateral=None, **options):
    with pytest.raises(PrivacyError) as caught:
        check(platform, now, defects, collateral, **options)
    return caught.value.code, caught.value.exit_code


def levels(*statuses, svn=2, tdx=5, pce=11, **more):
    """TCB levels that the simulated platform reaches, or not, with these statuses."""
    (level,) = tcb_info()["tcbLevels"]
    tcb = {
        "sgxtcbcomponents": [{"svn": svn}] * 4 + [{"svn": 0}] * 12,
        "tdxtcbcomponents": [{"svn": 0}] * 2 + [{"svn": tdx}] + [{"svn": 0}] * 13,
        "pcesvn": pce,
    }
    return [{**level, **more, "tcb": tcb, "tcbStatus": status} for status in statuses]


def module(*tcb_levels, **more):
    (known,) = tcb_info()["tdxModuleIdentities"]
    return {"tdxModuleIdentities": [{**known, "tcbLevels": list(tcb_levels), **more}]}


def level(isvsvn, status="UpToDate", **more):
    date = "2024-03-13T00:00:00Z"
    return {"tcb": {"isvsvn": isvsvn}, "tcbDate": date, "tcbStatus": status, **more}


def test_an_up_to_date_platform_needs_no_relaxation(platform, now):
    verdict = check(platform, now)
    (claims,) = verdict.claims
    assert (claims.tcb_status, claims.advisories, claims.unchecked) == (
        "UpToDate",
        (),
        (),
    )


@pytest.mark.parametrize(
    ("defects", "status"),
    [
        ({"tcb_info": {"tcbLevels": levels("OutOfDate")}}, "OutOfDate"),
        (
            {"tcb_info": {"tcbLevels": levels("SWHardeningNeeded")}},
            "SWHardeningNeeded",
        ),
        ({"tcb_info": module(level(9), level(4, "OutOfDate"))}, "OutOfDate"),
        (
            {
                "tcb_info": module(level(4, "OutOfDate"))
                | {"tcbLevels": levels("ConfigurationNeeded")}
            },
            "OutOfDateConfigurationNeeded",
        ),
        ({"qe_identity": {"tcbLevels": [level(4, "OutOfDate")]}}, "OutOfDate"),
        (
            {
                "tcb_info": {"tcbLevels": levels("OutOfDateConfigurationNeeded")},
                "qe_identity": {"tcbLevels": [level(4, "OutOfDate")]},
            },
            "OutOfDateConfigurationNeeded",
        ),
    ],
)
def test_a_worse_status_is_refused_unless_it_is_allowed_by_name(
    platform, now, defects, status
):
    assert refused(platform, now, Defects(**defects)) == ("tcb-status", 6)
    allowed = check(platform, now, Defects(**defects), allow_tcb_statuses=(status,))
    assert allowed.claims[0].tcb_status == status


@pytest.mark.parametrize(
    "defects",
    [
        {"tcb_info": {"tcbLevels": levels("Revoked")}},
        {"tcb_info": module(level(4, "Revoked"))},
        {"qe_identity": {"tcbLevels": [level(4, "Revoked")]}},
    ],
)
def test_a_revoked_platform_cannot_be_allowed(platform, now, defects):
    everything = tuple(
        s
        for s in (
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "ConfigurationAndSWHardeningNeeded",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
        )
    )
    found = refused(platform, now, Defects(**defects), allow_tcb_statuses=everything)
    assert found == ("tcb-status", 6)
    with pytest.raises(FormatError):
        Relaxations(allow_tcb_statuses=("Revoked",))


def test_the_first_level_reached_counts_and_names_advisories(platform, now):
    tcb_levels = [
        *levels("UpToDate", svn=9),
        *levels("OutOfDate", advisoryIDs=["INTEL-SA-2", "INTEL-SA-1"]),
        *levels("UpToDate"),
    ]
    qe = {"tcbLevels": [level(4, "OutOfDate", advisoryIDs=["INTEL-SA-3"])]}
    defects = Defects(tcb_info={"tcbLevels": tcb_levels}, qe_identity=qe)
    verdict = check(platform, now, defects, allow_tcb_statuses=("OutOfDate",))
    expected = ("INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3")
    assert verdict.claims[0].advisories == expected


@pytest.mark.parametrize(
    ("defects", "code"),
    [
        ({"tcb_info": {"tcbLevels": levels("UpToDate", svn=9)}}, "tcb-level-missing"),
        ({"tcb_info": {"tcbLevels": levels("UpToDate", tdx=9)}}, "tcb-level-missing"),
        ({"tcb_info": {"tcbLevels": levels("UpToDate", pce=12)}}, "tcb-level-missing"),
        ({"tcb_info": {"tcbLevels": levels("Fine")}}, "tcb-status-unknown"),
        ({"tcb_info": module(level(7))}, "tcb-level-missing"),
        ({"tcb_info": module(level(4), id="TDX_03")}, "tdx-module-unknown"),
        ({"tcb_info": module(level(4), mrsigner="01" * 48)}, "tdx-module-unknown"),
        ({"tcb_info": module(level(4), attributes="01" * 8)}, "tdx-module-unknown"),
        ({"qe_identity": {"tcbLevels": [level(7)]}}, "tcb-level-missing"),
        ({"qe_identity": {"mrsigner": "00" * 32}}, "qe-identity"),
        ({"qe_identity": {"isvprodid": 1}}, "qe-identity"),
        ({"qe_identity": {"miscselect": "01000000"}}, "qe-identity"),
        ({"qe_identity": {"attributes": "13" + "00" * 15}}, "qe-identity"),
    ],
)
def test_properly_signed_statements_rule_a_platform_out(platform, now, defects, code):
    assert refused(platform, now, Defects(**defects)) == (code, 6)


@pytest.mark.parametrize(
    "defects",
    [
        {"tcb_info": {"version": 2}},
        {"qe_identity": {"version": 1}},
        {"tcb_info": {"tcbLevels": 7}},
        {"tcb_info": {"tcbLevels": [{}]}},
        {"tcb_info": {"tdxModuleIdentities": [7]}},
        {"tcb_info": {"issueDate": None}},
        {"tcb_info": {"issueDate": "2025-01-01"}},
        {"tcb_info": {"nextUpdate": "later"}},
        {"tcb_info": {"tcbEvaluationDataNumber": "many"}},
        {"qe_identity": {"attributesMask": "00"}},
        {"qe_identity": {"tcbLevels": [{"tcb": {"isvsvn": "4"}}]}},
    ],
)
def test_properly_signed_statements_of_another_shape_are_malformed(
    platform, now, defects
):
    assert refused(platform, now, Defects(**defects)) == ("unsupported-collateral", 2)


@pytest.mark.parametrize("days", [31, -1])
def test_stale_collateral_cannot_say(platform, now, days):
    defects = Defects(age=timedelta(days=days))
    assert refused(platform, now, defects) == ("collateral-expired", 7)


@pytest.mark.parametrize(
    "defects",
    [{"tcb_info": {"fmspc": "000000000000"}}, {"qe_identity": {"id": "QE"}}],
)
def test_statements_about_other_platforms_are_ignored(platform, now, defects):
    assert refused(platform, now, Defects(**defects)) == ("collateral-missing", 7)


def test_statements_that_were_changed_are_refused(platform, now):
    honest = simulated_collateral(platform[0].ca, now=now)
    (info,) = honest.tcb_infos
    forged = SignedJson(info.body.replace(b"UpToDate", b"OutOfDat"), info.signature)
    collateral = replace(honest, tcb_infos=(forged,))
    assert refused(platform, now, collateral=collateral) == ("collateral-signature", 6)


def test_statements_of_another_root_are_refused(platform, now):
    key = ec.generate_private_key(ec.SECP256R1())
    foreign = make_signer(issue("root", key, None, ca_depth=1))
    found = refused(platform, now, Defects(signer=foreign))
    assert found == ("certificate-signature", 6)


def test_a_certificate_authority_may_not_sign_statements(platform, now):
    key = ec.generate_private_key(ec.SECP256R1())
    ca = issue("x SGX TCB Signing", key, make_root(), ca_depth=0)
    assert refused(platform, now, Defects(signer=ca)) == ("certificate-role", 6)


def test_statements_without_their_signers_certificate_cannot_say(platform, now):
    honest = simulated_collateral(platform[0].ca, now=now)
    collateral = replace(honest, certificates=())
    assert refused(platform, now, collateral=collateral) == ("collateral-missing", 7)


@pytest.mark.parametrize("which", [0, 1])
def test_a_revoked_certificate_is_refused_whatever_is_allowed(platform, now, which):
    revoked = load_certificate(platform[0].certificates[which], "x").serial_number
    options = {"allow_unchecked_collateral": True}
    found = refused(platform, now, Defects(revoked=[revoked]), **options)
    assert found == ("certificate-revoked", 6)


def test_a_revoked_signer_of_statements_is_refused(platform, now):
    signer = make_signer(make_root())
    serial = signer.certificate.serial_number
    defects = Defects(revoked=[serial], signer=signer)
    assert refused(platform, now, defects) == ("certificate-revoked", 6)


def test_crls_of_another_key_neither_clear_nor_accuse(platform, now):
    serial = load_certificate(platform[0].certificates[0], "x").serial_number
    key = ec.generate_private_key(ec.SECP256R1())
    defects = Defects(revoked=[serial], crl_signer=key)
    assert refused(platform, now, defects) == ("collateral-missing", 7)
    check(platform, now, defects, allow_unchecked_collateral=True)


def test_forged_crls_with_names_that_cannot_be_read_say_nothing(platform, now):
    key, issuer = ec.generate_private_key(ec.SECP256R1()), platform[0].ca.certificate
    x400 = bytes.fromhex("3004a3023000")  # in an alternative name of the issuer
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.18"), x400)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now).next_update(now + timedelta(days=1))
    crl = builder.add_extension(odd, critical=False).sign(key, hashes.SHA256())
    honest = simulated_collateral(platform[0].ca, now=now)
    der = crl.public_bytes(Encoding.DER)
    check(platform, now, collateral=replace(honest, crls=(der, *honest.crls)))


@pytest.mark.parametrize("kept", [0, 1])
def test_one_crl_of_two_is_not_enough(platform, now, kept):
    honest = simulated_collateral(platform[0].ca, now=now)
    collateral = replace(honest, crls=(honest.crls[kept],))
    assert refused(platform, now, collateral=collateral) == ("collateral-missing", 7)


def test_a_crl_of_another_ca_says_nothing(platform, now):
    other = simulated_collateral(make_ca(make_root()), now=now)
    assert refused(platform, now, collateral=other) == ("collateral-missing", 7)


def test_collateral_survives_its_files(platform, now):
    honest = simulated_collateral(platform[0].ca, now=now)
    (info,), (qe,) = honest.tcb_infos, honest.qe_identities
    files = [
        *honest.certificates,
        *honest.crls,
        answer(b"tcbInfo", info),
        answer(b"enclaveIdentity", qe),
    ]
    found = sum((parse_collateral(f, what="x") for f in files), Collateral())
    assert found == honest


def answer(name, signed):
    body, signature = signed.body, signed.signature.hex().encode()
    return b'{"' + name + b'":' + body + b',"signature":"' + signature + b'"}\n'


@pytest.mark.parametrize(
    "raw",
    [b"", b"x", b"{}", b"0\x03\x02\x01\x00", b"-----BEGIN CERTIFICATE-----\n"],
)
def test_parse_collateral_refuses_what_it_does_not_know(raw):
    with pytest.raises(FormatError):
        parse_collateral(raw, what="file")


def test_older_statements_of_another_signer_do_no_harm(platform, now):
    old = simulated_collateral(
        platform[0].ca, now=now, defects=Defects(age=timedelta(days=31))
    )
    new = simulated_collateral(platform[0].ca, now=now)
    for both in (old + new, new + old):
        (claims,) = check(platform, now, collateral=both).claims
        assert claims.tcb_status == "UpToDate"
    then = now - timedelta(days=20)
    assert check(platform, then, collateral=old + new).claims


def test_the_newest_of_several_statements_counts(platform, now):
    worse = {"tcbLevels": levels("OutOfDate"), "tcbEvaluationDataNumber": 99}
    defects = Defects(tcb_info=worse)
    new = simulated_collateral(platform[0].ca, now=now, defects=defects)
    old = simulated_collateral(platform[0].ca, now=now)
    for both in (old + new, new + old):
        assert refused(platform, now, collateral=both) == ("tcb-status", 6)
