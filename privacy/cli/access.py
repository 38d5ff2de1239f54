"""Commands of operators and tenants' admins: api-keys, tenants."""

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import out, print_json, print_one, safe, size, table
from privacy.client import Client
from privacy.client.wire import Call, post_json, told
from privacy.encoding import Json
from privacy.errors import FormatError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LIMITS = (
    "quota_bytes",
    "max_queued_jobs",
    "submits_per_minute",
    "uploads_per_minute",
    "reads_per_minute",
    "verify_share",
)
_USUAL = -1
"""What stands for the gateway's own limit, which the API writes as null."""

KeyId = Annotated[str, typer.Argument(help="As `privacy api-keys list` shows it.")]
TenantId = Annotated[str, typer.Argument(help="Small letters, digits, . _ and -.")]
Expires = Annotated[str, typer.Option(help="After so long: 90d, 12h, 30m, 45s.")]
Quota = Annotated[
    int | None, typer.Option(min=_USUAL, help="Bytes of uploads; -1: as usual.")
]
Queued = Annotated[
    int | None, typer.Option(min=_USUAL, help="Waiting jobs of a mode; -1: as usual.")
]
Rate = Annotated[
    int | None,
    typer.Option(min=_USUAL, help="Requests a minute; 0: any, -1: as usual."),
]

Share = Annotated[
    float | None,
    typer.Option(min=_USUAL, max=1, help="Of jobs looked at twice; -1: as usual."),
]


