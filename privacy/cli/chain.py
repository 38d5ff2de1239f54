"""Commands for smart contracts: chain account, deploy, register, request, …."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.bundle import Bundle, open_bundle, standardise
from privacy.chain.account import create_keystore, open_keystore
from privacy.chain.config import (
    ChainConfig,
    ServedModel,
    read_config,
    write_config,
)
from privacy.chain.contracts import check_chain, contract, deploy_all
from privacy.chain.enclaves import attest_enclave
from privacy.chain.enclaves import revoke as revoke_enclave
from privacy.chain.enclaves import vouch as vouch_for
from privacy.chain.inputs import Input, seal_to_enclave
from privacy.chain.inputs import make_input as commit_to
from privacy.chain.models import (
    ATTESTATION,
    EVIDENCE,
    OrderOptions,
    answer_of,
    input_path,
    register_model,
    request_inference,
    served_model,
    verify_on_chain,
)
from privacy.chain.rpc import Rpc
from privacy.chain.sender import GWEI, Prices, Sender
from privacy.cli.app import AsJson, Gateway, command
from privacy.cli.output import err, out, print_json, print_one, progress, safe
from privacy.encoding import Json, finite_rows
from privacy.errors import (
    AuthError,
    ConflictError,
    FormatError,
    UnavailableError,
)
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.runs import MAX_ROWS
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.params import parse_params

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
    address = create_keystore(keystore, _password(confirm=True), key=key)
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
        sender = _sender(node, keystore, node.chain_id(), max_fee_gwei)
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
    with _chain(chain) as (config, node), progress(quiet=as_json) as notify:
        notify({"stage": "register"})
        sender = _sender(node, keystore, config.chain_id, max_fee_gwei)
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
    asked, model = _model_id(model_id), open_bundle(bundle, check_files=False)
    nonce, evidence = _evidence(gateway, model)
    attested = attest_enclave(
        model,
        evidence,
        nonce=nonce,
        now=datetime.now(UTC),
        allow_simulated=allow_simulated,
    )
    with _chain(chain) as (config, node):
        sender = _sender(node, keystore, config.chain_id, max_fee_gwei)
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
    with _chain(chain) as (config, node):
        sender = _sender(node, keystore, config.chain_id, max_fee_gwei)
        revoke_enclave(sender, node, config, enclave)
    print_one({"revoked": enclave}, f"revoked {safe(enclave)}", as_json=as_json)


@command("chain input")
def input_(
    bundle: Annotated[Path, typer.Argument(help="The model's folder.")],
    row: Annotated[Path, typer.Option("--input", help="One row of raw features.")],
    folder: HandOver = None,
    chain: ChainFile = DEFAULT_CHAIN,
    evidence: Wanted = "proof",
    gateway: Gateway = None,
    allow_simulated: AllowSimulated = False,
    as_json: AsJson = False,
) -> None:
    """Hand an input over, for a request that a contract makes; print its commitment."""
    model = open_bundle(bundle, check_files=False)
    options = OrderOptions(evidence=_wanted(evidence), allow_simulated=allow_simulated)
    given = _read_input(model, row)
    _hand_over(folder, model, given, read_config(chain), options, gateway)
    commitment = given.commitment.hex()
    if as_json:
        elements = [str(v) for v in given.described] if given.is_public else []
        print_json({"input_commitment": commitment, "public_input": elements})
    else:
        out.print(f"input {commitment}")


@command("chain request")
def request(
    model_id: Annotated[str, typer.Argument(help="As `chain register` printed it.")],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    input_: Annotated[Path, typer.Option("--input", help="One row of raw features.")],
    fee: Annotated[int, typer.Option(min=0, help="In wei.")],
    folder: HandOver = None,
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    evidence: Wanted = "proof",
    gateway: Gateway = None,
    callback: Annotated[str, typer.Option(help="Contract to call.")] = "",
    callback_gas: Annotated[int, typer.Option(min=0)] = 0,
    valid_s: Annotated[int, typer.Option(min=1, help="Until the refund.")] = 3600,
    provider: Annotated[str, typer.Option(help="Who alone may answer.")] = "",
    allow_insecure_srs: Annotated[
        bool, typer.Option(help="Accept a model whose publisher could forge.")
    ] = False,
    allow_simulated: AllowSimulated = False,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Ask a model on chain about one row; the input is handed over, its hash asked."""
    asked, model = _model_id(model_id), open_bundle(bundle, check_files=False)
    options = OrderOptions(
        callback=callback,
        callback_gas=callback_gas,
        valid_s=valid_s,
        provider=provider,
        evidence=_wanted(evidence),
        allow_insecure_srs=allow_insecure_srs,
        allow_simulated=allow_simulated,
    )
    given = _read_input(model, input_)
    with _chain(chain) as (config, node):
        _hand_over(folder, model, given, config, options, gateway)
        sender = _sender(node, keystore, config.chain_id, max_fee_gwei)
        made = request_inference(
            sender,
            node,
            config,
            asked,
            given,
            fee=fee,
            options=options,
        )
    commitment = given.commitment.hex()
    print_one(
        {"request_id": made, "input_commitment": commitment},
        f"request {made}, input {commitment}",
        as_json=as_json,
    )


