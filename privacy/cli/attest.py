"""Commands about evidence of any vendor: attest verify, attest show."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.attest_results import (
    print_checks,
    refuse,
    verifier_key,
    write_result,
)
from privacy.cli.collateral import Cache, Product, Service, parse_time, vendors
from privacy.cli.output import out, print_json, safe, table
from privacy.errors import FormatError, PrivacyError
from privacy.tee.attest import Verdict, attest, show
from privacy.tee.checks import Checklist
from privacy.tee.collateral import FileCollateral
from privacy.tee.detect import MAX_BYTES
from privacy.tee.ear import sign_result
from privacy.tee.event_log import MAX_BYTES as LOG_BYTES
from privacy.tee.event_log import Event, parse_event_log, replay
from privacy.tee.policy import EvidencePolicy, Relaxations, parse_policy
from privacy.tee.reference_values import apply_reference_values
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

Evidence = Annotated[
    Path,
    typer.Argument(help="Evidence of any format: raw, hex, base64 or NVIDIA's JSON."),
]
EventLog = Annotated[
    Path | None,
    typer.Option(help="The guest's event log (CCEL), which explains its RTMRs."),
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
    reference_values: Annotated[
        Path | None,
        typer.Option(help="Signed manifest, if the policy names its signers."),
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
    event_log: EventLog = None,
    ear: Annotated[
        str,
        typer.Option(help="Write the result as a signed token; - for standard output."),
    ] = "",
    ear_nonce: Annotated[
        str, typer.Option(help="Of the relying party, for the token: 8 to 88 signs.")
    ] = "",
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Check evidence line by line, offline by default: exit 6 refused, 7 cannot say."""
    raw = _read(file)
    checks = Checklist()
    store = simulated_trust_store() if allow_simulated else hardware_trust_store()
    given = FileCollateral(tuple(collateral or ())).collateral()
    relaxations = Relaxations(
        allow_debug=allow_debug,
        allow_unchecked_collateral=allow_unchecked_collateral,
        allow_tcb_statuses=tuple(allow_tcb_status or ()),
    )
    wanted = _policy(policy, relaxations)
    events = _events(event_log)
    now = datetime.now(UTC) if at is None else parse_time(at)
    manifest = None if reference_values is None else _read(reference_values)
    if manifest and policy is None:
        msg = "with --reference-values, give the --policy that names its signers"
        raise FormatError(msg, code="usage")
    try:
        if not isinstance(wanted, Relaxations):
            wanted = apply_reference_values(wanted, manifest, now=now, checks=checks)
        if fetch:
            with vendors(
                store, cache, service, product=product, beside=given, quiet=as_json
            ) as source:
                given += source.collateral(raw)
        verdict = attest(
            raw,
            trust_store=store,
            collateral=given,
            now=now,
            checks=checks,
            policy=wanted,
            event_log=events,
        )
    except PrivacyError as exc:
        refuse(exc, checks, as_json=as_json)
    if ear:
        key = verifier_key(home)
        write_result(sign_result(verdict, wanted, key, nonce=ear_nonce), ear)
    if ear == "-":
        return
    if as_json:
        log = {"event_log": [e.as_dict() for e in events]} if events else {}
        print_json(verdict.as_dict() | log)
    else:
        _print_events(events)
        _print_verdict(verdict)


@command("attest show")
def show_(file: Evidence, event_log: EventLog = None, as_json: AsJson = False) -> None:
    """Print every field of evidence; nothing is verified."""
    decoded = show(_read(file))
    events = _events(event_log)
    if events:
        values = {name: v.hex() for name, v in replay(events).items()}
        listed = [e.as_dict() for e in events]
        decoded.append({"format": "event log", "replayed": values, "events": listed})
    if as_json:
        print_json(decoded)
        return
    _print_events(events)
    for piece in decoded:
        title = f"{piece['format']}, not verified"
        piece.pop("events", None)
        table(title, ["field", "value"], list(_rows("", piece)))


def _events(path: Path | None) -> tuple[Event, ...]:
    return () if path is None else parse_event_log(_read(path, limit=LOG_BYTES))


def _print_events(events: tuple[Event, ...]) -> None:
    columns = ["register", "type", "digest", "of content", "content"]
    rows = [
        [
            event.register,
            str(said["type"]),
            event.digest.hex()[:16],
            "yes" if event.is_of_content else "no",
            str(said["content"]),
        ]
        for event in events
        for said in [event.as_dict()]
    ]
    if rows:
        table("events", columns, rows)


def _rows(prefix: str, value: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, part in value.items():
        if isinstance(part, dict):
            rows += _rows(f"{prefix}{name}.", part)
        else:
            rows.append([f"{prefix}{name}", str(part)])
    return rows


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
    print_checks(list(verdict.checks))
    for caveat in verdict.caveats:
        out.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
    out.print("[bold green]accepted[/]")


def _read(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return file.read(limit + 1)


def _policy(
    path: Path | None, relaxations: Relaxations
) -> EvidencePolicy | Relaxations:
    if path is None:
        return relaxations
    if relaxations != Relaxations():
        msg = "with --policy, say in the policy file what is allowed"
        raise FormatError(msg, code="usage")
    return parse_policy(_read(path))
