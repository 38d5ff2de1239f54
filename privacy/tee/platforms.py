"""How each vendor's evidence shows the five registers of an enclave. Pure.

An enclave measures itself as five registers (`privacy.tee.measure`). TDX has a field
for each. The others show them by these rules:

    snp      measurement   SHA-384(domain ‖ mrtd ‖ rtmr0 ‖ rtmr1), the code
             host_data     SHA-256(domain ‖ rtmr2), the model
             events        in the report data only: there is no register to extend
    nitro    pcr0 mrtd, pcr1 rtmr0, pcr2 rtmr1, pcr16 rtmr2, pcr17 rtmr3

So much for enclaves that are simulated. Where hardware measured a whole machine image,
a relying party compares these fields with a policy of its own, and the enclave's
registers come in the event log, which the report data covers.
"""

import hashlib

from privacy.errors import FormatError
from privacy.tee.parse import Measurements

_CODE_DOMAIN = b"privacy-compute/tee/snp/code/1"
_MODEL_DOMAIN = b"privacy-compute/tee/snp/model/1"
_PCRS = {0: "mrtd", 1: "rtmr0", 2: "rtmr1", 16: "rtmr2", 17: "rtmr3"}


def platform_values(evidence_format: str, measured: Measurements) -> dict[str, str]:
    """Return what evidence of an enclave shows, in hex, by the names of its format.

    Args:
        evidence_format: As evidence names it: `tdx-v4`, `snp-v3`, `nitro`.
        measured: The enclave's registers.

    Raises:
        FormatError: A format that is not of a CPU's that runs enclaves.
    """
    kind = evidence_format.partition("-")[0]
    if kind == "tdx":
        return measured.as_dict()
    if kind == "snp":
        code, model = snp_fields(measured)
        return {"measurement": code.hex(), "host_data": model.hex()}
    if kind == "nitro":
        return {f"pcr{i}": v.hex() for i, v in nitro_pcrs(measured).items()}
    msg = (
        f"evidence format {evidence_format[:40]!r} is of no enclave, expected tdx, snp "
        "or nitro"
    )
    raise FormatError(msg, code="unsupported-quote")


def snp_fields(measured: Measurements) -> tuple[bytes, bytes]:
    """Return MEASUREMENT (48 bytes) and HOST_DATA (32 bytes) of an enclave."""
    code = _CODE_DOMAIN + measured.mrtd + measured.rtmr0 + measured.rtmr1
    model = hashlib.sha256(_MODEL_DOMAIN + measured.rtmr2).digest()
    return hashlib.sha384(code).digest(), model


def nitro_pcrs(measured: Measurements) -> dict[int, bytes]:
    """Return the platform configuration registers of an enclave, 48 bytes each."""
    return {i: getattr(measured, name) for i, name in _PCRS.items()}
