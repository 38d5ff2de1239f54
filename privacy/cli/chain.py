"""Commands of who asks through a contract: chain input, request, deliver, verify."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from privacy.bundle import Bundle, open_bundle, standardise
from privacy.chain.config import ChainConfig, read_config
from privacy.chain.contracts import contract
from privacy.chain.inputs import Input, seal_to_enclave
from privacy.chain.inputs import make_input as commit_to
from privacy.chain.models import (
    ATTESTATION,
    OrderOptions,
    answer_of,
    input_path,
    outcome_of,
    request_inference,
    served_model,
    verify_on_chain,
)
from privacy.cli.app import AsJson, Gateway, command
from privacy.cli.chain_common import (
    DEFAULT_CHAIN,
    DEFAULT_KEYSTORE,
    AllowSimulated,
    ChainFile,
    HandOver,
    Keystore,
    MaxFee,
    Wanted,
    evidence_of,
    gateway_jobs,
    model_id_of,
    named,
    open_chain,
    sender_of,
    wanted,
)
from privacy.cli.output import out, print_json, print_one
from privacy.encoding import finite_rows
from privacy.errors import AppraisalError, FormatError
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.onchain import terms_of
from privacy.runs import MAX_ROWS
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.params import parse_params


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
    options = OrderOptions(evidence=wanted(evidence), allow_simulated=allow_simulated)
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
    asked, model = model_id_of(model_id), open_bundle(bundle, check_files=False)
    options = OrderOptions(
        callback=callback,
        callback_gas=callback_gas,
        valid_s=valid_s,
        provider=provider,
        evidence=wanted(evidence),
        allow_insecure_srs=allow_insecure_srs,
        allow_simulated=allow_simulated,
    )
    if options.evidence != ATTESTATION and not allow_insecure_srs:
        _check_srs(model)
    given = _read_input(model, input_)
    with open_chain(chain) as (config, node):
        _hand_over(folder, model, given, config, options, gateway)
        sender = sender_of(node, keystore, config.chain_id, max_fee_gwei)
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


@command("chain show")
def show(
    request_id: Annotated[int, typer.Argument(min=1)],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    chain: ChainFile = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show what became of a request: open, answered with what, or refunded."""
    bits = terms_of(open_bundle(bundle, check_files=False).manifest).output_bits
    with open_chain(chain) as (config, node):
        found = outcome_of(contract(node, config, "coordinator"), request_id)
    line = f"request {request_id} is {found['state']}"
    if "outputs" in found:
        found["outputs"] = [v / 2.0**bits for v in found["outputs"]]
        line += f" by {found['provider']}: outputs {found['outputs']}"
    print_one(found, line, as_json=as_json)


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
    with open_chain(chain) as (config, node):
        coordinator = contract(node, config, "coordinator")
        asked = coordinator.view("getRequest", request_id)
        served = served_model(config, asked["modelId"])
        sender = sender_of(node, keystore, config.chain_id, max_fee_gwei)
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
    asked = model_id_of(model_id)
    model = open_bundle(bundle, check_files=False)
    proof = _proof(model, evidence)
    with open_chain(chain) as (config, node):
        outputs = verify_on_chain(node, config, asked, proof)
    bits = parse_params(model.manifest.mode(Mode.ZKML).params).output_scale_bits
    values = [v / 2.0**bits for v in outputs]
    print_one(
        {"outputs": values},
        f"the chain accepts the proof; outputs {values}",
        as_json=as_json,
    )


def _check_srs(bundle: Bundle) -> None:
    """Refuse a model whose proofs the contracts will refuse, before its row is sent.

    Raises:
        AppraisalError: The maker of its SRS can forge them.
    """
    if parse_params(bundle.manifest.mode(Mode.ZKML).params).insecure_srs:
        msg = (
            "nothing was sent: the maker of this model's SRS can forge its proofs. Ask "
            "a model under the public one, or accept that with --allow-insecure-srs"
        )
        raise AppraisalError(msg, code="insecure-srs")


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
        nonce, evidence = evidence_of(gateway, bundle)
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
    jobs = gateway_jobs(gateway)
    jobs.hand_over(named(bundle), given.commitment, body, sealed=is_sealed)


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
