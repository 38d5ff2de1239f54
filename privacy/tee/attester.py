"""The seam between the enclave and whatever vouches for it."""

from typing import Protocol

from privacy.tee.parse import Measurements


class Attester(Protocol):
    """Makes evidence about the environment it runs in.

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
