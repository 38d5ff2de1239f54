"""Commands that put models and enclaves on a chain: chain account, deploy, …."""

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from privacy.bundle import open_bundle
from privacy.chain.account import create_keystore
from privacy.chain.config import write_config
from privacy.chain.contracts import deploy_all
from privacy.chain.enclaves import attest_enclave
from privacy.chain.enclaves import revoke as revoke_enclave
from privacy.chain.enclaves import vouch as vouch_for
from privacy.chain.models import register_model
from privacy.chain.rpc import Rpc
from privacy.cli.app import AsJson, Gateway, command
from privacy.cli.chain_common import (
    DEFAULT_CHAIN,
    DEFAULT_FOLDER,
    DEFAULT_KEYSTORE,
    ChainFile,
    Keystore,
    MaxFee,
    evidence_of,
    model_id_of,
    open_chain,
    password,
    sender_of,
)
from privacy.cli.output import out, print_json, print_one, progress, safe
from privacy.errors import ConflictError, FormatError


@command("chain account")
def account(
    keystore: Keystore = DEFAULT_KEYSTORE,
    import_key: Annotated[
        bool, typer.Option(help="Take the private key in $PRIVACY_CHAIN_KEY.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an account for transactions; its key is kept encrypted."""
    key = None
    if import_key:
        try:
            text = os.environ.get("PRIVACY_CHAIN_KEY", "")
            key = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise FormatError("$PRIVACY_CHAIN_KEY is not hex") from None
    address = create_keystore(keystore, password(confirm=True), key=key)
    print_one(
        {"address": address, "keystore": str(keystore)},
        f"account {address}, its key encrypted in {safe(keystore)}",
        as_json=as_json,
    )


@command("chain deploy")
def deploy(
    rpc: Annotated[str, typer.Option(help="Address of the chain's node.")],
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    authority: Annotated[
        str, typer.Option(help="Who vouches for enclaves; else the account.")
    ] = "",
    confirmations: Annotated[
        int, typer.Option(min=0, help="Blocks until a block is believed.")
    ] = 12,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Deploy our contracts on a chain, and write the chain's file."""
    if chain.exists():
        msg = f"{chain} exists: the contracts are deployed; choose another --chain"
        raise ConflictError(msg, code="chain-exists")
    with closing(Rpc(rpc)) as node, progress(quiet=as_json) as notify:
        notify({"stage": "deploy"})
        sender = sender_of(node, keystore, node.chain_id(), max_fee_gwei)
        config = deploy_all(
            sender,
            node,
            authority=authority or sender.address,
            confirmations=confirmations,
            url=rpc,
        )
    write_config(chain, config)
    if as_json:
        print_json({"chain_id": config.chain_id, "contracts": config.contracts})
        return
    for name, address in config.contracts.items():
        out.print(f"{name}: {safe(address)}")
    out.print(f"[dim]chain {config.chain_id}, kept in {safe(chain)}[/]")


@command("chain register")
def register(
    bundle: Annotated[Path, typer.Argument(help="The model's folder.")],
    verifier: Annotated[
        Path | None,
        typer.Option(
            help="What `zk solidity` wrote; without it, only enclaves answer."
        ),
    ] = None,
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    reusable: Annotated[
        str, typer.Option(help="Address of a reusable verifier that is there.")
    ] = "",
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Register a model on the chain, its verifier deployed before."""
    with open_chain(chain) as (config, node), progress(quiet=as_json) as notify:
        notify({"stage": "register"})
        sender = sender_of(node, keystore, config.chain_id, max_fee_gwei)
        model_id, changed = register_model(
            sender, node, config, open_bundle(bundle), verifier, verifier=reusable
        )
    write_config(chain, changed)
    if as_json:
        address = changed.models[model_id.hex()].verifier
        print_json({"model_id": model_id.hex(), "verifier": address})
    else:
        out.print(f"model {model_id.hex()}")


@command("chain vouch")
def vouch(
    model_id: Annotated[str, typer.Argument(help="As `chain register` printed it.")],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    folder: Annotated[
        Path, typer.Option(help="Where the attestation result is kept.")
    ] = DEFAULT_FOLDER,
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    gateway: Gateway = None,
    valid_s: Annotated[
        int, typer.Option(min=1, help="Until the key is worth nothing.")
    ] = 30 * 86_400,
    allow_simulated: Annotated[
        bool, typer.Option(help="Vouch, with that flag, for an enclave that is none.")
    ] = False,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Verify an enclave's evidence and register its key, as the authority."""
    asked, model = model_id_of(model_id), open_bundle(bundle, check_files=False)
    nonce, evidence = evidence_of(gateway, model)
    attested = attest_enclave(
        model,
        evidence,
        nonce=nonce,
        now=datetime.now(UTC),
        allow_simulated=allow_simulated,
    )
    with open_chain(chain) as (config, node):
        sender = sender_of(node, keystore, config.chain_id, max_fee_gwei)
        made = vouch_for(
            sender, node, config, asked, model, attested, valid_s=valid_s, folder=folder
        )
    if as_json:
        print_json(
            {
                "enclave": made.address,
                "expires": made.expires,
                "simulated": made.simulated,
                "result_sha256": made.result_sha256,
            }
        )
        return
    worth = "SIMULATED, proves nothing" if made.simulated else "hardware"
    out.print(f"enclave {made.address} ({worth}); why, in {safe(made.path)}")


@command("chain revoke")
def revoke(
    enclave: Annotated[str, typer.Argument(help="Its key's address.")],
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Withdraw an enclave's key for good, as the authority."""
    with open_chain(chain) as (config, node):
        sender = sender_of(node, keystore, config.chain_id, max_fee_gwei)
        revoke_enclave(sender, node, config, enclave)
    print_one({"revoked": enclave}, f"revoked {safe(enclave)}", as_json=as_json)