@command("api-keys list")
def list_keys(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List your tenant's API keys; an operator sees those of every tenant."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(Call("GET", "/v1/api-keys")))["api_keys"]
    if as_json:
        print_json({"api_keys": found})
        return
    columns = ["id", "name", "tenant", "scopes", "state", "last_used_at"]
    _show(columns, [{**key, "state": _state(key)} for key in found])


@command("api-keys create")
def create_key(
    name: Annotated[str, typer.Argument(help="To tell it from others.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="models:read, jobs:read, jobs:write (these by default), tenant:admin; "
            "an operator also inputs:read, metrics:read, admin. Repeatable."
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Else your own.")] = None,
    expires: Expires = "",
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key; its text is shown once."""
    body: Json = {
        "name": name,
        "scopes": scope or ["models:read", "jobs:read", "jobs:write"],
    }
    body |= {"tenant": tenant} if tenant else {}
    body |= {"expires_in_s": _seconds(expires, "--expires")} if expires else {}
    with Client(gateway, api_key=api_key, home=home) as client:
        made = client.run(told(post_json("/v1/api-keys", body)))
    _show_text(made, as_json=as_json)


@command("api-keys rotate")
def rotate_key(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(help="How long the old text works on: 24h, 30m, 0s.")
    ] = "24h",
    expires: Expires = "",
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give an API key a new text, shown once; the old one works for a while."""
    body: Json = {"overlap_s": _seconds(overlap, "--overlap")}
    body |= {"expires_in_s": _seconds(expires, "--expires")} if expires else {}
    path = f"/v1/api-keys/{quote(key_id, safe='')}/rotate"
    with Client(gateway, api_key=api_key, home=home) as client:
        made = client.run(told(post_json(path, body)))
    _show_text(made, as_json=as_json)


@command("api-keys revoke")
def revoke_key(
    key_id: KeyId,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """End an API key, within two seconds at every gateway."""
    with Client(gateway, api_key=api_key, home=home) as client:
        client.run(told(Call("DELETE", f"/v1/api-keys/{quote(key_id, safe='')}")))
    print_one({"revoked": key_id}, f"revoked {safe(key_id)}", as_json=as_json)


@command("tenants list")
def list_tenants(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List tenants and the limits that are their own."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(Call("GET", "/v1/tenants")))["tenants"]
    if as_json:
        print_json({"tenants": found})
        return
    rows = [{**t, "limits of its own": _own_limits(t)} for t in found]
    _show(["id", "name", "state", "limits of its own"], rows)


@command("tenants create")
def create_tenant(
    tenant: TenantId,
    name: Annotated[str, typer.Option(help="In words.")] = "",
    quota_bytes: Quota = None,
    max_queued_jobs: Queued = None,
    submits_per_minute: Rate = None,
    uploads_per_minute: Rate = None,
    reads_per_minute: Rate = None,
    verify_share: Share = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a tenant; then make its first key: `privacy api-keys create --tenant`."""
    given = (
        quota_bytes,
        max_queued_jobs,
        submits_per_minute,
        uploads_per_minute,
        reads_per_minute,
        verify_share,
    )
    body = {"id": tenant, "name": name, **_limits(given)}
    with Client(gateway, api_key=api_key, home=home) as client:
        made = client.run(told(post_json("/v1/tenants", body)))
    print_one(made, f"made tenant [bold]{safe(made['id'])}[/]", as_json=as_json)


@command("tenants change")
def change_tenant(
    tenant: TenantId,
    name: Annotated[str | None, typer.Option(help="In words.")] = None,
    quota_bytes: Quota = None,
    max_queued_jobs: Queued = None,
    submits_per_minute: Rate = None,
    uploads_per_minute: Rate = None,
    reads_per_minute: Rate = None,
    verify_share: Share = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a tenant's name or limits; what is not given stays."""
    given = (
        quota_bytes,
        max_queued_jobs,
        submits_per_minute,
        uploads_per_minute,
        reads_per_minute,
        verify_share,
    )
    body = {**_limits(given), **({} if name is None else {"name": name})}
    with Client(gateway, api_key=api_key, home=home) as client:
        changed = client.run(told(_patch(tenant, body)))
    print_one(changed, f"changed {safe(tenant)}", as_json=as_json)


@command("tenants suspend")
def suspend_tenant(
    tenant: TenantId,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Refuse what a tenant asks, within two seconds; its open jobs go on."""
    with Client(gateway, api_key=api_key, home=home) as client:
        changed = client.run(told(_patch(tenant, {"state": "suspended"})))
    print_one(changed, f"suspended {safe(tenant)}", as_json=as_json)


@command("tenants resume")
def resume_tenant(
    tenant: TenantId,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a suspended tenant ask again."""
    with Client(gateway, api_key=api_key, home=home) as client:
        changed = client.run(told(_patch(tenant, {"state": "active"})))
    print_one(changed, f"resumed {safe(tenant)}", as_json=as_json)


@command("tenants delete")
def delete_tenant(
    tenant: TenantId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete a tenant with its keys, jobs, receipts, uploads and results, for good."""
    if not yes:
        typer.confirm(f"delete tenant {tenant} and all it has?", abort=True, err=True)
    with Client(gateway, api_key=api_key, home=home) as client:
        gone = client.run(told(Call("DELETE", _path(tenant))))
    print_one(gone, f"{safe(gone['state'])} {safe(tenant)}", as_json=as_json)


def _path(tenant: str) -> str:
    return f"/v1/tenants/{quote(tenant, safe='')}"


def _patch(tenant: str, body: Json) -> Call:
    made = post_json(_path(tenant), body)
    return Call("PATCH", made.path, body=made.body, headers=made.headers)


def _limits(given: Sequence[float | None]) -> Json:
    """Return limits that were given, as the API writes them."""
    named = zip(_LIMITS, given, strict=True)
    return {k: None if v == _USUAL else v for k, v in named if v is not None}


def _own_limits(tenant: Json) -> str:
    own = {name: tenant[name] for name in _LIMITS if tenant[name] is not None}
    words = {n: size(v) if n == "quota_bytes" else str(v) for n, v in own.items()}
    return ", ".join(f"{name} {word}" for name, word in words.items())


def _seconds(text: str, option: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not found:
        msg = f"{option} is {text[:20]!r}, expected a time such as 30d, 24h, 15m or 45s"
        raise FormatError(msg)
    return float(int(found[1]) * _UNITS[found[2]])


def _state(key: Json) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoked_at']}"
    parts = [f"until {key['expires_at']}"] if key["expires_at"] else []
    if key["previous_until"]:
        parts.append(f"rotated, old text until {key['previous_until']}")
    return "; ".join(parts) or "works"


def _show(columns: list[str], rows: list[Json]) -> None:
    table(
        "",
        columns,
        [
            [
                ", ".join(v) if isinstance(v := r[c], list) else str(v or "")
                for c in columns
            ]
            for r in rows
        ],
    )


def _show_text(made: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    shown = f"key {safe(made['id'])}, shown once:\n  [bold]{safe(made['key'])}[/]"
    out.print(shown, soft_wrap=True)
    if made["previous_until"]:
        out.print(f"the old text works until {safe(made['previous_until'])}")
