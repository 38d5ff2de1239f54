"""Which mode, and what it will take: choose, estimate, and the options of a policy."""

import re
from pathlib import Path
from typing import Annotated

import typer

from privacy.choose import HIDE_FROM, HIDE_MODEL_FROM, PROVE_TO, Choice, Policy
from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import duration, out, print_json, progress, safe, size, table
from privacy.client import Client
from privacy.client.auto import basis_of
from privacy.client.rows import read_rows
from privacy.encoding import Json
from privacy.errors import FormatError

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}

HideInput = Annotated[
    str, typer.Option("--hide-input-from", help=f"Mode auto: {', '.join(HIDE_FROM)}.")
]
HideOutput = Annotated[
    str, typer.Option("--hide-output-from", help=f"Mode auto: {', '.join(HIDE_FROM)}.")
]
HideModel = Annotated[
    str,
    typer.Option("--hide-model-from", help=f"Mode auto: {', '.join(HIDE_MODEL_FROM)}."),
]
ProveTo = Annotated[
    str, typer.Option("--prove-answer", help=f"Mode auto: to {', '.join(PROVE_TO)}.")
]
MaxLatency = Annotated[
    str, typer.Option(help="Mode auto: such as 5s; 19 of 20 jobs keep to it.")
]
MaxUpload = Annotated[
    str, typer.Option(help="Mode auto: such as 50MB, new evaluation keys included.")
]
AllowSimulated = Annotated[
    bool,
    typer.Option("--allow-simulated", help="Count what a simulated enclave hides."),
]
AllowInsecureSrs = Annotated[
    bool,
    typer.Option(
        "--allow-insecure-srs", help="Count proofs that the maker of the SRS can forge."
    ),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Accept a model that no publisher signed."),
]
Rows = Annotated[int, typer.Option(min=1, help="Rows of the job.")]


def policy_from(
    *,
    hide_input: str,
    hide_output: str,
    hide_model: str,
    prove_to: str,
    max_latency: str,
    max_upload: str,
) -> Policy:
    """Return the policy that options spell.

    Raises:
        FormatError: A word or an amount is none, or nothing is asked for.
    """
    upload = amount(max_upload, _BYTES, what="--max-upload", like="50MB")
    return Policy(
        hide_input_from=hide_input,
        hide_output_from=hide_output,
        hide_model_from=hide_model,
        prove_answer_to=prove_to,
        max_latency_s=amount(max_latency, _SECONDS, what="--max-latency", like="5s"),
        max_upload_bytes=None if upload is None else int(upload),
    )


def amount(text: str, units: dict[str, float], *, what: str, like: str) -> float | None:
    """Return a number with a unit, None if the text is empty.

    Raises:
        FormatError: It is no such number.
    """
    if not text:
        return None
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or found[2].lower() not in units:
        msg = f"{what} {text[:40]!r} is no amount: give one like {like}"
        raise FormatError(msg, code="usage")
    return float(found[1]) * units[found[2].lower()]


@command("choose")
def choose(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION, or with @SHA256.")],
    rows: Rows = 1,
    input_: Annotated[
        Path | None, typer.Option("--input", help="Count the rows of this file.")
    ] = None,
    hide_input: HideInput = "",
    hide_output: HideOutput = "",
    hide_model: HideModel = "",
    prove_to: ProveTo = "",
    max_latency: MaxLatency = "",
    max_upload: MaxUpload = "",
    allow_simulated: AllowSimulated = False,
    allow_insecure_srs: AllowInsecureSrs = False,
    allow_unsigned: AllowUnsigned = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Say which mode `infer --mode auto` would take, and why not the others."""
    policy = policy_from(
        hide_input=hide_input,
        hide_output=hide_output,
        hide_model=hide_model,
        prove_to=prove_to,
        max_latency=max_latency,
        max_upload=max_upload,
    )
    with (
        progress(quiet=as_json) as notify,
        Client(
            gateway,
            api_key=api_key,
            home=home,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            allow_unsigned=allow_unsigned,
            notify=notify,
        ) as client,
    ):
        if input_ is not None:
            columns = client.model(model).manifest.columns
            rows = len(read_rows(input_, [c.name for c in columns]))
        choice = client.choose(model, policy, rows=rows)
    if as_json:
        print_json({**choice.as_dict(), "policy": policy.as_dict(), "rows": rows})
    else:
        print_choice(choice)


def print_choice(choice: Choice) -> None:
    """Print which mode was chosen, why, and why not the others."""
    out.print(f"mode [bold]{choice.mode}[/]")
    for line in choice.why:
        out.print(f"  {safe(line)}", soft_wrap=True)
    for mode, reasons in choice.others.items():
        out.print(f"not {mode}: {safe('; '.join(reasons))}", soft_wrap=True)


@command("estimate")
def estimate(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION, or with @SHA256.")],
    rows: Rows = 1,
    mode: Annotated[
        str | None, typer.Option(help="fhe, zkml, tee or tee+zkml; else every mode.")
    ] = None,
    allow_unsigned: AllowUnsigned = False,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Say how long a job will take and how much it will send, before it is sent."""
    with Client(
        gateway, api_key=api_key, home=home, allow_unsigned=allow_unsigned
    ) as client:
        found = client.estimate(model, rows=rows, mode=mode)
    if as_json:
        print_json(found)
        return
    columns = ["mode", "typical", "slow", "up", "keys", "down", "memory", "basis"]
    lines = [line for one in found["modes"] for line in _lines(one)]
    table(f"{found['model']}/{found['version']}, {rows} rows", columns, lines)


def _lines(one: Json) -> list[list[str]]:
    if one["reason"]:
        return [[one["mode"], *[""] * 6, f"not offered: {one['reason']}"]]
    keys = "none"
    if one["keys_bytes"]:
        keys = "uploaded" if one["keys_uploaded"] else size(one["keys_bytes"])
    lines = [[one["mode"], *_cells(one, keys)]]
    if len(one["nodes"]) > 1:
        lines += [[f"  on {n['node']}", *_cells(n, "")] for n in one["nodes"]]
    return lines


def _cells(one: Json, keys: str) -> list[str]:
    times = [
        "?" if one[name] is None else duration(one[name])
        for name in ("latency_s", "slow_latency_s")
    ]
    up, down, memory = (
        "?" if one[name] is None else size(one[name])
        for name in ("bytes_up", "bytes_down", "memory_bytes")
    )
    return [*times, up, keys, down, memory, basis_of(one)]
