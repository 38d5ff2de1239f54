"""Commands about enclaves: tee measure, tee connect."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from privacy.bundle import open_bundle
from privacy.cli.accepting import (
    AllowSimulated,
    AllowUnsigned,
    PlatformPolicy,
    RequireHybrid,
)
from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.infer import print_answer
from privacy.cli.output import as_object, out, print_json, progress, safe, table
from privacy.client import Client
from privacy.client.rows import read_rows
from privacy.encoding import Json
from privacy.errors import FormatError, PrivacyError, VerificationError
from privacy.files import write_atomic
from privacy.modes import Mode, parse_mode
from privacy.tee.measure import measure_folder
from privacy.tee.parse import Measurements
from privacy.tee.platforms import platform_values
from privacy.tee_zkml.program import PROGRAMS

_FORMATS = ("tdx-v4", "snp-v3", "nitro")
_STEPS = {
    "nonce": "fresh nonce",
    "evidence": "evidence received",
    "check": "check",
    "attested": "attested",
    "seal": "sealed",
    "answer": "answer opened",
}


@command("tee measure")
def measure(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    mode: Annotated[str, typer.Option(help="tee or tee+zkml.")] = "tee",
    as_json: AsJson = False,
) -> None:
    """Print the reference values of a model's enclave here, without running it."""
    chosen = parse_mode(mode)
    if chosen not in PROGRAMS:
        msg = f"mode {chosen} has no enclave: name tee or tee+zkml"
        raise FormatError(msg, code="no-enclave")
    found = open_bundle(bundle)
    part = found.manifest.mode(chosen)
    published = Measurements.from_dict(part.params.get("measurements", {}))
    here = measure_folder(bundle / Mode.TEE, PROGRAMS[chosen])
    equal = here == published
    registers = here.as_dict()
    if as_json:
        print_json(
            {
                "model_sha256": found.sha256,
                "measurements": registers,
                "published": published.as_dict(),
                "equal": equal,
                "formats": {name: platform_values(name, here) for name in _FORMATS},
            }
        )
    else:
        rows = [
            [name, value, "as published" if value == told else f"published: {told}"]
            for (name, value), told in zip(
                registers.items(), published.as_dict().values(), strict=True
            )
        ]
        table(f"{found.manifest.name}, mode {chosen}", ["register", "here", ""], rows)
    if not equal:
        differing = [n for n, v in registers.items() if v != published.as_dict()[n]]
        msg = f"{' and '.join(differing)} here are not the published ones"
        if not as_json:
            raise VerificationError(
                f"{msg}: another release, interpreter build or package",
                code="measurement-mismatch",
            )
        raise typer.Exit(VerificationError.exit_code)


@command("tee connect")
def connect(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION, or with @SHA256.")],
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="Rows to seal and send; else only attest."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the evidence here, for `attest`.")
    ] = None,
    allow_simulated: AllowSimulated = False,
    allow_unsigned: AllowUnsigned = False,
    require_hybrid: RequireHybrid = False,
    platform_policy: PlatformPolicy = None,
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show an attested session step by step: nonce, evidence, checks, seal, answer."""
    if input_ is not None and not input_.is_file():
        raise FormatError(f"there is no file {input_}", code="no-such-file")
    steps: list[Json] = []

    def tell(step: Json) -> None:
        evidence = step.pop("raw", b"")
        if save and evidence:
            write_atomic(save, evidence)
        steps.append(step)
        if not as_json:
            _print_step(step)

    with (
        progress(quiet=True) as notify,
        Client(
            gateway,
            api_key=api_key,
            home=home,
            allow_simulated=allow_simulated,
            allow_unsigned=allow_unsigned,
            require_hybrid=require_hybrid,
            platform_policy=platform_policy,
            notify=notify,
        ) as client,
    ):
        bundle = client.model(model)
        columns = [c.name for c in bundle.manifest.columns]
        rows = read_rows(input_, columns) if input_ else None
        try:
            answer = client.connect(model, rows, tell=tell)
        except PrivacyError as exc:
            _refuse(exc, steps, as_json=as_json)
    if as_json:
        print_json({"steps": steps, "answer": answer.as_dict() if answer else None})
    elif answer:
        print_answer(answer, bundle)


def _refuse(exc: PrivacyError, steps: list[Json], *, as_json: bool) -> NoReturn:
    """Print the steps up to a refusal, unless they were, and end with its code."""
    if not as_json:
        raise exc
    print_json({"error": as_object(exc), "steps": steps})
    raise typer.Exit(exc.exit_code) from exc


def _print_step(step: Json) -> None:
    """Print one step as a line; a check with what was found and expected."""
    name = str(step["step"])
    rest = {k: v for k, v in step.items() if k != "step"}
    if name == "check":
        word = "[green]ok[/]" if rest["ok"] else "[bold red]refused[/]"
        text = f"{rest['name']}: {rest['found']}"
        expected = "" if rest["ok"] else f", expected {rest['expected']}"
        out.print(f"  {word} {safe(text + expected)}", soft_wrap=True)
        return
    told = ", ".join(f"{k} {_text(v)}" for k, v in rest.items())
    if rest.get("simulated"):
        told += "  SIMULATED: it proves nothing"
    out.print(f"[bold]{_STEPS[name]}[/] {safe(told)}", soft_wrap=True)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
