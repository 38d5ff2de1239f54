"""Evidence that is properly signed and says something wrong: each refused by name.

Every case changes one thing of evidence that is accepted as it is. Whoever could sign
has signed again, so that nothing but the one check can refuse it.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from dcap_quotes import make_quote, sign
from lying_attester import LyingTdxAttester, with_foreign_attestation_key

from privacy.errors import PrivacyError
from privacy.tee.attest import attest
from privacy.tee.chain import load_certificate
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral, SignedJson
from privacy.tee.composite import Composite, Device, bound_report_data
from privacy.tee.parse import SgxReport, parse_quote
from privacy.tee.policy import Relaxations, parse_policy
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_collateral import (
    Defects,
    make_signer,
    qe_identity,
    simulated_collateral,
    tcb_info,
)
from privacy.tee.simulated_nvidia import (
    DRIVER,
    VBIOS,
    RimDefects,
    SimulatedNvidia,
    ocsp_response,
)
from privacy.tee.simulated_pki import issue as issue_intel
from privacy.tee.simulated_pki import known_ca, make_ca, make_leaf, make_root
from privacy.tee.simulated_vendors import SimulatedAws
from privacy.tee.simulated_x509 import issue, issue_crl
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

DATA, NONCE, OTHER = bytes(range(64)), bytes(range(32)), b"\x66" * 48
PAST = timedelta(days=700), timedelta(days=1)
AT_LEAST = 60


@dataclass
class Case:
    evidence: bytes
    collateral: Collateral
    store: Any
    policy: Any = field(default_factory=Relaxations)


@dataclass
class World:
    """Honest platforms of every vendor, and what they are verified with."""

    now: Any
    registers: Any
    rsa: Any

    @property
    def past(self):
        return self.now - PAST[0], self.now - PAST[1]

    def intel(self, attester=None, evidence=None, form="tdx-v4", **defects):
        attester = attester or LyingTdxAttester()
        quote = evidence or make_quote(attester, form, DATA, self.registers)
        given = simulated_collateral(
            attester.ca, now=self.now, defects=Defects(**defects)
        )
        return Case(quote, given, simulated_trust_store())

    def lying(self, form="tdx-v4", **lies):
        attester = LyingTdxAttester(**lies)
        evidence = attester.quote(DATA, self.registers)
        return self.intel(attester, evidence, form)

    def amd(self, *, leaf=None, fields=None, revoked=(), when=None, **kind):
        amd = SimulatedAmd(key=self.rsa, **kind)
        if leaf:
            amd.leaf = leaf(amd)
        serials = [getattr(amd, name).certificate.serial_number for name in revoked]
        given = amd.collateral(when or self.now, revoked=serials)
        return Case(amd.report(DATA, fields=fields), given, amd.trust_store)

    def aws(self, *, change=None, when=None, **members):
        aws = SimulatedAws(now=when or self.now)
        if change:
            members |= change(aws)
        document = aws.document(members=members)
        return Case(document, Collateral(), aws.trust_store)

    def gpu(self, *, shown=None, opaque=None, revoked=(), when=None, **kind):
        gpu = SimulatedNvidia(**kind)
        serials = [getattr(gpu, name).certificate.serial_number for name in revoked]
        report = gpu.report(NONCE, shown, opaque=opaque)
        given = gpu.collateral(when or self.now, revoked=serials)
        return Case(report, given, gpu.trust_store)

    def gpu_with(self, change, *, chip="GH100"):
        """A GPU whose collateral was changed: `change` gets the GPU and what is."""
        gpu = SimulatedNvidia(chip=chip)
        given = replace(gpu.collateral(self.now), **change(gpu, self.now))
        return Case(gpu.report(NONCE), given, gpu.trust_store)

    def composite(self, *, vouched=None, nonces=(NONCE, NONCE), change=None):
        cpu = LyingTdxAttester()
        gpus = [SimulatedNvidia(shipped=True) for _ in nonces]
        devices = tuple(
            Device(g.report(n), g.chain) for g, n in zip(gpus, nonces, strict=True)
        )
        reports = [d.report for d in devices] if vouched is None else vouched
        quote = cpu.quote(bound_report_data(DATA, reports), self.registers)
        made = Composite(quote, devices, DATA)
        given = simulated_collateral(cpu.ca, now=self.now)
        for gpu in gpus:
            given += replace(gpu.collateral(self.now), certificates=())
        evidence = (change(made) if change else made).to_bytes()
        return Case(evidence, given, simulated_trust_store())


def levels(status, *, svn=2, **more):
    (level,) = tcb_info()["tcbLevels"]
    wanted = [{"svn": svn}] * 4 + [{"svn": 0}] * 12
    tcb = {**level["tcb"], "sgxtcbcomponents": wanted}
    return {"tcbLevels": [{**level, "tcb": tcb, "tcbStatus": status, **more}]}


def qe_levels(isvsvn, status="UpToDate"):
    (level,) = qe_identity()["tcbLevels"]
    return {"tcbLevels": [{**level, "tcb": {"isvsvn": isvsvn}, "tcbStatus": status}]}


def module(**more):
    (known,) = tcb_info()["tdxModuleIdentities"]
    return {"tdxModuleIdentities": [{**known, **more}]}


def chain_of(leaf, ca=None):
    ca = ca or known_ca()
    return {"chain": (leaf.der, ca.der, make_root().der), "pck_key": leaf.key}


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def foreign_chain():
    root = issue_intel("SIMULATED SGX Root CA", p256(), None, ca_depth=1)
    ca = make_ca(root)
    leaf = make_leaf(ca)
    return {"chain": (leaf.der, ca.der, root.der), "pck_key": leaf.key}


def serial(der):
    return load_certificate(der, "certificate").serial_number


def revoked_intel(world, which):
    attester = LyingTdxAttester()
    return world.intel(attester, revoked=[serial(attester.certificates[which])])


def revoked_signer(world):
    signer = make_signer(make_root())
    serials = [signer.certificate.serial_number]
    return world.intel(revoked=serials, signer=signer)


def resigned(world, form, **changes):
    """A quote of that form with bytes of its report changed, signed again."""
    attester = LyingTdxAttester()
    quote = parse_quote(make_quote(attester, form, DATA, world.registers))
    raw = bytearray(quote.report.raw)
    for offset, value in changes.items():
        at = int(offset[1:])
        raw[at : at + len(value)] = value
    evidence = sign(attester, replace(quote, report=SgxReport(bytes(raw))))
    return world.intel(attester, evidence)


def forged_statement(world):
    case = world.intel()
    (info,) = case.collateral.tcb_infos
    body = info.body.replace(b'"UpToDate"', b'"UpToDat3"')
    changed = (SignedJson(body, info.signature),)
    return replace(case, collateral=replace(case.collateral, tcb_infos=changed))


def without(case, **nothing):
    return replace(case, collateral=replace(case.collateral, **nothing))


def hardware_only(case):
    return replace(case, store=hardware_trust_store())


def with_policy(case, text, registers):
    return replace(case, policy=parse_policy((text + registers).encode()))


TDX = '[measurements."tdx-v4"]\nmrtd = "{}"\n'.format("01" * 48)
SNP = '[measurements."snp-v3"]\nmeasurement = "{}"\n'.format("07" * 48)
NITRO = '[measurements.nitro]\npcr0 = "{}"\n'.format("01" * 48)
GPU = '[measurements."nvidia-spdm-1.1"]\nm1 = "{}"\n'.format("01" * 48)
SGX_PRODUCT = '[measurements."sgx-v3"]\nproduct_id = "0001"\n'
ANY = "allow_any_report_data = true\n"
DEBUG_SNP = {0x08: (0x30000 | 1 << 19).to_bytes(8, "little")}


CASES = {
    # Intel: who signed
    "intel: another root": (
        "untrusted-root",
        lambda w: w.lying(**foreign_chain()),
    ),
    "intel: simulated, for hardware": (
        "simulated-evidence",
        lambda w: hardware_only(w.intel()),
    ),
    "intel: PCK CA of another root": (
        "certificate-signature",
        lambda w: w.lying(
            **chain_of(
                make_leaf(ca := make_ca(issue_intel("x", p256(), None, ca_depth=1))), ca
            )
        ),
    ),
    "intel: PCK expired": (
        "certificate-expired",
        lambda w: w.lying(**chain_of(make_leaf(known_ca(), valid=w.past))),
    ),
    "intel: PCK without Intel's extension": (
        "certificate-role",
        lambda w: w.lying(
            **chain_of(issue_intel("PCK", p256(), known_ca(), ca_depth=None))
        ),
    ),
    "intel: a CA as PCK": (
        "certificate-role",
        lambda w: w.lying(
            **chain_of(issue_intel("PCK", p256(), known_ca(), ca_depth=0))
        ),
    ),
    "intel: another platform's PCK": (
        "qe-signature",
        lambda w: w.lying(pck_key=p256()),
    ),
    "intel: another attestation key": (
        "qe-binding",
        lambda w: w.intel(
            evidence=with_foreign_attestation_key(
                LyingTdxAttester().quote(DATA, w.registers)
            )
        ),
    ),
    "intel: quoting enclave of another signer": (
        "qe-identity",
        lambda w: w.lying(qe={128: b"\1" * 32}),
    ),
    "intel: quoting enclave in debug mode": (
        "qe-identity",
        lambda w: w.lying(qe={48: b"\x13"}),
    ),
    "intel: another product than the quoting enclave": (
        "qe-identity",
        lambda w: w.lying(qe={256: b"\1\0"}),
    ),
    "intel: PCK revoked": ("certificate-revoked", lambda w: revoked_intel(w, 0)),
    "intel: PCK CA revoked": ("certificate-revoked", lambda w: revoked_intel(w, 1)),
    "intel: TCB signer revoked": ("certificate-revoked", revoked_signer),
    # Intel: what it shows
    "tdx: debug": (
        "debug-enclave",
        lambda w: w.lying(report={"td_attributes": b"\1" + bytes(7)}),
    ),
    "tdx: profiled by its host": (
        "debug-enclave",
        lambda w: w.lying(report={"td_attributes": b"\x10" + bytes(7)}),
    ),
    "tdx: may be migrated by whom its host chose": (
        "debug-enclave",
        lambda w: w.lying(report={"td_attributes": bytes([0, 0, 0, 0x30, *bytes(4)])}),
    ),
    "tdx: module of another signer": (
        "tdx-module-unknown",
        lambda w: w.lying(report={"mrsignerseam": b"\1" * 48}),
    ),
    "tdx: module with attributes": (
        "tdx-module-unknown",
        lambda w: w.lying(report={"seam_attributes": b"\1" * 8}),
    ),
    "tdx: module that nobody knows": (
        "tdx-module-unknown",
        lambda w: w.lying(report={"tee_tcb_svn": bytes([6, 9, 6] + [0] * 13)}),
    ),
    "tdx: module too old": (
        "tcb-level-missing",
        lambda w: w.lying(report={"tee_tcb_svn": bytes([3, 1, 6] + [0] * 13)}),
    ),
    "tdx: firmware too old": (
        "tcb-level-missing",
        lambda w: w.lying(report={"tee_tcb_svn": bytes([6, 1, 5] + [0] * 13)}),
    ),
    "sgx: debug": ("debug-enclave", lambda w: resigned(w, "sgx-v3", _48=b"\x07")),
    "sgx v5: debug": ("debug-enclave", lambda w: resigned(w, "sgx-v5", _48=b"\x07")),
    "sgx: another product of the signer": (
        "measurement-mismatch",
        lambda w: with_policy(resigned(w, "sgx-v3", _256=b"\2\0"), ANY, SGX_PRODUCT),
    ),
    # Intel: what Intel says of it
    "intel: out of date": (
        "tcb-status",
        lambda w: w.intel(tcb_info=levels("OutOfDate")),
    ),
    "intel: out of date, TD 1.5": (
        "tcb-status",
        lambda w: w.intel(form="tdx-v5-1.5", tcb_info=levels("OutOfDate")),
    ),
    "intel: to be configured": (
        "tcb-status",
        lambda w: w.intel(tcb_info=levels("ConfigurationNeeded")),
    ),
    "intel: TCB revoked": ("tcb-status", lambda w: w.intel(tcb_info=levels("Revoked"))),
    "intel: quoting enclave out of date": (
        "tcb-status",
        lambda w: w.intel(qe_identity=qe_levels(4, "OutOfDate")),
    ),
    "intel: quoting enclave too old": (
        "tcb-level-missing",
        lambda w: w.intel(qe_identity=qe_levels(9)),
    ),
    "intel: status that does not exist": (
        "tcb-status-unknown",
        lambda w: w.intel(tcb_info=levels("Excellent")),
    ),
    "intel: level above the platform": (
        "tcb-level-missing",
        lambda w: w.intel(tcb_info=levels("UpToDate", svn=9)),
    ),
    "intel: module of other attributes listed": (
        "tdx-module-unknown",
        lambda w: w.intel(tcb_info=module(attributes="01" * 8)),
    ),
    "intel: statements of a month ago": (
        "collateral-expired",
        lambda w: w.intel(age=timedelta(days=31)),
    ),
    "intel: statements of tomorrow": (
        "collateral-expired",
        lambda w: w.intel(age=timedelta(days=-1)),
    ),
    "intel: statements about another platform": (
        "collateral-missing",
        lambda w: w.intel(tcb_info={"fmspc": "00606A000000"}),
    ),
    "intel: statements changed": ("collateral-signature", forged_statement),
    "intel: statements of a stranger": (
        "certificate-signature",
        lambda w: w.intel(
            signer=make_signer(issue_intel("r", p256(), None, ca_depth=1))
        ),
    ),
    "intel: statements signed by a CA": (
        "certificate-role",
        lambda w: w.intel(
            signer=issue_intel("x SGX TCB Signing", p256(), make_root(), ca_depth=0)
        ),
    ),
    "intel: CRLs of a stranger": (
        "collateral-missing",
        lambda w: w.intel(crl_signer=p256()),
    ),
    "intel: no CRL": ("collateral-missing", lambda w: without(w.intel(), crls=())),
    # AMD
    "amd: debug": ("debug-enclave", lambda w: w.amd(fields=DEBUG_SNP)),
    "amd v5 Turin: debug": (
        "debug-enclave",
        lambda w: w.amd(fields=DEBUG_SNP, product="Turin", version=5),
    ),
    "amd VLEK: debug": ("debug-enclave", lambda w: w.amd(fields=DEBUG_SNP, vlek=True)),
    "amd: TCB older than its key": (
        "tcb-mismatch",
        lambda w: w.amd(fields={0x180: bytes([9, *bytes(5), 23, 84])}),
    ),
    "amd v5 Turin: TCB in Milan's order": (
        "tcb-mismatch",
        lambda w: w.amd(
            fields={0x180: bytes([10, *bytes(5), 23, 84])}, product="Turin", version=5
        ),
    ),
    "amd VLEK: TCB newer than its key": (
        "tcb-mismatch",
        lambda w: w.amd(fields={0x187: b"\xff"}, vlek=True),
    ),
    "amd: key without its TCB": (
        "tcb-mismatch",
        lambda w: w.amd(leaf=lambda amd: amd.make_leaf(**{"3_8": b""})),
    ),
    "amd Turin: key without FMC version": (
        "tcb-mismatch",
        lambda w: w.amd(
            leaf=lambda amd: amd.make_leaf(**{"3_9": b""}), product="Turin", version=5
        ),
    ),
    "amd: another chip": ("chip-mismatch", lambda w: w.amd(fields={0x1A0: b"\1" * 64})),
    "amd: masked chip": ("chip-mismatch", lambda w: w.amd(fields={0x1A0: bytes(64)})),
    "amd Turin: bytes behind the chip's id": (
        "chip-mismatch",
        lambda w: w.amd(fields={0x1A8: b"\1"}, product="Turin", version=5),
    ),
    "amd: key expired": (
        "certificate-expired",
        lambda w: w.amd(leaf=lambda amd: amd.make_leaf(valid=w.past)),
    ),
    "amd: key issued by the root": (
        "certificate-missing",
        lambda w: w.amd(leaf=lambda amd: issue("SEV-VCEK", amd.ark, bare=True)),
    ),
    "amd: VLEK presented as VCEK": (
        "certificate-missing",
        lambda w: w.amd(fields={0x48: b"\0"}, vlek=True),
    ),
    "amd: VCEK presented as VLEK": (
        "certificate-missing",
        lambda w: w.amd(fields={0x48: b"\4"}),
    ),
    "amd: VCEK signing key revoked": (
        "certificate-revoked",
        lambda w: w.amd(revoked=["ask"]),
    ),
    "amd: VLEK signing key revoked": (
        "certificate-revoked",
        lambda w: w.amd(revoked=["asvk"], vlek=True),
    ),
    "amd: CRL of a month ago": (
        "collateral-missing",
        lambda w: w.amd(when=w.now - timedelta(days=31)),
    ),
    "amd: no CRL": ("collateral-missing", lambda w: without(w.amd(), crls=())),
    "amd: no key": (
        "certificate-missing",
        lambda w: without(w.amd(), certificates=()),
    ),
    # AWS
    "aws: debug": (
        "debug-enclave",
        lambda w: w.aws(pcrs={i: bytes(48) for i in range(5)}),
    ),
    "aws: leaf expired": (
        "certificate-expired",
        lambda w: w.aws(when=w.now - timedelta(hours=4)),
    ),
    "aws: made before its leaf": ("made-at", lambda w: w.aws(timestamp=10**12)),
    "aws: made in the future": (
        "made-at",
        lambda w: w.aws(timestamp=int((w.now.timestamp() + 3600) * 1000)),
    ),
    "aws: another enclave's leaf": (
        "document-signature",
        lambda w: w.aws(change=lambda aws: {"certificate": issue("other", aws.ca).der}),
    ),
    "aws: another root": (
        "untrusted-root",
        lambda w: replace(w.aws(), store=SimulatedAws(now=w.now).trust_store),
    ),
    "aws: simulated, for hardware": (
        "simulated-evidence",
        lambda w: hardware_only(
            Case(SimulatedAws(now=w.now, shipped=True).document(), Collateral(), None)
        ),
    ),
    "aws: a CA left out": (
        "certificate-signature",
        lambda w: w.aws(change=lambda aws: {"cabundle": [aws.root.der]}),
    ),
    "aws: a CA as leaf": (
        "certificate-role",
        lambda w: w.aws(
            change=lambda aws: {"certificate": issue("ca", aws.ca, ca=True).der}
        ),
    ),
    # NVIDIA
    "nvidia: firmware of another device": (
        "firmware-mismatch",
        lambda w: w.gpu(opaque={20: OTHER}),
    ),
    "nvidia: another root": (
        "untrusted-root",
        lambda w: replace(w.gpu(), store=SimulatedNvidia().trust_store),
    ),
    "nvidia: simulated, for hardware": (
        "simulated-evidence",
        lambda w: hardware_only(w.gpu(shipped=True)),
    ),
    "nvidia: another device's report": (
        "report-signature",
        lambda w: replace(w.gpu(), evidence=SimulatedNvidia().report(NONCE)),
    ),
    "nvidia: identity CA revoked": (
        "certificate-revoked",
        lambda w: w.gpu(revoked=["ca"]),
    ),
    "nvidia: signer of RIMs revoked": (
        "certificate-revoked",
        lambda w: w.gpu(revoked=["rim_signer"]),
    ),
    "nvidia switch: identity CA revoked": (
        "certificate-revoked",
        lambda w: w.gpu(revoked=["ca"], chip="LS10"),
    ),
    "nvidia: response of the day before yesterday": (
        "collateral-missing",
        lambda w: w.gpu(when=w.now - timedelta(days=2)),
    ),
    "nvidia: response of a stranger": (
        "collateral-missing",
        lambda w: w.gpu_with(
            lambda g, now: {
                "ocsp": (ocsp_response(g.ca, g.root, now, signer=issue("x", g.ca)),)
            }
        ),
    ),
    "nvidia: other firmware than NVIDIA's": (
        "reference-mismatch",
        lambda w: w.gpu(shown=[OTHER] * 4),
    ),
    "nvidia Blackwell: other firmware than NVIDIA's": (
        "reference-mismatch",
        lambda w: w.gpu(shown=[OTHER] * 4, chip="GB100"),
    ),
    "nvidia switch: other firmware than NVIDIA's": (
        "reference-mismatch",
        lambda w: w.gpu(shown=[OTHER] * 4, chip="LS10"),
    ),
    "nvidia: RIM of a stranger": (
        "certificate-signature",
        lambda w: w.gpu_with(
            lambda g, _: {
                "rims": tuple(
                    g.rim(version, {0: [OTHER]}, RimDefects(signer=issue("x", g.ca)))
                    for version in (DRIVER, VBIOS)
                )
            }
        ),
    ),
    "nvidia: RIM of an expired signer": (
        "certificate-expired",
        lambda w: w.gpu_with(
            lambda g, _: {
                "rims": (
                    g.rim(
                        DRIVER,
                        {0: [OTHER]},
                        RimDefects(signer=issue("x", g.rim_root, valid=w.past)),
                    ),
                )
            }
        ),
    ),
    "nvidia: RIMs that contradict one another": (
        "rim-conflict",
        lambda w: w.gpu_with(
            lambda g, _: {
                "rims": (g.rim(DRIVER, {0: [OTHER]}), g.rim(VBIOS, {0: [OTHER]}))
            }
        ),
    ),
    "nvidia Blackwell: RIM of Hopper": (
        "collateral-missing",
        lambda w: w.gpu_with(
            lambda g, _: {
                "rims": (g.rim(DRIVER, {0: [OTHER]}, RimDefects(product="GH100")),)
            },
            chip="GB100",
        ),
    ),
    "nvidia: CRL of RIMs by a stranger": (
        "collateral-missing",
        lambda w: w.gpu_with(
            lambda g, now: {"crls": (issue_crl(g.rim_root, now, key=g.ca.key),)}
        ),
    ),
    # Composites
    "composite: vouches for no device": (
        "device-binding",
        lambda w: w.composite(vouched=[]),
    ),
    "composite: a device left out": (
        "device-binding",
        lambda w: w.composite(change=lambda c: replace(c, devices=c.devices[:1])),
    ),
    "composite: something else bound": (
        "device-binding",
        lambda w: w.composite(change=lambda c: replace(c, bound=bytes(64))),
    ),
    "composite: a device that answered another nonce": (
        "device-nonce",
        lambda w: w.composite(nonces=(NONCE, bytes(32))),
    ),
    # What the relying party asks for
    "policy: another image": (
        "measurement-mismatch",
        lambda w: with_policy(w.intel(), ANY, TDX.replace("01" * 48, "02" * 48)),
    ),
    "policy: another format": (
        "format-refused",
        lambda w: with_policy(w.intel(), ANY, SNP),
    ),
    "policy: other report data": (
        "report-data-mismatch",
        lambda w: with_policy(w.intel(), f'report_data = "{"00" * 64}"\n', TDX),
    ),
    "policy: another nonce, Nitro": (
        "nonce-mismatch",
        lambda w: with_policy(w.aws(nonce=NONCE), ANY + 'nonce = "00"\n', NITRO),
    ),
    "policy: another nonce, GPU": (
        "nonce-mismatch",
        lambda w: with_policy(w.gpu(), ANY + 'nonce = "00"\n', GPU),
    ),
    "policy: a security version too low": (
        "svn-too-low",
        lambda w: with_policy(
            w.amd(), ANY, SNP + '[minimum_svns."snp-v3"]\nsnp = 24\n'
        ),
    ),
    "policy: another processor family": (
        "product-refused",
        lambda w: with_policy(w.amd(), ANY + 'products = ["SimulatedMilan"]\n', SNP),
    ),
    "policy: another chip": (
        "hardware-id-refused",
        lambda w: with_policy(w.amd(), ANY + 'hardware_ids = ["00"]\n', SNP),
    ),
    "policy: too old": (
        "evidence-too-old",
        lambda w: with_policy(
            w.aws(when=w.now - timedelta(hours=2)), ANY + "max_age_s = 60\n", NITRO
        ),
    ),
    "policy: an advisory that is not accepted": (
        "advisory-refused",
        lambda w: with_policy(
            w.intel(tcb_info=levels("OutOfDate", advisoryIDs=["INTEL-SA-1"])),
            ANY + 'allow_tcb_statuses = ["OutOfDate"]\n',
            TDX,
        ),
    ),
    "policy: no GPU": (
        "gpu-missing",
        lambda w: with_policy(w.intel(), ANY + "require_gpu = true\n", TDX),
    ),
}


@pytest.fixture
def world(now, measurements, amd_key):
    return World(now, measurements, amd_key)


@pytest.fixture(scope="module")
def amd_key():
    return SimulatedAmd().ark.key


def verdict(case, now):
    return attest(
        case.evidence,
        trust_store=case.store,
        collateral=case.collateral,
        now=now,
        checks=Checklist(),
        policy=case.policy,
    )


@pytest.mark.parametrize("name", CASES)
def test_properly_signed_evidence_is_refused_by_the_reason_expected(world, name):
    code, make = CASES[name]
    with pytest.raises(PrivacyError) as caught:
        verdict(make(world), world.now)
    assert caught.value.code == code
    assert caught.value.exit_code in {6, 7}


def test_all_of_them_are_accepted_without_their_defect(world):
    honest = [
        *(world.intel(form=f) for f in ("tdx-v4", "tdx-v5", "tdx-v5-1.5")),
        *(world.amd(product=p) for p in ("Milan", "Genoa", "Turin")),
        *(world.amd(version=v, vlek=x) for v in (2, 3, 5) for x in (False, True)),
        world.aws(),
        *(world.gpu(chip=c) for c in ("GH100", "GB100", "LS10")),
        world.composite(),
        with_policy(world.intel(), ANY, TDX),
        with_policy(world.amd(), ANY, SNP),
        with_policy(world.aws(), ANY, NITRO),
        with_policy(world.gpu(), ANY, GPU),
    ]
    for case in honest:
        assert verdict(case, world.now).claims


def test_there_are_enough_of_them():
    assert len(CASES) >= AT_LEAST
    assert len({code for code, _ in CASES.values()}) >= 30
