# ruff: noqa: FAST003 - the webhook is taken by a dependency
"""Webhooks of a tenant: who is told when a job ends."""

import json
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as InPath
from pydantic import BaseModel, Field, JsonValue

from gateway.api.auth import GatewayDep, JobReader, JobWriter
from gateway.api.schemas import PRINTABLE, StrictRequest, Time
from gateway.store.webhooks import Delivery, Webhook
from gateway.webhooks.targets import MAX_URL, check_url
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import FormatError

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

_BOTH_SECRETS_S = 86400.0

Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL)]
Events = Annotated[list[Event], Field(min_length=1, max_length=3)]


Id = Annotated[str, InPath(max_length=64, pattern=PRINTABLE)]


class WebhookIn(StrictRequest):
    """A new webhook."""

    url: Url
    events: Events = Field(["job.succeeded", "job.failed", "job.cancelled"])


class WebhookChange(StrictRequest):
    """What changes about a webhook; what is left out stays."""

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = None


class WebhookOut(BaseModel):
    """A webhook."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    created_at: Time
    failing_since: Time | None
    disabled_at: Time | None
    old_secret_until: Time | None = Field(
        description="Until then messages are signed with the secret before, too."
    )


class NewSecretOut(WebhookOut):
    """A webhook with its secret."""

    secret: str = Field(description="Shown this once; messages are signed with it.")


class WebhooksOut(BaseModel):
    """A tenant's webhooks, the oldest first."""

    webhooks: list[WebhookOut]


class DeliveryOut(BaseModel):
    """A message to a webhook."""

    id: str = Field(description="The same over all attempts: the header webhook-id.")
    event: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    answer: str = Field(
        description="What the last attempt met: a status code, or why there was none."
    )
    created_at: Time
    next_at: Time | None
    ended_at: Time | None
    payload: dict[str, JsonValue]


class DeliveriesOut(BaseModel):
    """Messages to a webhook, the newest first."""

    deliveries: list[DeliveryOut]


def _of_reader(gateway: GatewayDep, key: JobReader, webhook_id: Id) -> Webhook:
    return gateway.webhooks.get(webhook_id, tenant=key.tenant)


def _of_writer(gateway: GatewayDep, key: JobWriter, webhook_id: Id) -> Webhook:
    return gateway.webhooks.get(webhook_id, tenant=key.tenant)


Readable = Annotated[Webhook, Depends(_of_reader)]
Writable = Annotated[Webhook, Depends(_of_writer)]


@router.post("", response_model=NewSecretOut, status_code=201)
def create_webhook(gateway: GatewayDep, key: JobWriter, body: WebhookIn) -> Json:
    """Make a webhook; its secret is in this answer only."""
    check_url(body.url, gateway.settings.webhook_rules)
    new = gateway.webhooks.add(key.tenant, body.url, list(body.events))
    secret = gateway.webhook_secrets.text(new.id, new.secret_number)
    return {**_view(new), "secret": secret}


@router.get("", response_model=WebhooksOut)
def list_webhooks(gateway: GatewayDep, key: JobReader) -> Json:
    """Return the tenant's webhooks, the oldest first."""
    return {"webhooks": [_view(w) for w in gateway.webhooks.of(key.tenant)]}


@router.get("/{webhook_id}", response_model=WebhookOut)
def get_webhook(webhook: Readable) -> Json:
    """Return a webhook."""
    return _view(webhook)


@router.patch("/{webhook_id}", response_model=WebhookOut)
def change_webhook(gateway: GatewayDep, webhook: Writable, body: WebhookChange) -> Json:
    """Change a webhook, disable it, or enable it again."""
    values: Json = {}
    if body.url is not None:
        check_url(body.url, gateway.settings.webhook_rules)
        values["url"] = body.url
    if body.events is not None:
        values["events"] = sorted(set(body.events))
    if body.enabled is not None:
        values["disabled_at"] = "" if body.enabled else webhook.disabled_at or now()
        values["failing_since"] = ""
    if not values:
        raise FormatError("nothing to change: give url, events or enabled")
    changed = gateway.webhooks.change(webhook.id, tenant=webhook.tenant, **values)
    return _view(changed)


@router.delete("/{webhook_id}", status_code=204, response_class=Response)
def remove_webhook(gateway: GatewayDep, webhook: Writable) -> Response:
    """Remove a webhook; what was to be delivered to it is not."""
    gateway.webhooks.remove(webhook.id, tenant=webhook.tenant)
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate", response_model=NewSecretOut)
def rotate_secret(gateway: GatewayDep, webhook: Writable) -> Json:
    """Give a webhook a new secret; for a day the old one signs as well."""
    rotated = gateway.webhooks.rotate(
        webhook.id, tenant=webhook.tenant, both_for_s=_BOTH_SECRETS_S
    )
    secret = gateway.webhook_secrets.text(rotated.id, rotated.secret_number)
    return {**_view(rotated), "secret": secret}


@router.post("/{webhook_id}/test", response_model=DeliveryOut, status_code=202)
def test_webhook(gateway: GatewayDep, webhook: Writable) -> Json:
    """Send a message of type `webhook.test`; see its deliveries for how it went."""
    return _delivery(gateway.webhooks.test(webhook.id, tenant=webhook.tenant))


@router.get("/{webhook_id}/deliveries", response_model=DeliveriesOut)
def list_deliveries(
    gateway: GatewayDep,
    webhook: Readable,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Json:
    """Return messages of the last week to a webhook, the newest first."""
    found = gateway.webhooks.deliveries(webhook.id, tenant=webhook.tenant, limit=limit)
    return {"deliveries": [_delivery(d) for d in found]}


def _view(webhook: Webhook) -> Json:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "enabled": not webhook.disabled_at,
        "created_at": webhook.created_at,
        "failing_since": webhook.failing_since or None,
        "disabled_at": webhook.disabled_at or None,
        "old_secret_until": webhook.old_secret_until or None,
    }


def _delivery(delivery: Delivery) -> Json:
    return {
        "id": delivery.id,
        "event": delivery.event,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "answer": delivery.answer,
        "created_at": delivery.created_at,
        "next_at": delivery.next_at if delivery.status == "pending" else None,
        "ended_at": delivery.ended_at or None,
        "payload": json.loads(delivery.payload),
    }
