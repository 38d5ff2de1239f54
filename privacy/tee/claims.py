"""What genuine evidence says, in one shape for every vendor."""

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from privacy.encoding import Json


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified evidence says.

    Attributes:
        format: `tdx-v4`, `sgx-v3`, `snp-v3`, `nitro`, `nvidia-spdm-1.1` and so on.
        vendor: `intel`, `amd`, `aws` or `nvidia`.
        simulated: It chains to a simulated vendor, so it proves nothing.
        debug: The host can look in; None where the format cannot say.
        measurements: Registers by name, in hex, and other fields that say what runs
            there or how it is set up.
        report_data: What the workload bound into the evidence, in hex; of Nitro the
            user data, of NVIDIA nothing.
        nonce: What the verifier asked with, in hex, where the format has a field.
        product: Of the vendor, such as `Milan` or `GH100`; empty if not said.
        is_gpu: It is a device that computes, not a switch between them.
        hardware_id: Chip, platform instance or module, as the vendor names it.
        svns: Security versions by name.
        made_at: When, as the evidence itself says; None if it does not.
        chain: Certificates from the signer to the root.
        tcb_status: In the vendor's words; empty if the vendor has none, or unchecked.
        tcb_date: Of the oldest TCB level behind, else of the oldest, RFC 3339.
        advisories: Security advisories that apply.
        unchecked: What could not be looked up: `tcb status`, `revocation`.
    """

    format: str
    vendor: str
    simulated: bool
    debug: bool | None
    measurements: dict[str, str]
    report_data: str = ""
    nonce: str = ""
    product: str = ""
    is_gpu: bool = False
    hardware_id: str = ""
    svns: dict[str, int] = field(default_factory=dict)
    made_at: datetime | None = None
    chain: tuple[x509.Certificate, ...] = ()
    tcb_status: str = ""
    tcb_date: str = ""
    advisories: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Return the claims JSON-ready."""
        return {
            "format": self.format,
            "vendor": self.vendor,
            "simulated": self.simulated,
            "debug": self.debug,
            "product": self.product,
            "hardware_id": self.hardware_id,
            "made_at": None if self.made_at is None else self.made_at.isoformat(),
            "measurements": self.measurements,
            "report_data": self.report_data,
            "nonce": self.nonce,
            "svns": self.svns,
            "tcb_status": self.tcb_status,
            "tcb_date": self.tcb_date,
            "advisories": list(self.advisories),
            "unchecked": list(self.unchecked),
            "signer": self.chain[0].subject.rfc4514_string() if self.chain else "",
        }
