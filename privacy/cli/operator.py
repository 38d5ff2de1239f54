"""Commands of publishers and operators: publish, serve."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.activations import ACTIVATIONS
from privacy.cli.address import check_free
from privacy.cli.app import (
    AsJson,
    Commit,
    Hide,
    HomeDir,
    Salt,
    Show,
    command,
)
from privacy.cli.broker import BrokerPassphrase, deposits_in, seal_from
from privacy.cli.circuit import circuit_lines, show_circuit
from privacy.cli.output import duration, out, print_json, progress, safe, size, table
from privacy.cli.tuning import show_tuning, with_tuning
from privacy.encoding import Json
from privacy.errors import FormatError, UnavailableError
from privacy.fhe.options import GOALS
from privacy.modes import Mode, parse_mode

DEFAULT_DATA = Path("var/gateway")


@command("publish")
def publish(
    model: Annotated[
        Path, typer.Argument(help=".joblib, .pkl, .skops, .pt (TorchScript) or .onnx.")
    ],
    data: Annotated[
        Path, typer.Option(help="Calibration rows, raw: .csv with a header, or .npy.")
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    store: Annotated[Path, typer.Option(help="Folder of published models.")] = (
        DEFAULT_DATA / "models"
    ),
    version: Annotated[str | None, typer.Option(help="Else the next number.")] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="Only this mode; may be repeated.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="CSV column with the true class.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Class names in output order, comma separated.")
    ] = "",
    task: Annotated[
        str, typer.Option(help="For networks: classification or regression.")
    ] = "",
    activation: Annotated[
        str, typer.Option(help=f"For networks: {', '.join(ACTIVATIONS)}.")
    ] = "",
    options: Annotated[
        str, typer.Option(help='JSON by mode: \'{"zkml": {"objective": "gas"}}\'.')
    ] = "{}",
    hide: Hide = None,
    commit: Commit = None,
    show: Show = None,
    salt: Salt = False,
    srs: Annotated[
        str,
        typer.Option(help="For proofs: development, download, or a ceremony's file."),
    ] = "",
    tune: Annotated[
        str,
        typer.Option(help="Search FHE circuits for: speed, balanced or accuracy."),
    ] = "",
    max_loss: Annotated[
        float | None,
        typer.Option(min=0.0, help="Points --tune may lose: else 2, 1 or none."),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="FHE: let one look-up in 16,384 err, for speed."),
    ] = False,
    seal: Annotated[
        str,
        typer.Option(
            help="Encrypt the model; its key goes to the broker at this address."
        ),
    ] = "",
    seal_policy: Annotated[
        Path | None,
        typer.Option(help="Which enclaves get the key, TOML; else this machine's."),
    ] = None,
    allow_simulated: Annotated[
        bool,
        typer.Option(
            "--allow-simulated", help="Give the key to enclaves that hide nothing."
        ),
    ] = False,
    passphrase_file: BrokerPassphrase = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Compile a trained model once, for every privacy mode that can serve it."""
    from privacy.publish import publish as compile_bundle
    from privacy.publish.seal import shown_by

    sealing = seal_from(
        seal,
        policy=seal_policy,
        allow_simulated=allow_simulated,
        passphrase_file=passphrase_file,
        home=home,
    )
    seen = {"hide": hide, "commit": commit, "show": show, "salt": salt, "srs": srs}
    with progress(quiet=as_json) as notify:
        bundle = compile_bundle(
            model,
            data,
            name=name,
            store=store,
            version=version,
            modes=[parse_mode(m) for m in mode] if mode else None,
            label=label,
            classes=[c.strip() for c in classes.split(",") if c.strip()],
            task=_one_of(task, ("classification", "regression"), "--task"),
            activation=_one_of(activation, ACTIVATIONS, "--activation"),
            options=with_tuning(
                _options(options, **seen),
                tune=_one_of(tune, tuple(GOALS), "--tune"),
                max_loss=max_loss,
                fast=fast,
            ),
            seal=sealing,
            home=home,
            progress=notify,
        )
    m = bundle.manifest
    shown = shown_by([k for k, p in m.modes.items() if p.available])
    to_simulated = seal and deposits_in(home).find(bundle.sha256).allow_simulated
    sealed = {"broker": seal, "weights_in": shown, "allow_simulated": to_simulated}
    if as_json:
        print_json(
            {
                "name": m.name,
                "version": m.version,
                "model_sha256": bundle.sha256,
                "publisher": bundle.publisher,
                "path": str(bundle.root),
                "clear_accuracy": m.clear_accuracy,
                **({"sealed": sealed} if seal else {}),
                "modes": {
                    k: {
                        "available": p.available,
                        "reason": p.reason,
                        "accuracy": p.accuracy,
                        "cost": p.cost,
                        "tuned": p.params.get("tuned"),
                        "p_error": p.params.get("p_error"),
                        "circuit": circuit_lines(p.params),
                    }
                    for k, p in m.modes.items()
                },
            }
        )
        return
    head = f"published [bold]{m.name}/{m.version}[/], sha256 {bundle.sha256}"
    out.print(head, soft_wrap=True)
    rows = []
    for k, p in m.modes.items():
        agree = p.accuracy.get("label_agreement")
        rows.append(
            [
                k,
                "yes" if p.available else f"no: {p.reason}",
                "" if agree is None else f"{agree:.1%}",
                f"{p.accuracy['max_error']:.2g}" if p.available else "",
                duration(p.cost["latency_s"]) if p.available else "",
            ]
        )
    total = sum(f.bytes for f in m.files.values())
    table("", ["mode", "served", "labels agree", "max error", "a row"], rows)
    show_circuit(m.modes[Mode.FHE].params)
    show_tuning(m.modes[Mode.FHE].params)
    if seal:
        text = f"sealed: enclaves get the key from {safe(seal)} (privacy broker serve)"
        out.print(text, soft_wrap=True)
        if to_simulated:
            text = "[bold yellow]the weights are not hidden[/] from who runs a node: "
            text += "SIMULATED enclaves get the key, too"
            out.print(text, soft_wrap=True)
    for k, why in shown.items() if seal else ():
        text = f"[bold yellow]the weights are not hidden[/] by mode {k}: {why}"
        out.print(text, soft_wrap=True)
    signed = f"signed by publisher {bundle.publisher}"
    out.print(f"[dim]{size(total)} in {safe(bundle.root)}, {signed}[/]", soft_wrap=True)


