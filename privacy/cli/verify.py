"""The command `verify`: a receipt and its evidence, offline."""

from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.accepting import AllowInsecureSrs, AllowSimulated, PlatformPolicy
from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.output import out, print_json, progress, safe
from privacy.client import Verdict, verify_saved
from privacy.client.home import Home
from privacy.client.offline import MISSING
from privacy.encoding import Json, parse_object
from privacy.errors import FormatError, VerificationError
from privacy.files import default_home
from privacy.key_history import read_history


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
    """Check a receipt and its evidence offline: exit 0 true, 6 false, 7 cannot say.

    What had to be allowed for the answer has to be allowed again, else it is refused.
    """
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
        "missing_allowances": list(verdict.missing_allowances),
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
    out.print(_in_words(verdict))


def _in_words(verdict: Verdict) -> str:
    """Return what it comes to; what has to be allowed is not called false."""
    if verdict.exit_code == VerificationError.exit_code:
        return "FALSE"
    if not verdict.exit_code:
        return "everything that was checked is true"
    unknown = any(step.verdict == MISSING for step in verdict.steps)
    said = "could not verify" if unknown else "refused, though nothing was found false"
    options = " ".join(f"--{a.replace('_', '-')}" for a in verdict.missing_allowances)
    if not options:
        return said
    what_to_do = "it would also have to be accepted" if unknown else "accept it"
    return f"{said}: {what_to_do} with {options}"
