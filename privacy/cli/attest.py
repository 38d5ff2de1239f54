"""Commands about evidence of any vendor: attest verify, attest show."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.cli.app import AsJson, command
from privacy.cli.collateral import Cache, Product, Service, parse_time, vendors
from privacy.cli.output import out, print_json, safe, table
from privacy.errors import FormatError, NotFoundError, PrivacyError
from privacy.tee.attest import Verdict, attest, show
from privacy.tee.checks import Check, Checklist
from privacy.tee.collateral import FileCollateral
from privacy.tee.detect import MAX_BYTES
from privacy.tee.policy import EvidencePolicy, Relaxations, parse_policy
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

Evidence = Annotated[
    Path,
    typer.Argument(help="Evidence of any format: raw, hex, base64 or NVIDIA's JSON."),
]


@command("attest verify")
def verify(
    file: Evidence,
    collateral: Annotated[
        list[Path] | None,
        typer.Option(help="Certificates, CRLs, TCB info: file or folder; repeatable."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Ask the vendors for what is not kept.")
    ] = False,
    cache: Cache = None,
    service: Service = None,
    product: Product = None,
    policy: Annotated[
        Path | None, typer.Option(help="What it must show, TOML: reference values.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When it must hold, RFC 3339; now by default.")
    ] = None,
    allow_simulated: Annotated[
        bool,
        typer.Option("--allow-simulated", help="Trust the simulated vendors instead."),
    ] = False,
    allow_debug: Annotated[
        bool, typer.Option("--allow-debug", help="Accept what its host can look into.")
    ] = False,
    allow_unchecked_collateral: Annotated[
        bool,
        typer.Option(
            "--allow-unchecked-collateral", help="Accept unknown TCB and revocation."
        ),
    ] = False,
    allow_tcb_status: Annotated[
        list[str] | None,
        typer.Option(help="Accept this TCB status beside UpToDate; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check evidence line by line, offline by default: exit 6 refused, 7 cannot say."""
    raw = _read(file)
    checks = Checklist()
    store = simulated_trust_store() if allow_simulated else hardware_trust_store()
    given = FileCollateral(tuple(collateral or ())).collateral()
    try:
        if fetch:
            with vendors(
                store, cache, service, product=product, quiet=as_json
            ) as source:
                given += source.collateral(raw)
        verdict = attest(
            raw,
            trust_store=store,
            collateral=given,
            now=datetime.now(UTC) if at is None else parse_time(at),
            checks=checks,
            policy=_policy(
                policy,
                Relaxations(
                    allow_debug=allow_debug,
                    allow_unchecked_collateral=allow_unchecked_collateral,
                    allow_tcb_statuses=tuple(allow_tcb_status or ()),
                ),
            ),
        )
    except PrivacyError as exc:
        if not as_json:
            _print_checks(checks.lines)
            raise
        error = {"code": exc.code, "message": exc.message, "exit_code": exc.exit_code}
        print_json({"error": error, "checks": [asdict(c) for c in checks.lines]})
        raise typer.Exit(exc.exit_code) from exc
    if as_json:
        print_json(verdict.as_dict())
    else:
        _print_verdict(verdict)


@command("attest show")
def show_(file: Evidence, as_json: AsJson = False) -> None:
    """Print every field of evidence; nothing is verified."""
    decoded = show(_read(file))
    if as_json:
        print_json(decoded)
        return
    for piece in decoded:
        title = f"{piece['format']}, not verified"
        table(title, ["field", "value"], list(_rows("", piece)))


def _rows(prefix: str, value: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, part in value.items():
        if isinstance(part, dict):
            rows += _rows(f"{prefix}{name}.", part)
        else:
            rows.append([f"{prefix}{name}", str(part)])
    return rows


def _print_checks(checks: list[Check]) -> None:
    rows = [
        [c.name, "pass" if c.ok else "FAIL", c.found, c.expected, c.code]
        for c in checks
    ]
    table("checks", ["check", "result", "found", "expected", "code"], rows)


def _print_verdict(verdict: Verdict) -> None:
    for claims in verdict.claims:
        origin = "SIMULATED, proves nothing" if claims.simulated else "hardware"
        rows = [["origin", origin]]
        rows += [
            [name, str(value)]
            for name, value in claims.as_dict().items()
            if value and name not in {"measurements", "simulated", "svns"}
        ]
        rows += [[name, value] for name, value in claims.measurements.items()]
        table(claims.format, ["claim", "value"], rows)
    _print_checks(list(verdict.checks))
    for caveat in verdict.caveats:
        out.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
    out.print("[bold green]accepted[/]")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _policy(
    path: Path | None, relaxations: Relaxations
) -> EvidencePolicy | Relaxations:
    if path is None:
        return relaxations
    if relaxations != Relaxations():
        msg = "with --policy, say in the policy file what is allowed"
        raise FormatError(msg, code="usage")
    return parse_policy(_read(path))
