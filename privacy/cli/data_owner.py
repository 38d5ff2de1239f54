"""Commands of the data owner: login, models, modes."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from privacy.bundle import Bundle
from privacy.cli.accepting import AllowUnsigned
from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.circuit import show_circuit
from privacy.cli.output import duration, out, print_json, progress, safe, size, table
from privacy.client import Client
from privacy.encoding import Json, parse_object
from privacy.errors import AuthError, FormatError
from privacy.modes import Mode, modes_table
from privacy.tee.sealed_model import sealing_of
from privacy.tls import TlsFiles


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
    if fhe := m.modes.get(Mode.FHE):
        show_circuit(fhe.params)


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
