"""What flows ask of the outside world, and how problems come back as exceptions.

A flow is a generator: it yields a `Call` (one HTTP request) or a `Work` (something
slow to compute) and receives the answer. The same flow is driven by the synchronous
and the asynchronous client; neither repeats any logic.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from privacy.encoding import Json, parse_object
from privacy.errors import (
    AuthError,
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    error_from,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the gateway.

    Attributes:
        accept: Status codes the flow handles itself; any other is raised.
        limit: Bytes of answer that are read at most.
        sent: Told how many tenths of a long body have been sent.
        is_resumable: The flow itself goes on where a broken request stopped.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    accept: tuple[int, ...] = (200, 201, 202, 204)
    limit: int = 1 << 24
    sent: Callable[[int], None] | None = None
    is_resumable: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether to send it again, whole, after the connection broke."""
        if self.is_resumable:
            return False
        return self.method != "POST" or "Idempotency-Key" in self.headers

    def chunks(self) -> Iterator[bytes]:
        """Give the body in ten pieces, telling `sent` as they go."""
        body = self.body or b""
        size = max(1 << 16, -(-len(body) // 10))
        for at in range(0, len(body), size):
            yield body[at : at + size]
            if self.sent:
                self.sent(10 * min(at + size, len(body)) // len(body))


@dataclass(frozen=True, slots=True)
class Reply:
    """What the gateway answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def object(self, what: str) -> Json:
        """Return the body as a JSON object.

        Raises:
            UnavailableError: It is none.
        """
        try:
            return parse_object(self.body, what=what)
        except FormatError as exc:
            raise odd_answer(what) from exc

    def objects(self, name: str) -> list[Json]:
        """Return the list of objects that is one member of the body.

        Raises:
            UnavailableError: There is none.
        """
        found = self.object(name).get(name)
        if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
            raise odd_answer(name)
        return found


def odd_answer(what: str) -> UnavailableError:
    """Return the error for an answer that is not as the API says."""
    msg = (
        f"the gateway's answer is no {what.replace('_', ' ')} as the API gives it: "
        "is this the address of a gateway, and of this version?"
    )
    return UnavailableError(msg, code="bad-gateway")


@dataclass(frozen=True, slots=True)
class Work:
    """Something slow to compute outside the event loop."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class On:
    """A flow for another gateway's connection; gives what it returns.

    Attributes:
        driver: Of the other client, of the same kind as the one that runs this.
        meter: Counts the other's bytes.
    """

    driver: Any
    flow: Any
    meter: Any


Flow = Generator[Call | Work | On, Any, T]


def post_json(path: str, body: Json, **headers: str) -> Call:
    """Return a POST of a JSON body; header names are written with underscores."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return Call(
        "POST",
        path,
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **named},
    )


def told(call: Call) -> Flow[Json]:
    """Return the object that a call is answered with, {} if with no bytes."""
    reply = yield call
    value: Json = reply.object(call.path) if reply.body else {}
    return value


def told_list(call: Call, name: str) -> Flow[list[Json]]:
    """Return the list of objects that is one member of a call's answer."""
    reply = yield call
    found: list[Json] = reply.objects(name)
    return found


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
    except UnavailableError:  # a proxy, or HEAD, whose answers have no body
        msg = f"the gateway answered {reply.status} without a problem description"
        if reply.status in {401, 403}:
            return AuthError(f"{msg}: is the API key right, and has it the scope?")
        if reply.status == 404:  # noqa: PLR2004 - HTTP
            return NotFoundError(msg)
        return UnavailableError(msg, code="bad-gateway")
    return problem_exception(problem)


def problem_exception(problem: Json) -> PrivacyError:
    """Return the exception that a problem object stands for."""
    detail = str(problem.get("detail") or problem.get("title") or "no detail")
    family, code = str(problem.get("family")), str(problem.get("code") or "error")
    return error_from(family, code, detail)
