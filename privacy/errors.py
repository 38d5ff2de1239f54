"""Every error this project raises on purpose.

PrivacyError
├── FormatError            bytes or values are not what the format says    exit 2
├── AuthError              no key or passphrase, a wrong one, no scope      exit 3
├── NotFoundError          no such model, job, blob or mode                exit 4
├── ConflictError          the request contradicts an earlier one          exit 2
├── LimitError             too large, too many or too slow                 exit 2
├── JobFailedError         the job ended without an answer                 exit 5
├── VerificationError      checked, and found false                        exit 6
│   └── AppraisalError     the evidence is genuine, the policy refuses it  exit 6
├── CannotVerifyError      something needed for the check is missing       exit 7
├── BackendError           an engine failed                                exit 5
└── UnavailableError       cannot be had now; try again later              exit 8

A message says what was found, what was expected and what to do next. `code` is a
stable slug: the last part of the problem's `type` over HTTP, the same everywhere.
"""

from typing import ClassVar


class PrivacyError(Exception):
    """Any failure this project reports on purpose."""

    default_code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Keep the message and a stable code (the class's own by default)."""
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class FormatError(PrivacyError):
    """Bytes or values are not what the format says."""

    default_code = "malformed"
    exit_code = 2


class AuthError(PrivacyError):
    """No API key or passphrase, a wrong one, or a key without the scope."""

    default_code = "unauthenticated"
    exit_code = 3


class NotFoundError(PrivacyError):
    """There is no such model, job, blob or mode."""

    default_code = "not-found"
    exit_code = 4


class ConflictError(PrivacyError):
    """The request contradicts an earlier one."""

    default_code = "conflict"
    exit_code = 2


class LimitError(PrivacyError):
    """Too large, too many or too slow."""

    default_code = "limit-exceeded"
    exit_code = 2


class JobFailedError(PrivacyError):
    """The job ended without an answer."""

    default_code = "job-failed"
    exit_code = 5


class VerificationError(PrivacyError):
    """Something was checked and found false."""

    default_code = "verification-failed"
    exit_code = 6


class AppraisalError(VerificationError):
    """The evidence is genuine, but the policy refuses it."""

    default_code = "appraisal-refused"


class CannotVerifyError(PrivacyError):
    """Something needed for the check is missing; nothing was found false."""

    default_code = "cannot-verify"
    exit_code = 7


class BackendError(PrivacyError):
    """An engine (Concrete, EZKL, ONNX Runtime) failed."""

    default_code = "backend-failed"
    exit_code = 5


class UnavailableError(PrivacyError):
    """Cannot be had now: not installed, not running, or too busy."""

    default_code = "unavailable"
    exit_code = 8


_FAMILIES: dict[str, type[PrivacyError]] = {
    cls.__name__: cls
    for cls in (
        PrivacyError,
        FormatError,
        AuthError,
        NotFoundError,
        ConflictError,
        LimitError,
        JobFailedError,
        VerificationError,
        AppraisalError,
        CannotVerifyError,
        BackendError,
        UnavailableError,
    )
}


def error_from(family: str, code: str, message: str) -> PrivacyError:
    """Return the error that another process or host described."""
    return _FAMILIES.get(family, PrivacyError)(message, code=code)
