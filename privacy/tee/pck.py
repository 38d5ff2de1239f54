"""What Intel's PCK certificate says of the platform it was issued for. Pure.

Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5.
"""

from dataclasses import dataclass

from cryptography import x509

from privacy.errors import FormatError, VerificationError
from privacy.tee import der
from privacy.tee.chain import SGX_EXTENSION, extension_value

_BASE = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1
_PPID, _TCB, _PCEID, _FMSPC = b"\x01", b"\x02", b"\x03", b"\x04"
_PCESVN = 17
COMPONENTS = 16


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform a quote comes from.

    Attributes:
        ppid: Of this very processor, 16 bytes.
        fmspc: Family, model and so on, 6 bytes.
        pceid: Of the provisioning certification enclave, 2 bytes.
        svns: Security versions of the 16 components.
        pce_svn: Security version of the provisioning certification enclave.
    """

    ppid: bytes
    fmspc: bytes
    pceid: bytes
    svns: tuple[int, ...]
    pce_svn: int


def platform_of(pck: x509.Certificate) -> Platform:
    """Return what a checked PCK certificate says.

    Raises:
        VerificationError: Its extension is not as specified.
    """
    try:
        return _parse(pck)
    except (FormatError, KeyError) as exc:
        msg = "the PCK certificate's SGX extension is not as Intel specifies"
        raise VerificationError(msg, code="certificate-malformed") from exc


def _parse(pck: x509.Certificate) -> Platform:
    what = "SGX extension"
    content = der.only(
        extension_value(pck, SGX_EXTENSION) or b"", der.SEQUENCE, what=what
    )
    values = der.oid_values(content, what=what)
    ppid, fmspc, pceid = (
        _octets(values[_BASE + oid]) for oid in (_PPID, _FMSPC, _PCEID)
    )
    tag, content = values[_BASE + _TCB]
    if (tag, len(ppid), len(fmspc), len(pceid)) != (der.SEQUENCE, 16, 6, 2):
        raise FormatError("the SGX extension holds values of other types or sizes")
    tcb = der.oid_values(content, what=what)
    numbers = [
        _number(tcb[_BASE + _TCB + bytes([i + 1])]) for i in range(COMPONENTS + 1)
    ]
    svns = tuple(numbers[:COMPONENTS])
    return Platform(ppid, fmspc, pceid, svns, numbers[_PCESVN - 1])


def _octets(value: tuple[int, bytes]) -> bytes:
    tag, content = value
    if tag != der.OCTETS:
        raise FormatError("a value in the SGX extension is no octet string")
    return content


def _number(value: tuple[int, bytes]) -> int:
    tag, content = value
    if tag != der.INTEGER:
        raise FormatError("a value in the SGX extension is no integer")
    return der.integer(content, what="security version")
