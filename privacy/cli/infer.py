"""Commands about jobs of the data owner's: infer, jobs."""

from contextlib import ExitStack
from functools import partial
from typing import Annotated

import typer

from privacy.bundle import Bundle
from privacy.choose import AUTO
from privacy.cli.accepting import (
    AllowInsecureSrs,
    AllowOutOfRange,
    AllowSimulated,
    AllowUnsigned,
    Input,
    PlatformPolicy,
    RequireHybrid,
)
from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.choosing import (
    HideInput,
    HideModel,
    HideOutput,
    MaxLatency,
    MaxUpload,
    ProveTo,
    policy_from,
)
from privacy.cli.output import (
    duration,
    err,
    out,
    print_json,
    progress,
    safe,
    size,
    table,
)
from privacy.cli.passphrase import (
    AllowPlaintextKeys,
    PassphraseFile,
    passphrase_from,
)
from privacy.client import Answer, Client
from privacy.client.rows import read_rows
from privacy.encoding import Json
from privacy.errors import AuthError
from privacy.modes import Mode


@command("infer")
def infer(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION, or with @SHA256.")],
    mode: Annotated[str, typer.Option(help="fhe, zkml, tee, tee+zkml or auto.")],
    input_: Input,
    allow_simulated: AllowSimulated = False,
    allow_insecure_srs: AllowInsecureSrs = False,
    allow_unsigned: AllowUnsigned = False,
    allow_out_of_range: AllowOutOfRange = False,
    require_hybrid: RequireHybrid = False,
    platform_policy: PlatformPolicy = None,
    passphrase_file: PassphraseFile = None,
    allow_plaintext_keys: AllowPlaintextKeys = False,
    verify_share: Annotated[
        float | None,
        typer.Option(
            help="Mode fhe: have each row answered again with this chance, and compare."
        ),
    ] = None,
    verify_runs: Annotated[
        int, typer.Option(min=0, help="How often; once by each second gateway.")
    ] = 0,
    verify_tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How far outputs of two runs may differ; else as the manifest says.",
        ),
    ] = None,
    second_gateway: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address of another gateway to ask again, of a login; may be "
            "repeated. Else this one again, perhaps its same node."
        ),
    ] = None,
    verify: Annotated[
        str,
        typer.Option(help="Look at the job twice: always, never or sampled (default)."),
    ] = "",
    hide_input: HideInput = "",
    hide_output: HideOutput = "",
    hide_model: HideModel = "",
    prove_to: ProveTo = "",
    max_latency: MaxLatency = "",
    max_upload: MaxUpload = "",
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a model on your rows and print the verified answer."""
    wishes = {
        "hide_input": hide_input,
        "hide_output": hide_output,
        "hide_model": hide_model,
        "prove_to": prove_to,
        "max_latency": max_latency,
        "max_upload": max_upload,
    }
    wanted = mode == AUTO or any(wishes.values())
    policy = policy_from(**wishes) if wanted else None
    with ExitStack() as stack:
        open_client = partial(
            Client,
            home=home,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            allow_unsigned=allow_unsigned,
            allow_out_of_range=allow_out_of_range,
            require_hybrid=require_hybrid,
            platform_policy=platform_policy,
            passphrase=passphrase_from(passphrase_file),
            allow_plaintext_keys=allow_plaintext_keys,
            notify=stack.enter_context(progress(quiet=as_json)),
        )
        client = stack.enter_context(open_client(gateway, api_key=api_key))
        others = [
            stack.enter_context(open_client(name, api_key=_saved_key(client, name)))
            for name in second_gateway or ()
        ]
        bundle = client.model(model)
        rows = read_rows(input_, [c.name for c in bundle.manifest.columns])
        answer = client.infer(
            model,
            rows,
            mode=mode,
            verify_runs=verify_runs or len(others) or int(verify_share is not None),
            verify_share=1.0 if verify_share is None else verify_share,
            verify_tolerance=verify_tolerance,
            verify_with=others,
            policy=policy,
            verify=verify,
        )
    if as_json:
        print_json(answer.as_dict())
        return
    print_answer(answer, bundle)
    if verify == "always" and answer.mode is Mode.FHE:
        line = f"compare it with its second run: privacy compare {answer.job_id}"
        out.print(f"[dim]{safe(line)}[/]", soft_wrap=True)


def _saved_key(client: Client, gateway: str) -> str:
    """Return the API key of a second gateway's login.

    The first one's, from an option or the environment, is not for another operator.

    Raises:
        AuthError: There is no login.
    """
    address = client.home.address(gateway).rstrip("/")
    key = client.api_key if address == client.gateway else client.home.api_key(address)
    if not key:
        msg = f"there is no login for {address}: privacy login ADDRESS --name NAME"
        raise AuthError(msg)
    return key


def print_answer(answer: Answer, bundle: Bundle) -> None:
    """Print an answer as people want it: rows, what was checked, who saw what."""
    classes = bundle.manifest.classes
    probable = any(r.probabilities for r in answer.rows)
    rows = [
        [str(i), r.label, *(f"{p:.4f}" for p in r.probabilities)]
        if classes
        else [str(i), *(f"{v:.6g}" for v in r.outputs)]
        for i, r in enumerate(answer.rows, start=1)
    ]
    width = len(answer.rows[0].outputs)
    columns = (
        ["row", "answer", *(f"p({c})" for c in classes if probable)]
        if classes
        else ["row", *(f"output {i}" for i in range(width))]
    )
    table(f"{answer.model}, mode {answer.mode}", columns, rows)
    for line in answer.chosen:
        out.print(f"[cyan]chosen[/] {safe(line)}", soft_wrap=True)
    for caveat in answer.caveats:
        err.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
    for check in answer.checks:
        line = f"[green]verified[/] {check.name}: {safe(check.detail)}"
        out.print(line, soft_wrap=True)
    for who, what in answer.who_sees_what.as_dict().items():
        out.print(f"[dim]{who.replace('_', ' ')}:[/] {safe(what)}", soft_wrap=True)
    total = sum(answer.seconds.values())
    out.print(
        f"[dim]{duration(total)}, {size(answer.bytes_up)} up, "
        f"{size(answer.bytes_down)} down; receipt {safe(answer.receipt)}[/]",
        soft_wrap=True,
    )


@command("jobs")
def jobs(
    job_id: Annotated[str | None, typer.Argument(help="Show this job whole.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    cancel: Annotated[
        str | None, typer.Option(help="Cancel the job of this id.")
    ] = None,
    delete_result: Annotated[
        str | None,
        typer.Option(
            help="Have the gateway delete what the job of this id gave: output and "
            "evidence. Its receipt stays."
        ),
    ] = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List your newest jobs, show one, cancel one, or delete what one gave."""
    with Client(gateway, api_key=api_key, home=home) as client:
        if delete_result:
            client.delete_result(delete_result)
        if shown := delete_result or cancel or job_id:
            job = client.cancel(cancel) if cancel else client.job(shown)
            if as_json:
                print_json(job)
            else:
                print_job(job)
            return
        found = client.jobs(limit=limit)
    if as_json:
        print_json({"jobs": found})
        return
    columns = ["id", "status", "model", "mode", "submitted_at", "problem"]
    rows = [
        [
            j["id"],
            j["status"],
            f"{j['model']}/{j['version']}",
            j["mode"],
            str(j["submitted_at"])[:19],
            (j["problem"] or {}).get("code", ""),
        ]
        for j in found
    ]
    table("", columns, rows)


def print_job(job: Json) -> None:
    """Print what a job says, what is in it a row each; links are for programs."""
    rows = []
    for name, value in job.items():
        inner = value if isinstance(value, dict) else {"": value}
        if name != "links":
            rows += [[f"{name} {k}".strip(), str(v)] for k, v in inner.items()]
    table("", ["", "job"], [row for row in rows if row[1] not in {"None", ""}])
