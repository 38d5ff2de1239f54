"""The same configfs-tsm as a mounted file system: `python -m … FOLDER PROVIDER`.

Over FUSE: what is written to a file is kept by open file, and taken at its close, as
the kernel does it.
"""

import contextlib
import errno
import itertools
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import mfusepy as fuse  # raises OSError without libfuse

sys.path.insert(0, str(Path(__file__).parent))

from fake_tsm import FILES, FakeTsm, error

WRITABLE = {"inblob", "privlevel"}


class Mount(fuse.Operations):
    use_ns = True

    def __init__(self, tsm):
        self.tsm = tsm
        self.handles = itertools.count(1)
        self.written, self.read_ = {}, {}

    def getattr(self, path, fh=None):
        entry, name = split(path)
        if entry and entry not in self.tsm.entries:
            raise fuse.FuseOSError(errno.ENOENT)
        if not name:
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if name not in FILES[self.tsm.provider]:
            raise fuse.FuseOSError(errno.ENOENT)
        mode = 0o200 if name in WRITABLE else 0o444
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": 0}

    def readdir(self, path, fh):
        entry, _ = split(path)
        inside = FILES[self.tsm.provider] if entry else self.tsm.names()
        return [".", "..", *inside]

    def mkdir(self, path, mode):
        self.tsm.mkdir(path[1:])

    def rmdir(self, path):
        self.tsm.rmdir(path[1:])

    def open(self, path, flags):
        return next(self.handles)

    def truncate(self, path, length, fh=None):
        return 0

    def write(self, path, data, offset, fh):
        if offset + len(data) > 64:
            raise fuse.FuseOSError(errno.EFBIG)
        self.written[fh] = self.written.get(fh, b"")[:offset] + data
        return len(data)

    def flush(self, path, fh):  # at close(), which release is not
        content = self.written.pop(fh, None)
        if content is not None and path is not None:  # None: the entry is gone
            with contextlib.suppress(OSError):
                self.tsm.write(*split(path), content)

    def read(self, path, size, offset, fh):
        if fh not in self.read_:
            self.read_[fh] = self.tsm.read(*split(path))
        return self.read_[fh][offset : offset + size]

    def release(self, path, fh):
        self.read_.pop(fh, None)


def split(path):
    if path is None:
        raise error(errno.ENOENT)
    entry, _, name = path.strip("/").partition("/")
    return entry, name


@contextlib.contextmanager
def mounted(folder, provider="tdx_guest"):
    """Mount an emulator on a folder, in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, str(folder), provider])
    try:
        for _ in range(200):
            if os.path.ismount(folder):
                break
            if process.poll() is not None:
                raise error(errno.ENODEV)
            time.sleep(0.05)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        process.wait(10)


if __name__ == "__main__":
    fuse.FUSE(
        Mount(FakeTsm(sys.argv[2])),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        direct_io=True,
        default_permissions=False,
    )
