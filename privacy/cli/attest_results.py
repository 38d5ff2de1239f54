"""Commands of those who sign: Verifiers their results, publishers reference values.

attest verifier-key, attest check-result, attest sign-reference-values.
"""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.collateral import parse_time
from privacy.cli.output import as_object, out, print_json, print_one, safe, table
from privacy.errors import FormatError, PrivacyError
from privacy.files import default_home, write_atomic
from privacy.jws import key_id, public_jwk
from privacy.publisher import load_private_key, publisher_key, trusted_publishers
from privacy.tee.checks import Check, Checklist
from privacy.tee.ear import KEY_FILE, CheckedResult, check_result
from privacy.tee.policy import parse_toml, reference_values
from privacy.tee.reference_values import sign_reference_values

_MAX_BYTES = 1 << 19


def verifier_key(home: Path | None) -> Ed25519PrivateKey:
    """Return the key that signs Attestation Results, made on first use."""
    return load_private_key((home or default_home()) / KEY_FILE)


def write_result(token: str, target: str) -> None:
    """Write a token to a file, or to standard output for `-`."""
    if target == "-":
        sys.stdout.write(token + "\n")
    else:
        write_atomic(Path(target), token.encode() + b"\n")


def print_checks(checks: list[Check]) -> None:
    """Print the lines of a verdict as a table."""
    rows = [
        [c.name, "pass" if c.ok else "FAIL", c.found, c.expected, c.code]
        for c in checks
    ]
    table("checks", ["check", "result", "found", "expected", "code"], rows)


def refuse(exc: PrivacyError, checks: Checklist, *, as_json: bool) -> NoReturn:
    """Print the lines of a verdict that was refused, and end with its exit code."""
    if not as_json:
        print_checks(checks.lines)
        raise exc
    lines = [asdict(c) for c in checks.lines]
    print_json({"error": as_object(exc), "checks": lines})
    raise typer.Exit(exc.exit_code) from exc


@command("attest verifier-key")
def verifier_key_(
    export: Annotated[
        Path | None,
        typer.Option(help="Write the public key there, for relying parties."),
    ] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the key that signs your Attestation Results; the first use makes it."""
    public_key = verifier_key(home).public_key()
    jwk = public_jwk(public_key)
    if export:
        write_atomic(export, json.dumps(jwk, indent=1).encode() + b"\n")
    print_one(
        {"key_id": key_id(public_key), "jwk": jwk},
        f"verifier {key_id(public_key)}",
        as_json=as_json,
    )


@command("attest sign-reference-values")
def sign_reference_values_(
    file: Annotated[
        Path, typer.Argument(help="TOML with the tables [measurements.FORMAT].")
    ],
    output: Annotated[Path, typer.Option(help="Where the manifest goes.")],
    days: Annotated[int, typer.Option(help="How long it counts.", min=1)] = 90,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Sign reference values with your publisher key, for policies that name it."""
    value = parse_toml(_read(file), what="the reference values")
    if set(value) != {"measurements"}:
        msg = f"{file} holds {', '.join(value) or 'nothing'}, expected measurements"
        raise FormatError(msg, code="bad-policy")
    key, now = publisher_key(home or default_home()), datetime.now(UTC)
    manifest = sign_reference_values(
        reference_values(value["measurements"]),
        key,
        issued_at=now,
        expires_at=now + timedelta(days=days),
    )
    write_atomic(output, manifest.encode() + b"\n")
    signer = key_id(key.public_key())
    print_one(
        {"signer": signer, "file": str(output)},
        f"{safe(output)}, by {signer}: name it in reference_value_signers",
        as_json=as_json,
    )


@command("attest check-result")
def check_result_(
    file: Annotated[Path, typer.Argument(help="The token, from `--ear`.")],
    verifier: Annotated[
        list[Path],
        typer.Option(help="Public key of a Verifier you trust; repeatable."),
    ],
    nonce: Annotated[
        str, typer.Option(help="That you gave the Verifier; must be in the token.")
    ] = "",
    allow_warning: Annotated[
        bool,
        typer.Option("--allow-warning", help="Accept hardware with known weaknesses."),
    ] = False,
    allow_simulated: Annotated[
        bool,
        typer.Option("--allow-simulated", help="Accept what proves nothing."),
    ] = False,
    at: Annotated[
        str | None, typer.Option(help="When it must count, RFC 3339; now by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an Attestation Result that another made: exit 6 refused."""
    token, checks = _read(file), Checklist()
    now = datetime.now(UTC) if at is None else parse_time(at)
    verifiers = [key for path in verifier for key in _keys(path)]
    try:
        result = check_result(
            token,
            verifiers,
            now=now,
            nonce=nonce,
            allow_warning=allow_warning,
            allow_simulated=allow_simulated,
            checks=checks,
        )
    except PrivacyError as exc:
        refuse(exc, checks, as_json=as_json)
    if as_json:
        lines = [asdict(c) for c in checks.lines]
        print_json({"verdict": "accepted", "checks": lines, **_summary(result)})
        return
    rows = [[name, str(value)] for name, value in _rows(result)]
    table("attestation result", ["claim", "value"], rows)
    print_checks(checks.lines)
    if result.simulated:
        out.print("[bold yellow]SIMULATED[/]: proves nothing")
    out.print(f"[bold green]accepted[/]: {safe(result.status)}")


def _summary(result: CheckedResult) -> dict[str, object]:
    return {
        "status": result.status,
        "simulated": result.simulated,
        "issued_at": result.issued_at.isoformat(),
        "claims": result.claims,
    }


def _rows(result: CheckedResult) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("status", result.status),
        ("issued at", result.issued_at.isoformat()),
    ]
    for name, part in result.claims["submods"].items():
        said = part.get("ear_attester_claims", {}) | part["ear_trustworthiness_vector"]
        rows += [(f"{name} {k}", v) for k, v in said.items() if v not in ("", {}, None)]
    return rows


def _keys(path: Path) -> list[Ed25519PublicKey]:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    keys = list(trusted_publishers(path).values())
    if not keys:
        raise FormatError(f"{path} holds no public key: see attest verifier-key")
    return keys


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