@command("chain deliver")
def deliver(
    request_id: Annotated[int, typer.Argument(min=1)],
    evidence: Annotated[Path, typer.Option(help="The proof, beside a receipt.")],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    chain: ChainFile = DEFAULT_CHAIN,
    keystore: Keystore = DEFAULT_KEYSTORE,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Answer a request with a proof of your own."""
    proof = _proof(open_bundle(bundle, check_files=False), evidence)
    with _chain(chain) as (config, node):
        coordinator = contract(node, config, "coordinator")
        asked = coordinator.view("getRequest", request_id)
        served = served_model(config, asked["modelId"])
        sender = _sender(node, keystore, config.chain_id, max_fee_gwei)
        answer = answer_of(proof, served)
        receipt = coordinator.send(sender, "deliver", request_id, answer)
        found = {
            "transaction": receipt["transactionHash"],
            "gas_used": int(receipt["gasUsed"], 16),
            "credit_wei": coordinator.view("credit", sender.address),
        }
    print_one(
        found,
        f"delivered in {found['transaction']}, {found['gas_used']:,} gas",
        as_json=as_json,
    )


@command("chain verify")
def verify(
    model_id: Annotated[str, typer.Argument(help="As `chain register` printed it.")],
    evidence: Annotated[Path, typer.Option(help="The proof, beside a receipt.")],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    chain: ChainFile = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Have the chain check a proof, without a transaction."""
    asked = _model_id(model_id)
    model = open_bundle(bundle, check_files=False)
    proof = _proof(model, evidence)
    with _chain(chain) as (config, node):
        outputs = verify_on_chain(node, config, asked, proof)
    bits = parse_params(model.manifest.mode(Mode.ZKML).params).output_scale_bits
    values = [v / 2.0**bits for v in outputs]
    print_one(
        {"outputs": values},
        f"the chain accepts the proof; outputs {values}",
        as_json=as_json,
    )


@command("chain watch")
def watch(
    chain: Annotated[
        list[Path] | None, typer.Option(help="A chain's file; repeatable.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder of published models.")] = Path(
        "var/gateway/models"
    ),
    folder: Annotated[
        Path, typer.Option(help="Inputs, receipts and state.")
    ] = DEFAULT_FOLDER,
    keystore: Keystore = DEFAULT_KEYSTORE,
    gateway: Gateway = None,
    least_fee: Annotated[int, typer.Option(min=0, help="In wei.")] = 0,
    allow_loss: Annotated[
        bool, typer.Option(help="Answer also where gas costs more than the fee.")
    ] = False,
    trigger: Annotated[
        bool, typer.Option(help="Trigger rounds of subscriptions that are due.")
    ] = False,
    every_s: Annotated[float, typer.Option(min=0.1)] = 4.0,
    once: Annotated[
        bool, typer.Option(help="End when no request is open any more.")
    ] = False,
    max_fee_gwei: MaxFee = 500.0,
    as_json: AsJson = False,
) -> None:
    """Answer the requests of contracts, with proofs from a gateway."""
    from gateway.chain.watcher import Terms, Watcher, bundles_in
    from gateway.lock import FolderLock

    lock = FolderLock(folder)
    with ExitStack() as stack:
        stack.callback(lock.release)
        jobs = _gateway_jobs(gateway)
        terms = Terms(
            folder, least_fee=least_fee, allow_loss=allow_loss, trigger=trigger
        )
        watchers = []
        for file in chain or [DEFAULT_CHAIN]:
            config, node = stack.enter_context(_chain(file))
            watcher = Watcher(
                config,
                rpc=node,
                sender=_sender(node, keystore, config.chain_id, max_fee_gwei),
                jobs=jobs,
                bundles=bundles_in(store),
                terms=terms,
                notify=_news(as_json=as_json),
            )
            stack.callback(watcher.close)
            watchers.append(watcher)
        while _rounds(watchers) or not once:
            time.sleep(every_s)
    if as_json:
        print_json({"open": 0})


def _rounds(watchers: list[Any]) -> int:
    """Give each watcher its round; one whose node is away must not stop the others."""
    still_open = 0
    for watcher in watchers:
        try:
            still_open += watcher.round()
        except UnavailableError as exc:
            err.print(f"… {safe(exc.message)}", soft_wrap=True)
            still_open += 1
    return still_open


def _news(*, as_json: bool) -> Any:
    def tell(event: Json) -> None:
        what = "request" if "request" in event else "subscription"
        words = [f"{what} {event[what]} {event['stage']}"]
        words += [
            f"{k} {v}" for k, v in event.items() if k in {"reason", "transaction"}
        ]
        line = json.dumps(event) if as_json else ", ".join(words)
        err.print(safe(line), soft_wrap=True)

    return tell


def _gateway_jobs(gateway: str | None) -> Any:
    from gateway.chain.jobs import GatewayJobs
    from privacy.client import Client

    with Client(gateway) as client:
        if not client.api_key:
            raise AuthError("no API key: set PRIVACY_API_KEY, or run `privacy login`")
        return GatewayJobs(client.gateway, client.api_key)


@contextmanager
def _chain(path: Path) -> Iterator[tuple[ChainConfig, Rpc]]:
    """Give a chain's configuration and its node, after a look at whose node it is."""
    config = read_config(path)
    with closing(Rpc(config.rpc)) as node:
        check_chain(node, config)
        yield config, node


def _sender(node: Rpc, keystore: Path, chain_id: int, max_fee_gwei: float) -> Sender:
    signer = open_keystore(keystore, _password())
    prices = Prices(max_fee_per_gas=int(max_fee_gwei * GWEI))
    return Sender(node, signer, chain_id=chain_id, prices=prices)


def _password(*, confirm: bool = False) -> str:
    given = os.environ.get("PRIVACY_CHAIN_PASSWORD")
    if given is not None:
        return given
    asked = "password of the keystore"
    typed: str = typer.prompt(
        asked, hide_input=True, confirmation_prompt=confirm, err=True
    )
    return typed


def _model_id(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:  # noqa: PLR2004 - bytes32
        raise FormatError("a model id is 64 hex digits, as `chain register` prints it")
    return raw


def _read_input(bundle: Bundle, path: Path) -> Input:
    """Return the one row of raw features in a file, committed to."""
    from privacy.client.rows import read_rows

    columns = bundle.manifest.columns
    rows = read_rows(path, [c.name for c in columns])
    rows = finite_rows(rows, columns=len(columns), max_rows=MAX_ROWS)
    if len(rows) != 1:
        raise FormatError(f"{path} has {len(rows)} rows, a request takes exactly one")
    return commit_to(bundle, standardise(rows, columns)[0].tolist())


def _hand_over(
    folder: Path | None,
    bundle: Bundle,
    given: Input,
    config: ChainConfig,
    options: OrderOptions,
    gateway: str | None,
) -> None:
    """Give the input to who answers: in the clear to prove, else sealed."""
    if given.is_public:
        return
    is_sealed, body = options.evidence == ATTESTATION, given.blob
    if is_sealed:
        nonce, evidence = _evidence(gateway, bundle)
        body = seal_to_enclave(
            bundle,
            given,
            evidence,
            nonce=nonce,
            config=config,
            now=datetime.now(UTC),
            allow_simulated=options.allow_simulated,
        )
    if folder is not None:
        path = input_path(folder, given.commitment, sealed=is_sealed)
        write_atomic(path, body, private=True)
        return
    jobs = _gateway_jobs(gateway)
    jobs.hand_over(_named(bundle), given.commitment, body, sealed=is_sealed)


def _evidence(gateway: str | None, bundle: Bundle) -> tuple[bytes, bytes]:
    """Return a fresh nonce, and the evidence of a model's enclave for it."""
    nonce = os.urandom(32)
    return nonce, _gateway_jobs(gateway).attest(_named(bundle), nonce)


def _named(bundle: Bundle) -> ServedModel:
    manifest = bundle.manifest
    return ServedModel(manifest.name, manifest.version, bundle.sha256, "", "")


def _wanted(evidence: str) -> int:
    if evidence not in EVIDENCE:
        raise FormatError(f"--evidence is one of {', '.join(EVIDENCE)}", code="usage")
    return EVIDENCE[evidence]


def _proof(bundle: Bundle, evidence: Path) -> Proof:
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    proofs = parse_evidence(
        evidence.read_bytes(),
        instances=len(params.instances),
        proof_bytes=params.proof_bytes,
    ).proofs
    if len(proofs) != 1:
        raise FormatError(f"the evidence has {len(proofs)} proofs, expected one")
    return proofs[0]
