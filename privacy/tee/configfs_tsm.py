"""Reports by the hardware, through Linux's configfs-tsm, in TDX and SEV-SNP guests.

    1. Make an entry under a name that nobody else has.
    2. Read its generation; write the privilege level, where the guest has a floor.
    3. Write the report data in one write. The kernel takes it when the file is closed,
       and an error of that moment is lost.
    4. Read report and provider, and with SEV-SNP the host's certificates.
    5. The generation must have grown by our own writes: more, and another process wrote
       here, too; less, and a write was lost. What was read may be anyone's: begin anew.
    6. The report must be over our report data.
    7. Remove the entry.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report.
"""

import contextlib
import errno
import os
import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privacy.errors import BackendError, FormatError, PrivacyError, UnavailableError
from privacy.tee.parse import parse_quote
from privacy.tee.snp import parse_snp_report
from privacy.tee.snp_table import (
    VCEK_ID,
    VLEK_ID,
    certificate_table,
    parse_certificate_table,
)

ROOT = Path("/sys/kernel/config/tsm/report")
REPORT_DATA_BYTES = 64

TDX, SNP = "tdx_guest", "sev_guest"
_MAX_BLOB_BYTES = 1 << 20
_PASSING = {errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY, errno.EEXIST}
_FAILURES: dict[int, tuple[type[PrivacyError], str, str]] = {
    errno.ENOENT: (
        UnavailableError,
        "tsm-missing",
        "there is no such folder: mount configfs, and load tdx_guest or sev-guest",
    ),
    errno.ENXIO: (
        UnavailableError,
        "tsm-no-provider",
        "nothing makes reports here: load tdx_guest or sev-guest in a confidential VM",
    ),
    errno.EACCES: (
        BackendError,
        "tsm-denied",
        "this user may not: let the node's user write there",
    ),
    errno.EBUSY: (
        UnavailableError,
        "tsm-busy",
        "it stayed busy: try again later",
    ),
    errno.ETIMEDOUT: (
        UnavailableError,
        "tsm-timeout",
        "the host did not answer in time: see that its quoting service runs",
    ),
    errno.ENOSPC: (
        UnavailableError,
        "tsm-no-space",
        "the kernel has no room for another entry: see what fills it",
    ),
    errno.EINVAL: (
        BackendError,
        "tsm-refused",
        "the kernel refuses the request: its driver may be of another version",
    ),
    errno.EIO: (
        BackendError,
        "tsm-failed",
        "the hardware or the host failed: see the kernel's log",
    ),
}
_ALIKE = {
    errno.EPERM: errno.EACCES,
    errno.EROFS: errno.EACCES,
    errno.ENODEV: errno.ENXIO,
    errno.ENOMEM: errno.ENOSPC,
    errno.EMFILE: errno.ENOSPC,
    errno.EFBIG: errno.EINVAL,
    errno.EOPNOTSUPP: errno.EINVAL,
    **dict.fromkeys(_PASSING, errno.EBUSY),
}
_CONTENDED = "tsm-contended"
_AGAIN = {_CONTENDED, "tsm-busy"}


class TsmFiles(Protocol):
    """The folder of entries; every method may raise `OSError` as the kernel does."""

    def mkdir(self, entry: str) -> None:
        """Make an entry."""
        ...

    def rmdir(self, entry: str) -> None:
        """Remove an entry."""
        ...

    def read(self, entry: str, name: str) -> bytes:
        """Return all of a file, opened anew."""
        ...

    def write(self, entry: str, name: str, content: bytes) -> None:
        """Open a file, write once, and close it."""
        ...


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """The folder as the kernel shows it, wherever configfs is mounted."""

    root: Path = ROOT

    def mkdir(self, entry: str) -> None:
        """Make an entry."""
        (self.root / entry).mkdir()

    def rmdir(self, entry: str) -> None:
        """Remove an entry."""
        (self.root / entry).rmdir()

    def read(self, entry: str, name: str) -> bytes:
        """Return all of a file, opened anew; what is too long is cut one byte later."""
        with (self.root / entry / name).open("rb", buffering=0) as file:
            found = bytearray()
            while part := file.read(_MAX_BLOB_BYTES + 1 - len(found)):
                found += part
        return bytes(found)

    def write(self, entry: str, name: str, content: bytes) -> None:
        """Open a file, write once, and close it."""
        with (self.root / entry / name).open("wb", buffering=0) as file:
            if file.write(content) != len(content):
                raise OSError(errno.EIO, "the kernel took a part only")


@dataclass(frozen=True, slots=True)
class TsmReport:
    """A report over our report data.

    Attributes:
        provider: The kernel's name of who made it: `tdx_guest` or `sev_guest`.
        evidence: A TDX quote, or an SEV-SNP report with the host's certificates.
        races: How often others wrote in between before.
    """

    provider: str
    evidence: bytes
    races: int