def _one_of(value: str, allowed: tuple[str, ...], option: str) -> str:
    if value and value not in allowed:
        raise FormatError(f"{option} is {value!r}, expected {' or '.join(allowed)}")
    return value


def _options(text: str, **seen: list[str] | bool | str | None) -> dict[Mode, Json]:
    """Return options by mode; what proofs show and hide is the mode zkml's."""
    try:
        value: Any = json.loads(text)
        found = {parse_mode(k): dict(v) for k, v in value.items()}
    except (ValueError, TypeError, AttributeError) as exc:
        msg = "--options is not a JSON object of objects by mode"
        raise FormatError(msg) from exc
    zkml = {word: names for word, names in seen.items() if names}
    if zkml:
        found[Mode.ZKML] = {**found.get(Mode.ZKML, {}), **zkml}
    return found


@command("serve")
def serve(
    data: Annotated[
        Path, typer.Option(help="Where the gateway keeps its state.")
    ] = DEFAULT_DATA,
    store: Annotated[
        Path | None, typer.Option(help="Published models; else DATA/models.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8400,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Serve https with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="Serve only clients with a certificate of these."),
    ] = None,
    trust_publisher: Annotated[
        list[Path] | None,
        typer.Option(help="Load this publisher's bundles too: a public key file."),
    ] = None,
    allow_unsigned_bundles: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned-bundles", help="Load bundles that nobody signed."
        ),
    ] = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a gateway. Its first start prints an admin API key, once."""
    try:
        from gateway.app import run
        from gateway.settings import load_settings
    except ImportError as exc:
        msg = "the gateway is not installed: pip install 'privacy-compute[gateway]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    chosen: Json = {"home": home} if home else {}
    if trust_publisher:
        chosen["trusted_publishers"] = tuple(trust_publisher)
    if allow_unsigned_bundles:
        chosen["allow_unsigned_bundles"] = True
    tls = {"cert": tls_cert, "key": tls_key, "client_ca": tls_client_ca}
    chosen |= {f"tls_{name}": path for name, path in tls.items() if path}
    settings = load_settings(
        data_dir=data,
        models_dir=store or data / "models",
        host=host,
        port=port,
        **chosen,
    )
    check_free(host, port)
    url = f"http{'s' if settings.tls else ''}://{host}:{port}"

    def announce(first_key: str | None) -> None:
        if as_json:
            typer.echo(json.dumps({"gateway": url, "admin_key": first_key}))
        elif first_key:
            out.print(
                "first start: this is the admin API key. It is shown once, keep it "
                f"safe:\n  [bold]{first_key}[/]\nnext: privacy login {url}",
                soft_wrap=True,
            )

    run(settings, announce=announce)
