"""What the enclave process gives up once its model is loaded.

No other process of the same user can read or trace it, it cannot gain privileges,
leaves no core dump, writes no file and, where permitted, is not swapped out. Root on
the host can still read it: that is what hardware is for. Landlock and seccomp are not
applied yet.
"""

import ctypes
import os
import resource

from privacy.encoding import Json
from privacy.errors import BackendError

SANDBOX: Json = {
    "dumpable": False,
    "no_new_privileges": True,
    "core_bytes": 0,
    "file_bytes": 0,
    "memory_locked": "where permitted",
    "landlock": "none",
    "seccomp": "none",
}
"""The policy as it is measured into RTMR0; change it together with `harden`."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> bool:
    """Apply the policy to this process for good; return whether memory is locked.

    Raises:
        BackendError: A step that must succeed did not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            reason = os.strerror(ctypes.get_errno())
            msg = f"the enclave process cannot be hardened (prctl {option}: {reason})"
            raise BackendError(msg, code="enclave-start")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return _lock_memory(libc)


def _lock_memory(libc: ctypes.CDLL) -> bool:
    # Under a finite limit the call may succeed and a later allocation fail: leave it.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        return False
    locked: int = libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    return locked == 0
