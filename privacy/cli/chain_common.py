"""What the commands for smart contracts share: their options, chain, sender."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.bundle import Bundle
from privacy.chain.account import open_keystore
from privacy.chain.config import ChainConfig, ServedModel, read_config
from privacy.chain.contracts import check_chain
from privacy.chain.models import EVIDENCE
from privacy.chain.rpc import Rpc
from privacy.chain.sender import GWEI, Prices, Sender
from privacy.errors import AuthError, FormatError

DEFAULT_CHAIN = Path("var/chain/chain.json")
DEFAULT_KEYSTORE = Path("var/chain/keystore.json")
DEFAULT_FOLDER = Path("var/chain")

ChainFile = Annotated[Path, typer.Option("--chain", help="The chain's file.")]
Keystore = Annotated[
    Path, typer.Option(help="Key of who pays; password: $PRIVACY_CHAIN_PASSWORD.")
]
HandOver = Annotated[
    Path | None,
    typer.Option(help="A watcher's folder for the input; else the gateway gets it."),
]
Wanted = Annotated[
    str, typer.Option(help="What the answer comes with: proof, attestation, both.")
]
AllowSimulated = Annotated[
    bool, typer.Option("--allow-simulated", help="Accept an enclave that is none.")
]
MaxFee = Annotated[
    float, typer.Option(min=0.001, help="Most that a unit of gas may cost, in gwei.")
]


def gateway_jobs(gateway: str | None) -> Any:
    """Return the jobs of a gateway, with the API key of `privacy login`."""
    from gateway.chain.jobs import GatewayJobs
    from privacy.client import Client

    with Client(gateway) as client:
        if not client.api_key:
            raise AuthError("no API key: set PRIVACY_API_KEY, or run `privacy login`")
        return GatewayJobs(client.gateway, client.api_key)


@contextmanager
def open_chain(path: Path) -> Iterator[tuple[ChainConfig, Rpc]]:
    """Give a chain's configuration and its node, after a look at whose node it is."""
    config = read_config(path)
    with closing(Rpc(config.rpc)) as node:
        check_chain(node, config)
        yield config, node


def sender_of(node: Rpc, keystore: Path, chain_id: int, max_fee_gwei: float) -> Sender:
    """Return who signs and pays transactions; asks for the password of its key."""
    signer = open_keystore(keystore, password())
    prices = Prices(max_fee_per_gas=int(max_fee_gwei * GWEI))
    return Sender(node, signer, chain_id=chain_id, prices=prices)


def password(*, confirm: bool = False) -> str:
    """Return the password of the keystore, from the environment or the terminal."""
    given = os.environ.get("PRIVACY_CHAIN_PASSWORD")
    if given is not None:
        return given
    asked = "password of the keystore"
    typed: str = typer.prompt(
        asked, hide_input=True, confirmation_prompt=confirm, err=True
    )
    return typed


def model_id_of(text: str) -> bytes:
    """Return a model id of 32 bytes from its hex digits."""
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:  # noqa: PLR2004 - bytes32
        raise FormatError("a model id is 64 hex digits, as `chain register` prints it")
    return raw


def evidence_of(gateway: str | None, bundle: Bundle) -> tuple[bytes, bytes]:
    """Return a fresh nonce, and the evidence of a model's enclave for it."""
    nonce = os.urandom(32)
    return nonce, gateway_jobs(gateway).attest(named(bundle), nonce)


def named(bundle: Bundle) -> ServedModel:
    """Return how a gateway finds a bundle."""
    manifest = bundle.manifest
    return ServedModel(manifest.name, manifest.version, bundle.sha256, "", "")


def wanted(evidence: str) -> int:
    """Return the number of a kind of evidence in the contracts."""
    if evidence not in EVIDENCE:
        raise FormatError(f"--evidence is one of {', '.join(EVIDENCE)}", code="usage")
    return EVIDENCE[evidence]
