"""Commands of the data owner: login, models, infer, jobs, verify, modes."""

import sys
from contextlib import ExitStack
from functools import partial
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from privacy.bundle import Bundle
from privacy.choose import AUTO
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
from privacy.client import Answer, Client, Verdict, verify_saved
from privacy.client.home import Home
from privacy.client.rows import read_rows
from privacy.encoding import Json, parse_object
from privacy.errors import AuthError, FormatError
from privacy.files import default_home
from privacy.key_history import read_history
from privacy.modes import Mode, modes_table
from privacy.tee.sealed_model import sealing_of
from privacy.tls import TlsFiles

AllowSimulated = Annotated[
    bool,
    typer.Option(
        "--allow-simulated",
        help="Accept a simulated enclave, which hides nothing from its operator.",
    ),
]
AllowInsecureSrs = Annotated[
    bool,
    typer.Option(
        "--allow-insecure-srs",
        help="Accept proofs under an SRS that its maker can forge with.",
    ),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Accept a model that no publisher signed."),
]
AllowOutOfRange = Annotated[
    bool,
    typer.Option(
        "--allow-out-of-range",
        help="Ask about values that the model was not calibrated on.",
    ),
]
RequireHybrid = Annotated[
    bool,
    typer.Option(
        "--require-hybrid",
        help="Mode tee: refuse an enclave that has no ML-KEM to seal with.",
    ),
]
PlatformPolicy = Annotated[
    Path | None,
    typer.Option(
        help="Mode tee: what hardware below the enclave must show, TOML as for "
        "attest verify."
    ),
]
Input = Annotated[
    Path, typer.Option("--input", help="Rows of raw features: .csv, .npy or .json.")
]


