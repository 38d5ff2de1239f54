"""The key broker as an ASGI application and as a server process of its own.

It is no part of the gateway that runs jobs: whoever runs that one is the node operator,
from whom sealed weights are to be hidden.
"""

import asyncio
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.api import problems
from gateway.api.limits import RequestLimits
from gateway.handshake import Connections
from gateway.logs import RequestLog, configure_logs
from gateway.problems import problem_of
from gateway.server import bounded_protocol
from privacy.broker import Broker
from privacy.broker.broker import NONCE_LIFETIME
from privacy.encoding import Json, b64url
from privacy.errors import CannotVerifyError, PrivacyError, VerificationError

_FORBIDDEN = 403
_MAX_CONNECTIONS = 200
_BY_ADDRESS = 100
_HEAD_TIMEOUT_S = 15.0
_BODY_TIMEOUT_S = 30.0
_DESCRIPTION = """
Gives the keys of sealed models to enclaves that their publishers' policies accept.
Nobody needs an API key here: what counts is the evidence.
"""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_sha256: str = Field(min_length=64, max_length=64)


def create_broker_app(broker: Broker, *, verifier: Json) -> FastAPI:
    """Return the application.

    Args:
        broker: What decides.
        verifier: The public key that its tokens are signed with, as a JSON Web Key.
    """
    app = FastAPI(
        title="Privacy Compute key broker",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # the pages would load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            **problems.HANDLERS,
            VerificationError: _refused,
            CannotVerifyError: _refused,
        },
    )
    app.add_middleware(RequestLimits, body_timeout_s=_BODY_TIMEOUT_S)
    app.add_middleware(problems.DefectsAsProblems)
    app.add_middleware(RequestLog)

    @app.get("/healthz")
    async def health() -> Json:
        """Say that the process is alive."""
        return {"status": "ok"}

    @app.get("/.well-known/jwks.json")
    async def keys() -> Json:
        """Return the key that signs decisions."""
        return {"keys": [verifier]}

    @app.post("/v1/challenges")
    async def challenge(asked: _Asked) -> Json:
        """Return a nonce for one request for a model's key."""
        now = datetime.now(UTC)
        nonce = await asyncio.to_thread(broker.challenge, asked.model_sha256, now=now)
        seconds = int(NONCE_LIFETIME.total_seconds())
        return {"nonce": b64url(nonce), "expires_in_s": seconds}

    @app.post("/v1/releases")
    async def release(request: Request) -> Json:
        """Return the key sealed to the enclave whose evidence the body is."""
        evidence, now = await request.body(), datetime.now(UTC)
        sealed, token = await asyncio.to_thread(broker.release, evidence, now=now)
        return {"release": b64url(sealed), "ear": token}

    return app


async def _refused(request: Request, exc: PrivacyError) -> JSONResponse:
    problem = problem_of(exc, instance=request.url.path)
    return problems.problem_response({**problem, "status": _FORBIDDEN})


def run_broker(broker: Broker, *, verifier: Json, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    configure_logs()
    uvicorn.run(
        create_broker_app(broker, verifier=verifier),
        host=host,
        port=port,
        loop="uvloop",
        http=bounded_protocol(
            head_timeout_s=_HEAD_TIMEOUT_S, known=Connections(_BY_ADDRESS)
        ),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
    )
