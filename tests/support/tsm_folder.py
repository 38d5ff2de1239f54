"""A folder where configfs-tsm is emulated over FUSE, or a skipped test."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@contextlib.contextmanager
def tsm_folder(folder, provider):
    """Mount the emulator on a folder; skip the test where that cannot be."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("only root with /dev/fuse can mount")
    try:
        from tsm_mount import mounted
    except (ImportError, OSError) as exc:
        pytest.skip(f"no FUSE: install mfusepy and libfuse ({exc})")
    with mounted(folder, provider):
        yield folder
