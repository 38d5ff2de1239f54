"""A simulated CPU that vouches for simulated devices, as a confidential VM would."""

from collections.abc import Sequence

from privacy.tee.attester import Attester
from privacy.tee.composite import Composite, Device, bound_report_data
from privacy.tee.parse import Measurements
from privacy.tee.simulated_nvidia import SimulatedNvidia


def compose(
    cpu: Attester,
    devices: Sequence[SimulatedNvidia],
    *,
    nonce: bytes,
    bound: bytes,
    measurements: Measurements,
) -> Composite:
    """Return evidence of a CPU with devices.

    Args:
        cpu: Signs last, over the devices' reports.
        devices: Of which a report is asked for.
        nonce: The relying party's, 32 bytes; every device answers it.
        bound: What the workload binds besides, 64 bytes.
        measurements: What the CPU shows.
    """
    reported = tuple(Device(one.report(nonce), one.chain) for one in devices)
    data = bound_report_data(bound, [one.report for one in reported])
    return Composite(cpu.quote(data, measurements), reported, bound)
