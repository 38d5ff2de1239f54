"""What a verifier needs beside evidence: certificates, CRLs, signed statements on TCB.

Pure but for `FileCollateral`. Everything here is as untrusted as the evidence: it
counts only once its own signature chains to a pinned root.

A file may be a PEM or DER certificate (or several in PEM), a CRL in DER or PEM, an
OCSP response in DER, an answer of Intel's provisioning service (`{"tcbInfo":…}` or
`{"enclaveIdentity":…}`), a JSON set of such answers with the members of Intel's
`sgx_ql_qve_collateral_t`, reference measurements of NVIDIA's in XML, or as its RIM
service sends them (`{"rim":…}`).
"""

import base64
import binascii
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.ocsp import load_der_ocsp_response

from privacy.encoding import Json, parse_object
from privacy.errors import FormatError
from privacy.tee.detect import pem_blocks, pem_certificates
from privacy.tee.rim import parse_rim

MAX_FILE_BYTES, MAX_FILES = 1 << 22, 4096
_ANSWER = re.compile(
    rb'\{"(tcbInfo|enclaveIdentity)":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}\s*',
    re.DOTALL,
)
_CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_CRLS = ("root_ca_crl", "pck_crl")


@dataclass(frozen=True, slots=True)
class SignedJson:
    """A JSON text whose exact bytes are signed: r and s, 64 bytes."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Collateral:
    """Everything that was given; nothing in it is verified.

    Attributes:
        certificates: DER.
        crls: DER.
        tcb_infos: Which firmware versions of Intel's platforms are good.
        qe_identities: Which quoting enclaves are Intel's.
        ocsp: Responses on certificates, DER.
        rims: NVIDIA's reference measurements, XML.
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    tcb_infos: tuple[SignedJson, ...] = ()
    qe_identities: tuple[SignedJson, ...] = ()
    ocsp: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()

    def __add__(self, other: "Collateral") -> "Collateral":
        """Return both together."""
        return Collateral(
            *(
                tuple(dict.fromkeys(getattr(self, f.name) + getattr(other, f.name)))
                for f in fields(self)
            )
        )


class CollateralSource(Protocol):
    """Whatever collateral comes from: files, the vendors' services, a cache."""

    def collateral(self, evidence: bytes) -> Collateral:
        """Return what there is for the evidence in a file, and maybe more."""
        ...


@dataclass(frozen=True, slots=True)
class FileCollateral:
    """Collateral in files and folders; a folder may hold other files, too."""

    paths: tuple[Path, ...]

    def collateral(self, evidence: bytes = b"") -> Collateral:  # noqa: ARG002
        """Return what the files hold, whatever the evidence is.

        Raises:
            FormatError: A path is not there, or a file that was named, not found in a
                folder, is unknown.
        """
        found = Collateral()
        for path in self.paths:
            if path.is_dir():
                files = sorted(p for p in path.iterdir() if p.is_file())
                if len(files) > MAX_FILES:
                    msg = f"{path} has {len(files)} files, at most {MAX_FILES} are read"
                    raise FormatError(msg, code="too-many-files")
                found += _all_known(files)
            elif path.is_file():
                found += parse_collateral(_read(path), what=path.name)
            else:
                raise FormatError(f"there is no {path}", code="no-such-file")
        return found


def kept_in(folder: Path) -> FileCollateral:
    """Return what a folder holds, as a source; nothing if there is none."""
    return FileCollateral((folder,) if folder.is_dir() else ())


