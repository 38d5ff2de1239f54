"""What the prover gives up, and what the process of each job gives up besides.

Both find no file but those in their own memory; the prover forks, its jobs do not.
Either ends when who started it does.
"""

from dataclasses import replace

from privacy.encoding import Json
from privacy.tee import kernel, seccomp
from privacy.tee.harden import SANDBOX, Limits, Sandbox, harden

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MOST_FILE_BYTES = 1 << 32
_JOB = Sandbox(memory_files=True, file_bytes=_MOST_FILE_BYTES)
_PROVER = replace(_JOB, forks=True)

POLICY: Json = {
    **SANDBOX,
    "prover": {**_PROVER.policy(), "job": seccomp.policy(**_JOB.calls)},
}
"""The policy of an enclave that proves, as it is measured into RTMR0."""


def restrict_prover(limits: Limits) -> Json:
    """Apply the prover's sandbox to this process, and return the policy applied.

    Raises:
        BackendError: See `privacy.tee.harden.harden`.
    """
    hardened = harden(_PROVER, limits=limits)
    _end_with_parent()
    filtered = hardened.policy["seccomp"] != "none"
    job = seccomp.policy(**_JOB.calls) if filtered else "none"
    return {**hardened.policy, "job": job}


def restrict_job(*, filtered: bool) -> None:
    """Give up what the prover may and a job need not; locked memory is not inherited.

    Raises:
        OSError: The kernel refused.
    """
    _end_with_parent()
    kernel.lock_memory(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    if filtered:
        seccomp.restrict(**_JOB.calls)


def _end_with_parent() -> None:
    kernel.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
