"""Files for engines that take paths, without a disk: what is in them is secret."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file() -> Iterator[Path]:
    """Give the path of an empty file, which ends with the context.

    On Linux it is in this process's memory, and only this process finds it by that
    path. Elsewhere it is a private temporary file.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "file"
        return
    fd = os.memfd_create("scratch", os.MFD_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
