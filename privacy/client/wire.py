"""What flows ask of the outside world, and how problems come back as exceptions.

A flow is a generator: it yields a `Call` (one HTTP request) or a `Work` (something
slow to compute) and receives the answer. The same flow is driven by the synchronous
and the asynchronous client; neither repeats any logic.
"""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from privacy.encoding import Json, parse_object
from privacy.errors import PrivacyError, UnavailableError, error_from

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the gateway.

    Attributes:
        accept: Status codes the flow handles itself; any other is raised.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    accept: tuple[int, ...] = (200, 201, 202, 204)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the gateway answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def object(self, what: str) -> Json:
        """Return the body as a JSON object."""
        return parse_object(self.body, what=what)


@dataclass(frozen=True, slots=True)
class Work:
    """Something slow to compute outside the event loop."""

    run: Callable[[], Any]


Flow = Generator[Call | Work, Any, T]


def post_json(path: str, body: Json, **headers: str) -> Call:
    """Return a POST of a JSON body; header names are written with underscores."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return Call(
        "POST",
        path,
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **named},
    )


def check_reply(call: Call, reply: Reply) -> Reply:
    """Return the reply if the flow expects its status.

    Raises:
        PrivacyError: What the gateway's problem says, as the same class.
    """
    if reply.status in call.accept:
        return reply
    raise problem_error(reply)


def problem_error(reply: Reply) -> PrivacyError:
    """Return the exception a problem (RFC 9457) stands for."""
    try:
        problem = reply.object("problem")
        return problem_exception(problem)
    except PrivacyError:
        msg = f"the gateway answered {reply.status} without a problem description"
        return UnavailableError(msg, code="bad-gateway")


def problem_exception(problem: Json) -> PrivacyError:
    """Return the exception that a problem object stands for."""
    detail = str(problem.get("detail") or problem.get("title") or "no detail")
    family, code = str(problem.get("family")), str(problem.get("code") or "error")
    return error_from(family, code, detail)