@command("login")
def login(
    gateway: Annotated[str, typer.Argument(help="Gateway address.")],
    api_key: Annotated[
        str | None,
        typer.Option(envvar="PRIVACY_API_KEY", help="Asked for if it is not given."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Call this gateway so, beside the default one.")
    ] = "",
    keyring: Annotated[
        bool,
        typer.Option(
            "--keyring",
            help="Keep the API key, and the passphrase of FHE keys to come, in the "
            "system's keyring.",
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Who vouches for the gateway: a PEM file.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Your certificate, if the gateway wants one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Save a gateway's address and your API key (file mode 0600, or the keyring)."""
    api_key = api_key or _asked_key()
    tls = TlsFiles(trust=tls_ca, certificate=tls_cert, key=tls_key)
    with Client(gateway, api_key=api_key, home=home, tls=tls) as client:
        models = client.models()
        client.home.save_login(
            gateway=client.gateway,
            api_key=client.api_key,
            name=name,
            keyring=keyring,
            tls=client.tls,
        )
    if as_json:
        told = {"gateway": client.gateway, "name": name, "models": len(models)}
        print_json(told)
    else:
        out.print(f"logged in to {safe(client.gateway)}: {len(models)} models")


def _asked_key() -> str:
    """Return the API key from the terminal, unseen, or from standard input."""
    if sys.stdin.isatty():
        key = getpass("API key: ", sys.stderr)
    else:
        key = sys.stdin.readline(4096)
    if not key.strip():
        raise AuthError("no API key was given")
    return key.strip()


@command("models")
def models(
    name: Annotated[str | None, typer.Argument(help="Show this model whole.")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Keep its public files, for `verify`.")
    ] = False,
    allow_unsigned: AllowUnsigned = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List the gateway's models, or show one: schema, modes, accuracy, cost."""
    with (
        progress(quiet=as_json or not fetch) as notify,
        Client(
            gateway,
            api_key=api_key,
            home=home,
            allow_unsigned=allow_unsigned,
            notify=notify,
        ) as client,
    ):
        if name is None:
            if fetch:
                raise FormatError("--fetch needs a model's NAME", code="usage")
            found = client.models()
            if as_json:
                print_json({"models": found})
            else:
                _print_models(found)
            return
        bundle = client.fetch(name) if fetch else client.model(name)
    if as_json:
        raw = (bundle.root / "manifest.json").read_bytes()
        manifest = parse_object(raw, what="manifest")
        head = {"model_sha256": bundle.sha256, "publisher": bundle.publisher}
        print_json({**head, "manifest": manifest})
    else:
        _print_model(bundle)


def _print_models(found: list[Json]) -> None:
    rows = [
        [
            f"{m['name']}/{m['version']}",
            m["task"],
            str(m["columns"]),
            ", ".join(k for k, v in m["modes"].items() if v is True) or "none",
            m["model_sha256"][:16],
            str(m.get("publisher") or "unsigned")[:16],
        ]
        for m in found
    ]
    table("", ["model", "task", "features", "modes", "digest", "publisher"], rows)


def _print_model(bundle: Bundle) -> None:
    m = bundle.manifest
    head = f"[bold]{m.name}/{m.version}[/]  sha256 {bundle.sha256}"
    out.print(head, soft_wrap=True)
    out.print(f"publisher {bundle.publisher or 'unknown: not signed'}", soft_wrap=True)
    classes = f", classes: {safe(', '.join(m.classes))}" if m.classes else ""
    out.print(f"{safe(m.task)}, {len(m.columns)} features{classes}", soft_wrap=True)
    if sealing := sealing_of(m):
        out.print(f"weights sealed, key at {safe(sealing.broker)}", soft_wrap=True)
    rows = []
    for mode, part in m.modes.items():
        cost, acc = part.cost, part.accuracy
        if not part.available:
            rows.append([mode, f"no: {part.reason}", "", "", ""])
            continue
        sizes = [f"{k[:-6]} {size(v)}" for k, v in cost.items() if k.endswith("_bytes")]
        rows.append(
            [
                mode,
                f"{acc.get('label_agreement', 1.0):.1%}" if m.classes else "",
                f"{acc['max_error']:.2g}",
                duration(cost["latency_s"]),
                ", ".join(sizes),
            ]
        )
    table(
        "against the clear model, on held-back rows",
        ["mode", "labels agree", "max error", "a row", "sizes"],
        rows,
    )


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
        float, typer.Option(min=0, help="How far outputs of two runs may differ.")
    ] = 0.0,
    second_gateway: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address of another gateway to ask again, of a login; may be "
            "repeated. Else this one's own nodes."
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
        msg = f"log in to {address} first: privacy login {address} --name NAME"
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
                rows = [[k, str(v)] for k, v in job.items() if v not in (None, "")]
                table("", ["", "job"], rows)
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
            j["submitted_at"],
            (j["problem"] or {}).get("code", ""),
        ]
        for j in found
    ]
    table("", columns, rows)


@command("verify")
def verify(
    receipt: Annotated[Path, typer.Argument(help="The receipt file.")],
    keys: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON Web Key Set of a gateway to trust, instead of the pinned ones; "
            "repeatable, one for each."
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The model's bundle, if it is not cached.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="The raw rows, to check that proofs are on them."),
    ] = None,
    platform_policy: PlatformPolicy = None,
    log: Annotated[
        bool,
        typer.Option(
            "--log", help="Check its place in the gateway's log, too, as fetched."
        ),
    ] = False,
    allow_simulated: AllowSimulated = False,
    allow_insecure_srs: AllowInsecureSrs = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Check a receipt and its evidence offline: exit 0 true, 6 false, 7 cannot say."""
    if not receipt.is_file():
        raise FormatError(f"there is no file {receipt}", code="no-such-file")
    for file in keys or ():
        if not file.is_file():
            raise FormatError(f"there is no file {file}", code="no-such-file")
    trusted = [
        read_history(parse_object(file.read_bytes(), what=str(file)))
        for file in keys or ()
    ]
    if input_ is not None and not input_.is_file():
        raise FormatError(f"there is no file {input_}", code="no-such-file")
    with progress(quiet=as_json) as notify:
        notify({"stage": "verify"})
        verdict = verify_saved(
            receipt,
            home=Home(home or default_home()),
            trusted=trusted or None,
            bundle=bundle,
            rows=input_,
            platform_policy=platform_policy,
            log=log,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
        )
    if as_json:
        print_json(_verdict(verdict))
    else:
        _print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


def _verdict(verdict: Verdict) -> Json:
    receipt = verdict.receipt
    return {
        "exit_code": verdict.exit_code,
        "steps": [
            {"name": s.name, "verdict": s.verdict, "detail": s.detail}
            for s in verdict.steps
        ],
        "receipt": None
        if receipt is None
        else {name: getattr(receipt, name) for name in receipt.__dataclass_fields__},
        "caveats": list(verdict.caveats),
        "who_sees_what": verdict.who_sees_what and verdict.who_sees_what.as_dict(),
    }


def _print_verdict(verdict: Verdict) -> None:
    colours = {"ok": "green", "failed": "bold red"}
    for step in verdict.steps:
        colour = colours.get(step.verdict, "yellow")
        line = f"[{colour}]{step.verdict}[/] {step.name}: {safe(step.detail)}"
        out.print(line, soft_wrap=True)
    for caveat in verdict.caveats:
        out.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
    words = {
        0: "everything that was checked is true",
        6: "FALSE",
        7: "could not verify",
    }
    out.print(words[verdict.exit_code])


@command("modes")
def modes(as_json: AsJson = False) -> None:
    """Say who sees what in each privacy mode."""
    rows = modes_table()
    if as_json:
        print_json(rows)
        return
    names = [name.replace("_", " ") for name in next(iter(rows.values()))]
    for mode, row in rows.items():
        pairs = zip(names, row.values(), strict=True)
        table(mode, ["who", "what"], [list(pair) for pair in pairs])
