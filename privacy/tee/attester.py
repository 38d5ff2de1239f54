"""The seams between the enclave and whatever vouches for it."""

from typing import Protocol

from privacy.tee.composite import Device
from privacy.tee.parse import Measurements


class Attester(Protocol):
    """Makes evidence about the environment it runs in; see `privacy.tee.sources`.

    It is opened before the enclave is hardened, and opens no file afterwards.

    Attributes:
        format: Name of the evidence format, `tdx-v4`.
        simulated: The evidence proves nothing.
    """

    format: str
    simulated: bool

    def quote(self, report_data: bytes, measurements: Measurements) -> bytes:
        """Return fresh evidence over 64 bytes of report data.

        Args:
            report_data: What the enclave vouches for.
            measurements: What the enclave measured of itself; hardware has measured
                for itself and does not look at it.
        """
        ...


class DeviceAttester(Protocol):
    """Makes evidence about a device that the enclave computes on."""

    def device(self, nonce: bytes) -> Device:
        """Return the device's report for a nonce of 32 bytes, and its certificates."""
        ...
