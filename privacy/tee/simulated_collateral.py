"""Collateral of the simulated vendors, Intel's with defects on request.

    {"tcbInfo": …} and {"enclaveIdentity": …}, signed by a TCB signing certificate;
    a CRL of the root and one of the PCK CA; of AMD's root; of NVIDIA an OCSP response
    on the device's CA, reference measurements, and a CRL of their root.

Like all that is simulated it proves nothing: the root's key is public.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from privacy.encoding import Json, canonical_json
from privacy.tee.chain import load_certificate
from privacy.tee.collateral import Collateral, SignedJson
from privacy.tee.detect import Item, detect
from privacy.tee.nvidia import parse_nvidia_report
from privacy.tee.simulated_pki import FMSPC, Issued, issue, known_ca, make_root
from privacy.tee.simulated_x509 import Signer
from privacy.tee.simulator import sign_raw
from privacy.tee.trust import SIMULATED_QE_MRSIGNER, TD_QE_PRODUCT_ID

_SIGNER = "SIMULATED SGX TCB Signing"
_VALID = timedelta(days=30)
_LEVEL = {"tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}
_SGX_SVNS, _TDX_SVNS, _PCE_SVN = [2, 2, 2, 2, 3, 1, 0, 5], [5, 0, 6], 11


@dataclass(frozen=True, slots=True)
class Defects:
    """What to get wrong; properly signed all the same.

    Attributes:
        tcb_info: Members of the TCB info to replace.
        qe_identity: Members of the QE identity to replace.
        revoked: Serial numbers that both CRLs list.
        signer: Who signs the statements instead.
        crl_signer: Key that signs both CRLs instead.
        age: How long ago everything was issued; valid for 30 days.
    """

    tcb_info: Json = field(default_factory=dict)
    qe_identity: Json = field(default_factory=dict)
    revoked: Collection[int] = ()
    signer: Issued | None = None
    crl_signer: ec.EllipticCurvePrivateKey | None = None
    age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class SimulatedCollateral:
    """The simulated vendors' services: whatever platform, it is up to date.

    Attributes:
        now: When they are asked.
    """

    now: datetime

    def collateral(self, evidence: bytes) -> Collateral:
        """Return what the simulated vendors say of what a file is evidence of.

        Raises:
            FormatError: It is no evidence.
        """
        found = Collateral()
        for item in detect(evidence):
            if item.kind == "dcap":
                found += simulated_collateral(known_ca(), now=self.now)
            elif item.kind == "snp":
                found += Collateral(crls=_amd_crls(self.now))
            elif item.kind == "nvidia":
                found += _of_device(item, self.now)
        return found


def _amd_crls(now: datetime) -> tuple[bytes, ...]:
    from privacy.tee.simulated_amd import SimulatedAmd

    return SimulatedAmd(shipped=True).collateral(now).crls


def _of_device(item: Item, now: datetime) -> Collateral:
    """Return what there is on a device under the shipped roots, and nothing else."""
    from privacy.tee.simulated_nvidia import SimulatedNvidia, ocsp_response

    chip = parse_nvidia_report(item.raw).chip or "GH100"
    vendor = SimulatedNvidia(chip=chip, shipped=True)
    made = vendor.collateral(now)
    chain = [load_certificate(der, "certificate") for der in item.certificates]
    responses = [
        ocsp_response(Signer(ca, vendor.root.key), vendor.root, now)
        for ca in chain[1:-1]
    ]
    return Collateral(crls=made.crls, rims=made.rims, ocsp=tuple(responses))


def make_signer(root: Issued) -> Issued:
    """Return a fresh TCB signing certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    return issue(_SIGNER, key, root, ca_depth=None)


def simulated_collateral(
    ca: Issued, *, now: datetime, defects: Defects = Defects()
) -> Collateral:
    """Return collateral by which simulated platforms under this PCK CA are up to date.

    Args:
        ca: That issued the PCK certificate of the quote.
        now: When it is issued.
        defects: What to get wrong.
    """
    root = make_root()
    signer = defects.signer or make_signer(root)
    issued = now - defects.age
    dates = {"issueDate": _date(issued), "nextUpdate": _date(issued + _VALID)}
    info = tcb_info() | dates | defects.tcb_info
    identity = qe_identity() | dates | defects.qe_identity
    return Collateral(
        certificates=(signer.der,),
        crls=tuple(_crl(issuer, issued, defects) for issuer in (root, ca)),
        tcb_infos=(_sign(info, signer),),
        qe_identities=(_sign(identity, signer),),
    )


def tcb_info() -> Json:
    """Return the TCB info of the simulated platform, without dates."""
    module = {
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
    }
    level = {"tcb": {"isvsvn": 4}, **_LEVEL}
    tcb = {
        "sgxtcbcomponents": _components(_SGX_SVNS),
        "tdxtcbcomponents": _components(_TDX_SVNS),
        "pcesvn": _PCE_SVN,
    }
    return {
        "id": "TDX",
        "version": 3,
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [level]}],
        "tcbLevels": [{"tcb": tcb, **_LEVEL}],
    }


def qe_identity() -> Json:
    """Return the identity of the simulated quoting enclave, without dates."""
    return {
        "id": "TD_QE",
        "version": 2,
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00" * 4,
        "miscselectMask": "FF" * 4,
        "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": SIMULATED_QE_MRSIGNER.hex().upper(),
        "isvprodid": TD_QE_PRODUCT_ID,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, **_LEVEL}],
    }


def _components(svns: list[int]) -> list[Json]:
    return [{"svn": svn} for svn in svns + [0] * (16 - len(svns))]


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _sign(value: Json, signer: Issued) -> SignedJson:
    body = canonical_json(value)
    return SignedJson(body, sign_raw(signer.key, body))


def _crl(issuer: Issued, issued: datetime, defects: Defects) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(issued.replace(microsecond=0))
        .next_update(issued.replace(microsecond=0) + _VALID)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in defects.revoked:
        entry = x509.RevokedCertificateBuilder(serial, issued)
        builder = builder.add_revoked_certificate(entry.build())
    key = defects.crl_signer or issuer.key
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)
