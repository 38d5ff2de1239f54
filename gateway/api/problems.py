"""Every error of the API as an RFC 9457 problem; none repeats what was sent."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.logs import error_id_of
from gateway.problems import MEDIA_TYPE, internal_problem, problem_of
from privacy.encoding import Json
from privacy.errors import (
    FormatError,
    LimitError,
    NotFoundError,
    PrivacyError,
)

_RETRY_AFTER_S = "5"
_REALM = 'Bearer realm="privacy-compute"'
_REFUSED = ', error="invalid_token"'  # RFC 6750, section 3.1
_WHY = dict.fromkeys(("invalid-token", "token-expired", "key-expired"), _REFUSED)


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    family: str
    instance: str | None = None


def _response(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


ANY_ROUTE = (401, 403, 404, 405, 408, 409, 413, 414, 422, 429, 431, 503)
RESPONSES: dict[int | str, dict[str, Any]] = {
    **{s: _response(s) for s in ANY_ROUTE},
    500: {**_response(500), "model": Problem},
}


def problem_headers(problem: Json) -> dict[str, str]:
    """Return the headers that tell a client what to do next."""
    headers = {}
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = _REALM + _WHY.get(problem["code"], "")
    if problem["status"] in {429, 503}:
        headers["Retry-After"] = _RETRY_AFTER_S
    return headers


def problem_response(problem: Json) -> JSONResponse:
    """Return a problem as the response it describes."""
    return JSONResponse(
        problem,
        problem["status"],
        headers=problem_headers(problem),
        media_type=MEDIA_TYPE,
    )


async def _privacy_error(request: Request, exc: PrivacyError) -> JSONResponse:
    return problem_response(problem_of(exc, instance=request.url.path))


async def _validation_error(
    request: Request, exc: RequestValidationError
) -> JSONResponse:
    # Only places and rules: the values may be the tenant's data.
    places = [
        {"at": ".".join(str(p)[:40] for p in e["loc"]), "rule": e["type"]}
        for e in exc.errors()[:20]
    ]
    listed = "; ".join(f"{p['at']}: {p['rule']}" for p in places[:5])
    error = FormatError(
        f"the request does not fit the API: {listed}", code="invalid-request"
    )
    problem = problem_of(error, instance=request.url.path)
    return problem_response({**problem, "errors": places})


async def _http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    error: PrivacyError
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed here: see /openapi.json"
        error = FormatError(message, code="method-not-allowed")
    elif exc.status_code == HTTPStatus.NOT_FOUND:
        error = NotFoundError("there is nothing at this path: see /openapi.json")
    elif exc.status_code == HTTPStatus.REQUEST_TIMEOUT:
        message = "the request body did not come in time: send it again"
        error = LimitError(message, code="request-too-slow")
    elif exc.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        error = LimitError("the request body is too large", code="too-large")
    else:
        error = FormatError("the request is not valid HTTP", code="invalid-request")
    response = problem_response(problem_of(error, instance=request.url.path))
    response.headers.update(exc.headers or {})
    is_other_method = exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    if is_other_method and (methods := _methods(request)):
        response.headers["Allow"] = ", ".join(methods)
    return response


def _methods(request: Request) -> list[str]:
    """Return every method that a path has; Starlette names those of one route only."""
    routes = getattr(request.app.state, "routes", ())
    found = [r for r in routes if r.path_regex.match(request.scope["path"])]
    return sorted({method for route in found for method in route.methods})


class DefectsAsProblems:
    """ASGI middleware: an unexpected exception becomes a problem with an id.

    The server never sees it, for it would log the message, which may quote an input.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            pass  # in the middle of an upload: nobody is left to tell
        except Exception as exc:  # noqa: BLE001 - whatever it is, it becomes a problem
            path = scope["path"]
            error_id = error_id_of(exc, method=scope["method"], path=path[:200])
            if started:  # nothing can be said any more: break the connection
                msg = f"response broken off, error {error_id}"
                raise RuntimeError(msg) from None
            problem = {**internal_problem(error_id), "instance": path}
            await problem_response(problem)(scope, receive, send)


HANDLERS: dict[int | type[Exception], Any] = {
    PrivacyError: _privacy_error,
    RequestValidationError: _validation_error,
    HTTPException: _http_exception,
}
