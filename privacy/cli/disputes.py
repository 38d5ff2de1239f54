"""Second looks at jobs: compare, and for operators disputes and nodes in quarantine."""

from typing import Annotated

import typer

from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import err, out, print_json, progress, safe, table
from privacy.cli.passphrase import (
    AllowPlaintextKeys,
    PassphraseFile,
    passphrase_from,
)
from privacy.client import Client
from privacy.client.compare import Compared
from privacy.client.wire import Call, post_json, told, told_list
from privacy.encoding import Json
from privacy.errors import FormatError, PrivacyError


@command("compare")
def compare(
    job_id: Annotated[
        str | None, typer.Argument(help="The job; else every one that waits for it.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the other run.")
    ] = 60.0,
    passphrase_file: PassphraseFile = None,
    allow_plaintext_keys: AllowPlaintextKeys = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Decrypt the runs of a job that was run again, compare them, and report."""
    with (
        progress(quiet=as_json) as notify,
        Client(
            gateway,
            api_key=api_key,
            home=home,
            passphrase=passphrase_from(passphrase_file),
            allow_plaintext_keys=allow_plaintext_keys,
            notify=notify,
        ) as client,
    ):
        found: list[Compared] = []
        refused: list[PrivacyError] = []
        for one in [job_id] if job_id else client.waiting_jobs():
            try:
                found.append(client.compare(one, wait_s=wait))
            except PrivacyError as exc:  # the others are compared all the same
                refused.append(exc)
    if as_json and not refused:
        print_json({"compared": [one.as_dict() for one in found]})
    elif not as_json:
        _print_compared(found)
        for other in refused[1:]:
            err.print(f"[bold red]error[/] ({other.code}): {safe(other.message)}")
    if refused:
        raise refused[0]


def _print_compared(found: list[Compared]) -> None:
    if not found:
        out.print("nothing was compared")
    for one in found:
        nodes = ", ".join(one.nodes)
        rows = f", {one.rows} rows compared" if one.rows else ""
        line = f"{one.job_id} {one.state}: nodes {nodes}{rows}. {one.detail}"
        out.print(safe(line.strip()), soft_wrap=True)


@command("disputes list")
def list_disputes(
    state: Annotated[str, typer.Option(help="open, decided or resolved.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List your disputes; with an operator's key, everybody's."""
    params = {"limit": str(limit), **({"state": state} if state else {})}
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(
            told_list(Call("GET", "/v1/disputes", params=params), "disputes")
        )
    if as_json:
        print_json({"disputes": found})
        return
    columns = ["id", "state", "at fault", "verdict", "nodes", "model", "opened"]
    rows = [
        [
            d["id"],
            d["state"],
            d["at_fault"],
            d["verdict"],
            ", ".join(str(run["node"]) for run in d["runs"]),
            f"{d['model']}/{d['version']}, {d['mode']}",
            d["opened_at"],
        ]
        for d in found
    ]
    table("", columns, rows)


@command("disputes show")
def show_dispute(
    dispute_id: Annotated[str, typer.Argument(help="Its id.")],
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a dispute: runs, claims, verdict; --json has the receipts."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(Call("GET", f"/v1/disputes/{_name(dispute_id)}")))
    if as_json:
        print_json(found)
    else:
        _print_dispute(found)


@command("disputes resolve")
def resolve_dispute(
    dispute_id: Annotated[str, typer.Argument(help="Its id.")],
    at_fault: Annotated[
        str, typer.Option(help="The node, which is quarantined; else nobody is.")
    ] = "",
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Close a dispute, as an operator; the files that it kept may go."""
    body = {"at_fault": at_fault, "note": note}
    path = f"/v1/disputes/{_name(dispute_id)}/resolution"
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(post_json(path, body)))
    if as_json:
        print_json(found)
    else:
        _print_dispute(found)


@command("node quarantine")
def quarantine(
    node: Annotated[str, typer.Argument(help="Its name.")],
    why: Annotated[str, typer.Option(help="For the record.")] = "by an operator",
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a node no more jobs, on any gateway, until it is released."""
    call = post_json(f"/v1/nodes/{_name(node)}/quarantine", {"why": why})
    call = Call("PUT", call.path, body=call.body, headers=call.headers)
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(call))
    if as_json:
        print_json(found)
    else:
        out.print(f"{safe(found['node'])} is {safe(found['state'])}")


@command("node release")
def release(
    node: Annotated[str, typer.Argument(help="Its name.")],
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Trust a node again, whatever was held against it."""
    with Client(gateway, api_key=api_key, home=home) as client:
        client.run(told(Call("DELETE", f"/v1/nodes/{_name(node)}/quarantine")))
    if as_json:
        print_json({"node": node, "state": "ready"})
    else:
        out.print(f"{safe(node)} gets jobs again")


def _print_dispute(found: Json) -> None:
    fault = found["at_fault"] or "nobody yet"
    out.print(
        f"{safe(found['id'])} {safe(found['state'])}: at fault {safe(fault)} "
        f"{safe(found['verdict'])}",
        soft_wrap=True,
    )
    rows = [[str(run["job_id"]), str(run["node"])] for run in found["runs"]]
    table("runs", ["job", "node"], rows)
    for claim in found["claims"]:
        said = {k: v for k, v in claim.items() if k not in {"digests", "at"}}
        out.print(safe(f"{claim['at']} {said}"), soft_wrap=True)
    if found["resolved_at"]:
        line = f"resolved {found['resolved_at']} by {found['resolved_by']}: "
        out.print(safe(line + (found["note"] or "no note")), soft_wrap=True)


def _name(text: str) -> str:
    """Return a name that can stand in a path.

    Raises:
        FormatError: It cannot.
    """
    if not text or not all(c.isascii() and (c.isalnum() or c in "._-:") for c in text):
        msg = f"{text[:40]!r} is no name: letters, digits, '.', '_', '-' and ':'"
        raise FormatError(msg, code="bad-name")
    return text