def _all_known(files: Iterable[Path]) -> Collateral:
    found = Collateral()
    for path in files:
        if path.stat().st_size <= MAX_FILE_BYTES:
            try:
                found += parse_collateral(_read(path), what=path.name)
            except FormatError:  # evidence, a README: a folder may hold anything
                continue
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def parse_collateral(raw: bytes, *, what: str) -> Collateral:
    """Return the collateral in a file.

    Raises:
        FormatError: Not one of the kinds that are known.
    """
    if len(raw) > MAX_FILE_BYTES:
        msg = f"{what} has more than {MAX_FILE_BYTES} bytes"
        raise FormatError(msg, code="too-large")
    if match := _ANSWER.fullmatch(raw):
        return _parse_statement(match, what)
    if raw.lstrip()[:1] == b"{":
        value = parse_object(raw, what=what)
        return _parse_rim(value, what) if "rim" in value else _parse_set(value, what)
    if raw.lstrip()[:1] == b"<":
        parse_rim(raw)
        return Collateral(rims=(raw,))
    if b"-----BEGIN" in raw:
        crls = tuple(
            _crl(m, what) for m in pem_blocks(raw, b"X509 CRL", limit=MAX_FILE_BYTES)
        )
        found = Collateral(certificates=pem_certificates(raw), crls=crls)
        if found != Collateral():
            return found
    elif raw[:1] == b"\x30":
        return _parse_der(raw, what)
    msg = f"{what} is no collateral: neither certificates, a CRL nor a vendor's answer"
    raise FormatError(msg, code="unknown-collateral")


def _parse_statement(match: re.Match[bytes], what: str) -> Collateral:
    kind, body, signature = match.groups()
    parse_object(body, what=what)  # in a folder, a broken one is passed over
    signed = SignedJson(body, bytes.fromhex(signature.decode()))
    if kind == b"tcbInfo":
        return Collateral(tcb_infos=(signed,))
    return Collateral(qe_identities=(signed,))


def _parse_der(raw: bytes, what: str) -> Collateral:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            certificate = x509.load_der_x509_certificate(raw)
            return Collateral(certificates=(certificate.public_bytes(Encoding.DER),))
        except (ValueError, x509.InvalidVersion):
            pass
    try:
        return Collateral(crls=(_crl(raw, what),))
    except FormatError:
        return Collateral(ocsp=(_ocsp(raw, what),))


def _ocsp(raw: bytes, what: str) -> bytes:
    try:
        return load_der_ocsp_response(raw).public_bytes(Encoding.DER)
    except ValueError as exc:
        msg = f"{what} is neither a certificate, a CRL nor an OCSP response"
        raise FormatError(msg) from exc


def _parse_rim(value: Json, what: str) -> Collateral:
    try:
        raw = base64.b64decode(_text(value, "rim", what), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise FormatError(f"{what} holds a RIM that is not base64") from exc
    parse_rim(raw)
    return Collateral(rims=(raw,))


def _crl(raw: bytes, what: str) -> bytes:
    pem = raw.startswith(b"-----")
    try:
        load = x509.load_pem_x509_crl if pem else x509.load_der_x509_crl
        return load(raw).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion) as exc:
        raise FormatError(f"{what} is neither a certificate nor a CRL") from exc


def _parse_set(value: Json, what: str) -> Collateral:
    found = Collateral()
    for name in _CHAINS:
        found += Collateral(certificates=pem_certificates(_text(value, name, what)))
    for name in _CRLS:
        text = _text(value, name, what)
        if not text.startswith(b"-----"):
            text = _hex(text, what)
        found += Collateral(crls=(_crl(text, what),))
    tcb, qe = (_signed(value, name, what) for name in ("tcb_info", "qe_identity"))
    return found + Collateral(tcb_infos=(tcb,), qe_identities=(qe,))


def _signed(value: Json, name: str, what: str) -> SignedJson:
    signature = _hex(_text(value, f"{name}_signature", what), what)
    return SignedJson(_text(value, name, what), signature)


def _text(value: Json, name: str, what: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise FormatError(f"{what} lacks {name}: it is no collateral")
    return text.encode()


def _hex(text: bytes, what: str) -> bytes:
    try:
        return bytes.fromhex(text.decode())
    except ValueError as exc:
        raise FormatError(f"{what} holds a text that is not hex") from exc