@dataclass(frozen=True, slots=True)
class ConfigfsTsm:
    """Asks the kernel for reports; may be used from several threads and processes.

    Attributes:
        files: The folder of entries.
        attempts: How often to ask when something is busy, or others interfere.
        wait_s: Before the second attempt, on average; doubled each time.
    """

    files: TsmFiles = KernelFiles()
    attempts: int = 10
    wait_s: float = 0.002

    def report(self, report_data: bytes) -> TsmReport:
        """Return a report over 64 bytes.

        Raises:
            FormatError: Not 64 bytes.
            UnavailableError: Nothing makes reports here, or not now.
            BackendError: The kernel, the hardware or the host refused or failed.
        """
        if (size := len(report_data)) != REPORT_DATA_BYTES:
            msg = f"the report data has {size} bytes, expected {REPORT_DATA_BYTES}"
            raise FormatError(msg, code="report-data")
        races = 0
        for left in reversed(range(self.attempts)):
            try:
                with self._entry() as entry:
                    provider, evidence = self._ask(entry, report_data)
                return TsmReport(provider, evidence, races)
            except UnavailableError as exc:
                if exc.code not in _AGAIN or not left:
                    raise
                races += exc.code == _CONTENDED
            doubled = 2 ** (self.attempts - 1 - left)
            time.sleep(self.wait_s * doubled * 2 * random.random())  # noqa: S311
        raise ValueError("attempts must be positive")

    @contextlib.contextmanager
    def _entry(self) -> Iterator[str]:
        entry = f"privacy-{os.getpid()}-{secrets.token_hex(8)}"
        with _doing("make an entry"):
            self.files.mkdir(entry)
        try:
            yield entry
        finally:
            with contextlib.suppress(OSError):  # the report is as good; others may see
                self.files.rmdir(entry)

    def _ask(self, entry: str, report_data: bytes) -> tuple[str, bytes]:
        """Return the provider's name and its evidence: steps 2 to 6."""
        with _doing("begin a report", in_entry=True):
            before, writes = self._generation(entry), 1
            if floor := self._floor(entry):
                self.files.write(entry, "privlevel", b"%d" % floor)
                writes += 1
        with _doing("write the report data", in_entry=True):
            self.files.write(entry, "inblob", report_data)
        with _doing("read the report", in_entry=True):
            raw = self.files.read(entry, "outblob")
            provider = self.files.read(entry, "provider").decode("ascii", "replace")
            beside = self._beside(entry)
            after = self._generation(entry)
        if after != before + writes:
            raise _contended(f"{after - before} writes, not {writes}, were taken")
        evidence, found = _taken_apart(provider.strip(), raw, beside)
        if found != report_data:
            raise _contended("the report is over other data")
        return provider.strip(), evidence

    def _generation(self, entry: str) -> int:
        raw = self.files.read(entry, "generation").strip()
        if not raw.isdigit():
            raise BackendError("configfs-tsm gives no generation", code="tsm-failed")
        return int(raw)

    def _floor(self, entry: str) -> int:
        """Return the least privilege level to name; 0 where there is no such thing."""
        raw = self._optional(entry, "privlevel_floor").strip()
        return int(raw) if raw.isdigit() else 0

    def _beside(self, entry: str) -> bytes:
        return self._optional(entry, "auxblob")

    def _optional(self, entry: str, name: str) -> bytes:
        try:
            return self.files.read(entry, name)
        except FileNotFoundError:  # the provider has no such file
            return b""


def _taken_apart(provider: str, raw: bytes, beside: bytes) -> tuple[bytes, bytes]:
    """Return the evidence in one piece, and the report data that it is over.

    Raises:
        BackendError: No provider that is known, or what it gave is no report of its.
    """
    try:
        if provider == TDX:
            report = parse_quote(raw).report
            return raw, report.report_data
        if provider == SNP:
            snp = parse_snp_report(raw)
            return snp.raw + _leaf_table(beside), snp.report_data
    except FormatError as exc:
        msg = f"{provider} gave a report that is none: {exc.message}"
        raise BackendError(msg, code="tsm-malformed") from exc
    msg = f"the kernel's provider is {provider[:40]!r}, expected {TDX} or {SNP}"
    raise BackendError(msg, code="tsm-provider-unknown")


def _leaf_table(beside: bytes) -> bytes:
    """Return the host's table with the key's certificate only: the CAs are pinned."""
    if not any(beside):
        return b""
    found = parse_certificate_table(beside)
    return certificate_table(
        {k: v for k, v in found.items() if k in (VCEK_ID, VLEK_ID)}
    )


@contextlib.contextmanager
def _doing(what: str, *, in_entry: bool = False) -> Iterator[None]:
    """Turn what the kernel raises into our errors.

    Raises:
        UnavailableError: See `ConfigfsTsm.report`, as for the other.
        BackendError: The kernel refused or failed.
    """
    try:
        yield
    except OSError as exc:
        number = exc.errno or errno.EIO
        if number == errno.ENOENT and in_entry:
            raise _contended("the entry, or a file in it, is gone") from exc
        known = _ALIKE.get(number, number)
        kind, code, advice = _FAILURES.get(known, _FAILURES[errno.EIO])
        msg = f"configfs-tsm cannot {what} ({os.strerror(number)}): {advice}"
        raise kind(msg, code=code) from exc


def _contended(found: str) -> UnavailableError:
    msg = (
        f"another process interferes with reports of configfs-tsm ({found}): see who "
        "else writes there"
    )
    return UnavailableError(msg, code=_CONTENDED)
