"""Commands for webhooks: who is told when a job ends."""

import time
from typing import Annotated
from urllib.parse import quote

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import out, print_json, print_one, safe, table
from privacy.client import Client
from privacy.client.wire import Call, post_json, told
from privacy.encoding import Json
from privacy.errors import JobFailedError

_PATH = "/v1/webhooks"
_TEST_S = 20.0

Id = Annotated[str, typer.Argument(help="As `privacy webhooks list` shows it.")]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="job.succeeded, job.failed, job.cancelled; else all. Repeatable.",
    ),
]


@command("webhooks add")
def add(
    url: Annotated[str, typer.Argument(help="Where messages go: https://…")],
    event: Events = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Be told at an address when jobs end; its secret is shown once."""
    body: Json = {"url": url, **({"events": event} if event else {})}
    with Client(gateway, api_key=api_key, home=home) as client:
        made = client.run(told(post_json(_PATH, body)))
    _show_secret(made, as_json=as_json)


@command("webhooks list")
def list_webhooks(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List your webhooks."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(Call("GET", _PATH)))
    if as_json:
        print_json(found)
        return
    rows = [
        [w["id"], w["url"], ", ".join(w["events"]), _state(w)]
        for w in found["webhooks"]
    ]
    table("", ["id", "url", "events", "state"], rows)


@command("webhooks remove")
def remove(
    webhook: Id,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a webhook."""
    with Client(gateway, api_key=api_key, home=home) as client:
        client.run(told(Call("DELETE", f"{_PATH}/{quote(webhook, safe='')}")))
    print_one({"removed": webhook}, f"removed {safe(webhook)}", as_json=as_json)


@command("webhooks enable")
def enable(
    webhook: Id,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Enable a webhook again that was disabled since it failed for days."""
    change = post_json(f"{_PATH}/{quote(webhook, safe='')}", {"enabled": True})
    call = Call("PATCH", change.path, body=change.body, headers=change.headers)
    with Client(gateway, api_key=api_key, home=home) as client:
        changed = client.run(told(call))
    print_one(changed, f"enabled {safe(webhook)}", as_json=as_json)


@command("webhooks rotate")
def rotate(
    webhook: Id,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a webhook a new secret; for a day the old one signs as well."""
    with Client(gateway, api_key=api_key, home=home) as client:
        made = client.run(
            told(post_json(f"{_PATH}/{quote(webhook, safe='')}/rotate", {}))
        )
    _show_secret(made, as_json=as_json)


@command("webhooks test")
def try_out(
    webhook: Id,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a webhook a message and say how its first attempt went."""
    with Client(gateway, api_key=api_key, home=home) as client:
        sent = client.run(
            told(post_json(f"{_PATH}/{quote(webhook, safe='')}/test", {}))
        )
        until = time.monotonic() + _TEST_S
        while time.monotonic() < until and not sent["answer"]:
            time.sleep(0.3)
            listed = client.run(
                told(Call("GET", f"{_PATH}/{quote(webhook, safe='')}/deliveries"))
            )
            sent = next(d for d in listed["deliveries"] if d["id"] == sent["id"])
    if sent["status"] != "delivered":
        why = sent["answer"] or f"no attempt within {_TEST_S:g} s"
        msg = f"the message did not arrive ({why}); it is tried again for a day"
        raise JobFailedError(msg, code="webhook-failed")
    print_one(sent, f"delivered: {safe(sent['answer'])}", as_json=as_json)


@command("webhooks deliveries")
def deliveries(
    webhook: Id,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List the messages of the last week to a webhook, the newest first."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(
            told(Call("GET", f"{_PATH}/{quote(webhook, safe='')}/deliveries"))
        )
    if as_json:
        print_json(found)
        return
    columns = ["id", "event", "status", "attempts", "answer", "created_at", "next_at"]
    rows = [[str(d[c] or "") for c in columns] for d in found["deliveries"]]
    table("", columns, rows)


def _state(webhook: Json) -> str:
    if not webhook["enabled"]:
        return f"disabled at {webhook['disabled_at']}"
    since = webhook["failing_since"]
    return f"failing since {since}" if since else "well"


def _show_secret(made: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out.print(
        f"webhook {safe(made['id'])}; its secret, shown once:\n"
        f"  [bold]{safe(made['secret'])}[/]",
        soft_wrap=True,
    )
