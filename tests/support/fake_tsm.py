"""The kernel's configfs-tsm, in memory: its files, its generations, its errors.

It behaves as drivers/virt/coco/guest/report.c does: a report is made when it is read,
from what was written last; every write that is taken makes the entry one generation
older; `inblob` is taken when it is closed, and an error then is lost.
"""

import errno
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field

from privacy.tee.parse import Measurements
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulator import SimulatedTdxAttester

IN_MAX = 64
IMAGE = Measurements(*(bytes([0x40 + i]) * 48 for i in range(5)))
"""What a simulated guest's firmware and kernel measure to."""

FILES = {
    "tdx_guest": {"inblob", "outblob", "generation", "provider"},
    "sev_guest": {
        "inblob",
        "outblob",
        "generation",
        "provider",
        "auxblob",
        "privlevel",
        "privlevel_floor",
    },
}


def tdx_provider():
    attester = SimulatedTdxAttester()
    return lambda data, level: (attester.quote(data, IMAGE) + bytes(100), b"")


def snp_provider(*, table=True):
    amd = SimulatedAmd(shipped=True)
    beside = amd.table + bytes(4096) if table else b""

    def report(data, level):
        written = {0x30: bytes([level]), 0x90: IMAGE.mrtd}
        return amd.report(data, fields=written), beside

    return report


PROVIDERS = {"tdx_guest": tdx_provider, "sev_guest": snp_provider}


@dataclass
class Entry:
    data: bytes = b""
    level: int = 0
    writes: int = 0
    made_for: int = -1
    blobs: tuple[bytes, bytes] = (b"", b"")


@dataclass
class FakeTsm:
    """Implements `TsmFiles`; fails on command.

    Attributes:
        provider: `tdx_guest` or `sev_guest`; "" for none.
        floor: Least privilege level.
        faults: Numbers to raise, by what is done: `mkdir`, `read outblob` and so on.
        before: Called before an operation, to interfere with it.
    """

    provider: str = "tdx_guest"
    floor: int = 0
    faults: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    before: dict = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    make: object = None

    def __post_init__(self):
        if self.provider and not self.make:
            self.make = PROVIDERS[self.provider]()

    def mkdir(self, entry):
        with self._step("mkdir", entry):
            if not self.provider:
                raise error(errno.ENXIO)
            if entry in self.entries:
                raise error(errno.EEXIST)
            self.entries[entry] = Entry()

    def rmdir(self, entry):
        with self._step("rmdir", entry):
            self._entry(entry)
            del self.entries[entry]

    def write(self, entry, name, content):
        with self._step(f"write {name}", entry):
            found = self._file(entry, name)
            if name == "inblob":
                if len(content) > IN_MAX:
                    raise error(errno.EFBIG)
                if not self.faults["close inblob"]:
                    found.data = content
                    found.writes += 1
                else:
                    self.faults["close inblob"].pop()
            elif name == "privlevel":
                if not self.floor <= int(content) <= 3:
                    raise error(errno.EINVAL)
                found.level = int(content)
                found.writes += 1
            else:
                raise error(errno.EACCES)

    def read(self, entry, name):
        with self._step(f"read {name}", entry):
            found = self._file(entry, name)
            if name == "generation":
                return b"%d\n" % found.writes
            if name == "provider":
                return self.provider.encode() + b"\n"
            if name == "privlevel_floor":
                return b"%d\n" % self.floor
            if name not in ("outblob", "auxblob"):
                raise error(errno.EACCES)
            if not found.data:
                raise error(errno.EINVAL)
            if found.made_for != found.writes:
                found.made_for = found.writes
                found.blobs = self.make(found.data.ljust(64, b"\0"), found.level)
            return found.blobs[name == "auxblob"]

    def names(self):
        with self.lock:
            return list(self.entries)

    def _step(self, what, entry):
        if hook := self.before.get(what):
            hook(self, entry)
        if self.faults[what]:
            raise error(self.faults[what].pop())
        return self.lock

    def _entry(self, entry):
        if entry not in self.entries:
            raise error(errno.ENOENT)
        return self.entries[entry]

    def _file(self, entry, name):
        found = self._entry(entry)
        if name not in FILES[self.provider]:
            raise error(errno.ENOENT)
        return found


def error(number):
    return OSError(number, os.strerror(number))
