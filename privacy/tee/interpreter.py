"""What runs the enclave's code: the interpreter's binary and its standard library.

By content, wherever it lies. Two builds of one Python version are two interpreters: a
model's publisher and its node must use the same build: one image, or one package.
"""

import functools
import hashlib
import os
import platform
import sys
import sysconfig
from pathlib import Path

from privacy.encoding import Json, canonical_json, sha256_file

_LEFT_OUT = {
    "__pycache__",  # compiled from what is measured
    "site-packages",  # not on the enclave's path, but for packages that RTMR1 measures
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
}
_BUILD_NOTES = ("_sysconfigdata_", "config-")  # where it was built and installed


@functools.cache
def interpreter() -> Json:
    """Return what the interpreter is, as it is measured into MRTD."""
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "executable": sha256_file(Path(sys.executable).resolve()),
        "library": _library(),
        "modules": digest_of(Path(os.__file__).parent),
    }


def digest_of(folder: Path) -> str:
    """Return one digest of the names and contents of a standard library's files."""
    digests = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not _is_left_out(f)]
        for name in files:
            if name.endswith((".py", ".so")) and not _is_left_out(name):
                path = Path(root, name)
                digests[path.relative_to(folder).as_posix()] = sha256_file(path)
    return hashlib.sha256(canonical_json(digests)).hexdigest()


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(_BUILD_NOTES)


def _library() -> str:
    """Return the digest of the shared libpython, empty if there is none."""
    folder, name = (sysconfig.get_config_var(n) for n in ("LIBDIR", "INSTSONAME"))
    path = Path(str(folder), str(name))
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return sha256_file(path) if shared and path.is_file() else ""
