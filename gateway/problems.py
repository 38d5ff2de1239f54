"""What an error looks like to a client: RFC 9457, the same for HTTP and for jobs.

One table maps each error class to a status; a few codes say it more exactly.
"""

from http import HTTPStatus

from privacy.encoding import Json
from privacy.errors import (
    AppraisalError,
    AuthError,
    BackendError,
    CannotVerifyError,
    ConflictError,
    FormatError,
    JobFailedError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:privacy-compute:problem:"

STATUS: dict[type[PrivacyError], int] = {
    PrivacyError: 500,
    FormatError: 422,
    AuthError: 401,
    NotFoundError: 404,
    ConflictError: 409,
    LimitError: 429,
    JobFailedError: 500,
    VerificationError: 500,
    AppraisalError: 500,
    CannotVerifyError: 500,
    BackendError: 500,
    UnavailableError: 503,
}

STATUS_BY_CODE: dict[str, int] = {
    "missing-scope": 403,
    "no-tenant": 403,
    "tenant-suspended": 403,
    "method-not-allowed": 405,
    "upload-too-slow": 408,
    "request-too-slow": 408,
    "address-too-long": 414,
    "headers-too-large": 431,
    "cancelled": 409,
    "too-large": 413,
    "quota-exceeded": 413,
    "input-crashes-engine": 422,
    "time-limit": 504,
}


def problem_of(exc: PrivacyError, *, instance: str | None = None) -> Json:
    """Return an error as a problem; `instance` is where it happened."""
    family = _family(exc)
    status = STATUS_BY_CODE.get(exc.code, STATUS[family])
    problem: Json = {
        "type": TYPE_PREFIX + exc.code,
        "title": exc.code.replace("-", " "),
        "status": status,
        "detail": exc.message or HTTPStatus(status).phrase,
        "code": exc.code,
        "family": family.__name__,
    }
    return problem if instance is None else {**problem, "instance": instance}


def internal_problem(error_id: str) -> Json:
    """Return what a client learns of a defect of ours: an id to quote, nothing else."""
    exc = PrivacyError(
        f"the gateway failed; its log names this error {error_id}", code="internal"
    )
    return problem_of(exc)


def _family(exc: PrivacyError) -> type[PrivacyError]:
    """Return the class as clients know it: the nearest one in `privacy.errors`."""
    return next(cls for cls in type(exc).__mro__ if cls in STATUS)
