"""What the enclave process gives up before it makes a key or loads a model.

    1. Locked in memory where that is permitted; limits on memory, core, files.
    2. No capability, and under root a user of its own, so that it is nobody's peer.
    3. Not dumpable: no other process of its user can read or trace it.
    4. Landlock: no file but those granted, no TCP, no signals to others.
    5. seccomp: only listed system calls, for every thread.

The *applied* policy is what is measured: an enclave with less of it has another RTMR0
than its model's publisher names, and clients refuse it. Root on the host can still read
the process: that is what hardware is for.
"""

import contextlib
import os
import resource
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.tee import kernel, landlock, seccomp

DEFAULT_MEMORY_BYTES = 16 << 30
LAYERS = LANDLOCK, SECCOMP = ("landlock", "seccomp")
"""What a kernel may lack, and an operator and a publisher allow to be missing."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_FIRST_OWN_UID = 0x70000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operator sets for the enclaves of a node.

    Attributes:
        memory_bytes: Of one enclave's data; beyond that, allocations fail.
        allow_weaker_sandbox: Go without Landlock or seccomp where the kernel lacks it.
    """

    memory_bytes: int = DEFAULT_MEMORY_BYTES
    allow_weaker_sandbox: bool = False


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What an enclave process may still reach once it is hardened.

    Attributes:
        read: Files and folders it may read, each under the name that is measured.
        write: Folders in which it may read, make and remove files, likewise.
        file_bytes: How large a file may get.
        memory_files: It may make files in memory, and open them.
        forks: It may fork processes, and end them.
        keeps_user: It stays the user it was: what it may write belongs to that one.
    """

    read: dict[str, Path] = field(default_factory=dict)
    write: dict[str, Path] = field(default_factory=dict)
    file_bytes: int = 0
    memory_files: bool = False
    forks: bool = False
    keeps_user: bool = False

    @property
    def calls(self) -> dict[str, bool]:
        """Which system calls it makes; see `privacy.tee.seccomp.restrict`."""
        return {
            "read": bool(self.read),
            "write": bool(self.write),
            "memory_files": self.memory_files,
            "forks": self.forks,
        }

    def policy(self, *, lacks: Collection[str] = ()) -> Json:
        """Return the policy as it is measured, without those of `LAYERS`."""
        allowed: Json = {"read": sorted(self.read), "write": sorted(self.write)}
        return {
            "capabilities": "none",
            "core_bytes": 0,
            "dumpable": False,
            "file_bytes": self.file_bytes,
            "landlock": "none" if LANDLOCK in lacks else allowed,
            "no_new_privileges": True,
            "seccomp": ("none" if SECCOMP in lacks else seccomp.policy(**self.calls)),
        }


SANDBOX: Json = Sandbox().policy()
"""The policy of an enclave that needs no files, as it is measured into RTMR0."""


@dataclass(frozen=True, slots=True)
class Hardened:
    """What was applied.

    Attributes:
        policy: As it is measured.
        memory_locked: Nothing of the process is swapped out.
        landlock_version: What this kernel has; 0 for none.
    """

    policy: Json
    memory_locked: bool
    landlock_version: int

    def as_dict(self) -> Json:
        """Return it as the node shows it."""
        return {
            "sandbox": self.policy,
            "memory_locked": self.memory_locked,
            "landlock_version": self.landlock_version,
        }


def harden(sandbox: Sandbox | None = None, limits: Limits = DEFAULT_LIMITS) -> Hardened:
    """Apply a sandbox to this process for good; call it before any thread is started.

    Args:
        sandbox: What stays allowed, nothing by default.
        limits: Not measured, as they protect the node alone.

    Raises:
        BackendError: A step that must succeed did not ("enclave-start"), or the kernel
            lacks what the sandbox is made of ("sandbox-unavailable").
    """
    sandbox = sandbox or Sandbox()
    _check_alone()
    for folder in (*sandbox.read.values(), *sandbox.write.values()):
        if not folder.exists():  # or it would look like a kernel without Landlock
            msg = f"the enclave process needs {folder}, which does not exist"
            raise BackendError(msg, code="enclave-start")
    try:
        locked = _lock_memory()
        _limit(file_bytes=sandbox.file_bytes, memory_bytes=limits.memory_bytes)
        _renounce(keeps_user=sandbox.keeps_user)
        kernel.prctl(_PR_SET_DUMPABLE, 0)  # a change of user may have set it anew
        kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as exc:
        msg = f"the enclave process cannot be hardened ({exc.strerror})"
        raise BackendError(msg, code="enclave-start") from exc
    version = landlock.version()
    landlocked = _try(
        "Landlock (Linux 5.13 or newer, with landlock among its security modules)",
        lambda: landlock.restrict(
            read=sandbox.read.values(), write=sandbox.write.values()
        ),
        allowed=limits.allow_weaker_sandbox,
    )
    filtered = _try(
        "seccomp filters (Linux 4.14 or newer on x86-64 or aarch64)",
        lambda: seccomp.restrict(**sandbox.calls),
        allowed=limits.allow_weaker_sandbox,
    )
    applied = {LANDLOCK: landlocked, SECCOMP: filtered}
    return Hardened(
        sandbox.policy(lacks=[layer for layer in LAYERS if not applied[layer]]),
        locked,
        version,
    )


def _check_alone() -> None:
    """Refuse a process with more threads: neither user nor Landlock is theirs."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        msg = f"the enclave process has {threads} threads before it is hardened"
        raise BackendError(msg, code="enclave-start")


def _try(what: str, restrict: Callable[[], None], *, allowed: bool) -> bool:
    try:
        restrict()
    except OSError as exc:
        if allowed:
            return False
        msg = (
            f"this kernel does not give the enclave {what}: {exc.strerror}. Use "
            "another one, or set allow_weaker_sandbox; the publisher must allow it, too"
        )
        raise BackendError(msg, code="sandbox-unavailable") from exc
    return True


def _lock_memory() -> bool:
    # Under a finite limit the call may succeed and a later allocation fail: leave it.
    infinity = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinity, infinity))
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != infinity:
        return False
    return kernel.lock_memory(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _limit(*, file_bytes: int, memory_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: file_bytes,
        # Not the address space: engines reserve far more of it than they use.
        resource.RLIMIT_DATA: memory_bytes,
    }
    for which, size in limits.items():
        resource.setrlimit(which, (size, size))
    with contextlib.suppress(OSError):  # if memory runs out, end this process first
        Path("/proc/self/oom_score_adj").write_text("1000")


def _renounce(*, keeps_user: bool) -> None:
    """Give up root and every capability."""
    if os.geteuid() == 0 and not keeps_user:
        own = _FIRST_OWN_UID + os.getpid()
        with contextlib.suppress(PermissionError, OSError):  # root in name only
            os.setgroups([])
            os.setresgid(own, own, own)
            os.setresuid(own, own, own)
    kernel.drop_capabilities()
