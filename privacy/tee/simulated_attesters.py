"""Simulated AMD, AWS and NVIDIA as sources of an enclave's evidence.

All of it comes under the simulated roots that ship with this package, whose keys are
public: it proves nothing. How registers are shown: `privacy.tee.platforms`.
"""

from datetime import UTC, datetime

from privacy.tee.composite import Device
from privacy.tee.parse import Measurements
from privacy.tee.platforms import nitro_pcrs, snp_fields
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_vendors import SimulatedAws

_MEASUREMENT, _HOST_DATA = 0x90, 0xC0
_UNUSED_PCR = bytes(48)


class SimulatedSnpAttester:
    """Makes SEV-SNP reports, with the certificate of their key behind them."""

    format = "snp-v3"
    simulated = True

    def __init__(self) -> None:
        """Make a processor."""
        self._amd = SimulatedAmd(shipped=True)

    def quote(self, report_data: bytes, measurements: Measurements) -> bytes:
        """Return a report over 64 bytes, and the host's table of certificates."""
        code, model = snp_fields(measurements)
        fields = {_MEASUREMENT: code, _HOST_DATA: model}
        return self._amd.report(report_data, fields=fields) + self._amd.table


class SimulatedNitroAttester:
    """Makes Nitro documents; their certificates live three hours."""

    format = "nitro"
    simulated = True

    def quote(self, report_data: bytes, measurements: Measurements) -> bytes:
        """Return a document with the report data as user data."""
        aws = SimulatedAws(now=datetime.now(UTC), shipped=True)
        pcrs = {3: _UNUSED_PCR, 4: _UNUSED_PCR} | nitro_pcrs(measurements)
        members = {"pcrs": dict(sorted(pcrs.items())), "user_data": report_data}
        return aws.document(members=members)


class SimulatedGpu:
    """Makes reports of an NVIDIA GPU."""

    def __init__(self) -> None:
        """Make a device."""
        self._device = SimulatedNvidia(shipped=True)

    def device(self, nonce: bytes) -> Device:
        """Return the device's report for a nonce of 32 bytes, and its certificates."""
        return Device(self._device.report(nonce), self._device.chain)
