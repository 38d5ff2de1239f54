"""The gateway as an ASGI application and as a server process."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from gateway.api import (
    api_keys,
    attestations,
    audit,
    blobs,
    contract_inputs,
    disputes,
    estimates,
    health,
    jobs,
    log,
    metrics,
    models,
    nodes,
    oip,
    peers,
    problems,
    tenants,
    webhooks,
)
from gateway.api.limits import RateFields, RequestLimits
from gateway.audit_trail import AuditTrail
from gateway.executors.base import Engines
from gateway.logs import RequestLog, configure_logs
from gateway.node import Gateway
from gateway.opening import open_database
from gateway.server import DrainingServer, server_options
from gateway.settings import Settings
from gateway.store.api_keys import ApiKeys
from gateway.traces import start_traces, stop_traces
from privacy.errors import UnavailableError

_DESCRIPTION = """
Run one model blind (FHE), with a proof (ZK) or in an attested enclave (TEE).

Every error is an RFC 9457 problem whose `code` is stable. Send an API key as
`Authorization: Bearer pk_…`. Scopes: `models:read`, `jobs:read`, `jobs:write`, and
`admin`, which implies the others. What a key's tenant did not upload or submit does
not exist for it.
"""

# FastAPI's own would export messages of errors, which may quote an input.
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def create_app(settings: Settings, *, engines: Engines | None = None) -> FastAPI:
    """Return the application; its lifespan opens the data folder and runs jobs.

    Args:
        settings: See `Settings`.
        engines: What computes; worker processes and enclaves of the engines that are
            installed by default.
    """
    gateway = Gateway(settings, engines or Engines())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        gateway.open()
        try:
            await gateway.start()
            try:
                yield
            finally:
                await gateway.stop()
        finally:
            gateway.close()

    app = FastAPI(
        title="Privacy Compute gateway",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        docs_url=None,  # the pages would load scripts from elsewhere
        redoc_url=None,
        responses=problems.RESPONSES,
        exception_handlers=problems.HANDLERS,
    )
    app.state.gateway = gateway
    app.add_middleware(RequestLimits, body_timeout_s=settings.body_timeout_s)
    app.add_middleware(RateFields, rates=gateway.rates)
    app.add_middleware(problems.DefectsAsProblems)
    app.add_middleware(AuditTrail)
    app.add_middleware(RequestLog)
    modules = (
        health,
        metrics,
        models,
        blobs,
        jobs,
        contract_inputs,
        disputes,
        estimates,
        attestations,
        nodes,
        peers,
        api_keys,
        tenants,
        webhooks,
        oip,
        log,
        audit,
    )
    for module in modules:
        app.include_router(module.router)
    app.state.routes = [route for module in modules for route in module.router.routes]
    return app


def run(
    settings: Settings,
    *,
    announce: Callable[[str | None], None],
    engines: Engines | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: See `Settings`.
        announce: Told, before serving, the first admin key of a new data folder; None
            where there are keys already.
        engines: See `create_app`.

    Raises:
        UnavailableError: Another gateway uses the data folder.
        FormatError: The files for TLS are not usable.
        PrivacyError: What else keeps it from starting.
    """
    configure_logs()
    start_traces()
    options = server_options(settings)
    app = create_app(settings, engines=engines)
    gateway: Gateway = app.state.gateway
    gateway.open()  # here, so that a taken folder is a typed error
    announce(gateway.api_keys.bootstrap())
    config = uvicorn.Config(app, host=settings.host, port=settings.port, **options)
    server = DrainingServer(config, gateway.drain)
    try:
        server.run()
    except (KeyboardInterrupt, SystemExit):
        pass  # it stopped as it was told, or could not start
    finally:
        stop_traces()
    if gateway.failure:
        raise gateway.failure
    if not server.started:
        msg = "the gateway could not start: its log says why"
        raise UnavailableError(msg, code="not-started")


def bootstrap_admin_key(settings: Settings) -> str | None:
    """Return the text of a first admin key (tenant "default"), None if keys exist."""
    database = open_database(settings.data_dir, settings.database_url)
    try:
        return ApiKeys(database).bootstrap()
    finally:
        database.close()
