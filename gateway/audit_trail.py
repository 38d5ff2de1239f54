"""Who asks, for the audit log; and what operators ask for, recorded on the way.

Acts that change our tables note themselves (`gateway.store.audit.note`). Requests that
need an operator's scope are recorded here, whatever their route does: what changes
something before it is done and again before it is answered, what only reads before it
is answered. A gateway that dies in between leaves a `begun` without an end. What cannot
be recorded, for the database is away or full, is answered with that (503) instead.
"""

import asyncio
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.limits import address_of
from gateway.api.problems import problem_response
from gateway.identity.caller import Caller
from gateway.problems import problem_of
from gateway.store.audit import WHO, Act, Who
from privacy.errors import UnavailableError

_OF_OPERATORS = {"admin", "tenant:admin"}
_REFUSED = {401, 403}
_ERRORS = 400
_MAX_PATH = 200


async def admit(
    request: Request, gateway: Any, caller: Caller, scopes: list[str]
) -> None:
    """Note who was let in; called once their key and scopes were checked."""
    who = Who(
        actor=caller.id,
        tenant=caller.tenant,
        gateway=gateway.settings.node_name,
        request_id=getattr(request.state, "request_id", ""),
    )
    WHO.set(who)
    if not _OF_OPERATORS.intersection(scopes):
        return
    request.state.audited = who
    if request.method not in {"GET", "HEAD"}:
        act = _act(request.scope, outcome="begun", who=who)
        await asyncio.to_thread(gateway.audit.record, act)


class AuditTrail:
    """ASGI middleware: operators' requests are recorded, refusals counted."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gateway = scope["app"].state.gateway
        state = scope.setdefault("state", {})
        unrecorded = False

        async def record_and_send(message: Message) -> None:
            nonlocal unrecorded
            if unrecorded:  # the answer that goes on here was not given
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                if who := state.get("audited"):
                    outcome = "done" if status < _ERRORS else f"refused {status}"
                    act = _act(scope, outcome=outcome, who=who)
                    try:
                        await asyncio.to_thread(gateway.audit.record, act)
                    except UnavailableError as exc:
                        unrecorded = True
                        problem = problem_of(exc, instance=scope["path"])
                        await problem_response(problem)(scope, receive, send)
                        return
                elif status in _REFUSED:
                    gateway.refusals.add(status, address_of(scope))
            await send(message)

        await self._app(scope, receive, record_and_send)


def _act(scope: Scope, *, outcome: str, who: Who) -> Act:
    route = getattr(scope.get("route"), "path", scope["path"])
    return Act(
        action=f"{scope['method']} {route}"[:_MAX_PATH],
        target=scope["path"][:_MAX_PATH],
        outcome=outcome,
        who=who,
    )
