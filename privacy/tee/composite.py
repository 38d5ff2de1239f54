"""Evidence of a CPU and of the devices beside it, bound together. Canonical JSON. Pure.

    format    privacy-composite-1
    cpu       evidence of the CPU, any format
    devices   reports of NVIDIA devices: report, certificates (leaf first); alone, they
              are canonical JSON {"devices"}
    bound     what the workload wants vouched for, 64 bytes

The CPU's evidence vouches for `bound` and for every byte of every report, the nonces in
them too, through its report data:

    SHA-512(domain ‖ bound ‖ count ‖ SHA-384(report) of each device)

So the measured workload says which devices it checked and uses. All reports answer one
nonce, the relying party's. That the devices are in this very machine follows from the
workload alone, which must have talked to them over an attested channel (SPDM).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    parse_canonical,
)
from privacy.errors import FormatError, VerificationError

FORMAT = "privacy-composite-1"
BOUND_BYTES = 64
_DOMAIN = b"privacy-compute/tee/devices/1"
_MAX_DEVICES, _MAX_CERTIFICATES = 16, 8
_MAX_BYTES = 1 << 20
_MEMBERS = {"format", "cpu", "devices", "bound"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device's report, with its certificates (DER, leaf first)."""

    report: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """Evidence of a CPU with devices; nothing in it is verified.

    Attributes:
        cpu: Evidence, raw.
        bound: What the workload binds besides, 64 bytes.
    """

    cpu: bytes
    devices: tuple[Device, ...]
    bound: bytes

    @property
    def report_data(self) -> bytes:
        """What the CPU's evidence must vouch for."""
        return bound_report_data(self.bound, [d.report for d in self.devices])

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        return canonical_json(
            {
                "format": FORMAT,
                "cpu": b64url(self.cpu),
                "devices": _as_list(self.devices),
                "bound": b64url(self.bound),
            }
        )

    def check_binding(self, report_data: bytes) -> None:
        """Check that the CPU vouches for these devices.

        Args:
            report_data: Of the CPU's evidence, already verified.

        Raises:
            VerificationError: It vouches for others, or for none.
        """
        if report_data != self.report_data:
            msg = (
                "the CPU's evidence does not vouch for these devices: a report was "
                "exchanged, left out or added"
            )
            raise VerificationError(msg, code="device-binding")


def bound_report_data(bound: bytes, reports: Sequence[bytes]) -> bytes:
    """Return the report data by which a workload vouches for devices, 64 bytes.

    Args:
        bound: What it vouches for besides, 64 bytes.
        reports: Of its devices, in the order of the composite.

    Raises:
        FormatError: `bound` has another length.
    """
    if len(bound) != BOUND_BYTES:
        raise FormatError(f"bound has {len(bound)} bytes, expected {BOUND_BYTES}")
    digests = b"".join(hashlib.sha384(report).digest() for report in reports)
    count = len(reports).to_bytes(4, "big")
    return hashlib.sha512(_DOMAIN + bound + count + digests).digest()


def parse_composite(value: Json) -> Composite:
    """Return a composite from the JSON object of its file, taken apart.

    Raises:
        FormatError: It is none, or names no device or too many.
    """
    if set(value) != _MEMBERS or not isinstance(value["devices"], list):
        raise FormatError("the composite evidence lacks or adds members")
    found = Composite(
        cpu=_bytes(value["cpu"]),
        devices=_list(value["devices"]),
        bound=_bytes(value["bound"]),
    )
    if len(found.bound) != BOUND_BYTES:
        raise FormatError("what the composite's workload binds is not 64 bytes")
    return found


def devices_to_bytes(devices: Sequence[Device]) -> bytes:
    """Return the canonical encoding of devices without their CPU."""
    return canonical_json({"devices": _as_list(devices)})


def parse_devices(raw: bytes) -> tuple[Device, ...]:
    """Return devices without their CPU, taken apart.

    Raises:
        FormatError: It is no such list, or names no device or too many.
    """
    value = parse_canonical(raw, what="device evidence", limit=_MAX_BYTES)
    if set(value) != {"devices"} or not isinstance(value["devices"], list):
        raise FormatError("the device evidence lacks or adds members")
    return _list(value["devices"])


def _as_list(devices: Sequence[Device]) -> list[Json]:
    return [
        {
            "report": b64url(device.report),
            "certificates": [b64url(c) for c in device.certificates],
        }
        for device in devices
    ]


def _list(devices: list[Any]) -> tuple[Device, ...]:
    if not 0 < len(devices) <= _MAX_DEVICES:
        msg = (
            f"the composite names {len(devices)} devices, expected 1 to {_MAX_DEVICES}"
        )
        raise FormatError(msg)
    return tuple(_device(device) for device in devices)


def _device(value: Any) -> Device:
    if not isinstance(value, dict) or set(value) != {"report", "certificates"}:
        raise FormatError("a device of the composite lacks or adds members")
    certificates = value["certificates"]
    if (
        not isinstance(certificates, list)
        or not 0 < len(certificates) <= _MAX_CERTIFICATES
    ):
        raise FormatError("a device of the composite brings no chain of certificates")
    return Device(_bytes(value["report"]), tuple(_bytes(c) for c in certificates))


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise FormatError("a value of the composite is not a text")
    return b64url_decode(value, what="a value of the composite")
