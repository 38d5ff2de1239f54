"""Commands of who keeps the keys of sealed models: broker serve, list, log, revoke."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy.broker import Broker, Decisions, Deposits, KeyPolicy, parse_key_policy
from privacy.cli.address import check_free
from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.attest_results import verifier_key, write_result
from privacy.cli.output import out, print_json, print_one, safe, table
from privacy.cli.passphrase import passphrase_from
from privacy.client.passphrase import Unlock
from privacy.errors import FormatError, NotFoundError, UnavailableError
from privacy.files import default_home
from privacy.jws import key_id, public_jwk
from privacy.tee.collateral import kept_in

if TYPE_CHECKING:
    from privacy.publish.seal import Seal

_WHAT = "the keys of sealed models"
_MAX_BYTES = 1 << 20
BrokerPassphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File whose first line is the passphrase of the keys of sealed models; "
        "else $PRIVACY_PASSPHRASE, else it is asked for.",
    ),
]


def deposits_in(home: Path | None, passphrase_file: Path | None = None) -> Deposits:
    """Return the keys of sealed models in a home."""
    unlock = Unlock(passphrase_from(passphrase_file, what=_WHAT))
    return Deposits(home or default_home(), unlock)


def seal_from(
    broker: str,
    *,
    policy: Path | None,
    allow_simulated: bool,
    passphrase_file: Path | None,
    home: Path | None,
) -> "Seal | None":
    """Return how `publish` seals, once all that it needs is known to be there."""
    if not broker:
        if policy or allow_simulated or passphrase_file:
            msg = "--seal-policy, --allow-simulated and --passphrase-file need --seal"
            raise FormatError(msg, code="usage")
        return None
    from privacy.publish.seal import Seal

    held = _policy(policy, allow_simulated=allow_simulated)
    deposits = deposits_in(home, passphrase_file)
    deposits.check_can_open()
    return Seal(broker, lambda bundle, key: deposits.add(bundle, key, held))


def _policy(path: Path | None, *, allow_simulated: bool) -> KeyPolicy:
    raw = b""
    if path is not None:
        if not path.is_file():
            raise FormatError(f"there is no file {path}", code="no-such-file")
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    return parse_key_policy(raw, allow_simulated=allow_simulated)


@command("broker serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8401,
    passphrase_file: BrokerPassphrase = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give keys of sealed models to enclaves that their publishers' policies accept."""
    try:
        from gateway.broker import run_broker
    except ImportError as exc:
        msg = "the broker is not installed: pip install 'privacy-compute[gateway]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    root = home or default_home()
    deposits = deposits_in(home, passphrase_file)
    deposits.check_can_open()
    check_free(host, port)
    key = verifier_key(home)
    signer, url = key_id(key.public_key()), f"http://{host}:{port}"
    print_one(
        {"broker": url, "verifier": signer, "keys": len(deposits.all())},
        f"key broker on {url}, decisions signed by {signer}",
        as_json=as_json,
    )
    broker = Broker(
        deposits, Decisions(root), key, collateral=kept_in(root / "collateral")
    )
    run_broker(broker, verifier=public_jwk(key.public_key()), host=host, port=port)


@command("broker list")
def list_(home: HomeDir = None, as_json: AsJson = False) -> None:
    """List the keys of sealed models that are kept here, revoked ones too."""
    found = deposits_in(home).all()
    if as_json:
        print_json({"keys": [asdict(d) for d in found]})
        return
    rows = [
        [
            d.model,
            d.model_sha256[:16],
            d.deposited_at[:16],
            "SIMULATED too" if d.allow_simulated else "hardware",
            f"revoked {d.revoked_at[:16]}" if d.revoked_at else "kept",
        ]
        for d in found
    ]
    table("", ["model", "digest", "deposited", "enclaves", "key"], rows)


@command("broker log")
def log(
    model: Annotated[str, typer.Option(help="Only of NAME/VERSION or a digest.")] = "",
    ear: Annotated[
        str,
        typer.Option(help="Write the newest one's signed token there; - for stdout."),
    ] = "",
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what the broker decided, the oldest first; check tokens elsewhere."""
    found = [
        d
        for d in Decisions(home or default_home()).all()
        if model in {"", d.model, d.model_sha256}
    ]
    if ear:
        if not found:
            msg = f"the broker decided nothing{' on ' + model if model else ''} yet"
            raise NotFoundError(msg, code="no-decision")
        if as_json and ear == "-":
            raise FormatError("give --json or --ear -, not both", code="usage")
        write_result(found[-1].ear, ear)
    if as_json:
        print_json({"decisions": [asdict(d) for d in found]})
    elif ear != "-":
        rows = [
            [d.at[:19], d.model, "released" if d.released else "REFUSED", d.code]
            for d in found
        ]
        table("", ["at", "model", "key", "code"], rows)


@command("broker revoke")
def revoke(
    model: Annotated[str, typer.Argument(help="NAME/VERSION, or the model digest.")],
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Erase a model's key for good; enclaves that have it keep it until they end."""
    gone = deposits_in(home).revoke(model)
    if as_json:
        print_json(asdict(gone))
        return
    out.print(
        f"revoked the key of {safe(gone.model)}: no enclave gets it any more. Those "
        "that run have it until they end; publish the model again to serve it again.",
        soft_wrap=True,
    )
