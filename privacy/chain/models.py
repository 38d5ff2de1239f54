"""Register a model, ask it, answer, and check a proof, on a chain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.bundle import Bundle
from privacy.chain.abi import Event, Reverted
from privacy.chain.config import ChainConfig, ServedModel
from privacy.chain.contracts import ZERO, contract, deploy_code
from privacy.chain.rpc import Rpc, log_parts
from privacy.chain.sender import Sender
from privacy.encoding import Json, sha256_hex
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.modes import Mode
from privacy.zkml.blobs import Proof
from privacy.zkml.evm import parse_vka, read_facts, register_calldata
from privacy.zkml.field import signed
from privacy.zkml.params import parse_params


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """What a requester chooses; see `Order` in contracts/src/Types.sol.

    Attributes:
        callback: A contract to call with the answer; none if empty.
        callback_gas: How much gas it is given.
        valid_s: Seconds until the fee goes back.
        provider: Who alone may answer; anyone if empty.
        allow_insecure_srs: Accept a model whose publisher could forge proofs.
    """

    callback: str = ""
    callback_gas: int = 0
    valid_s: int = 3600
    provider: str = ""
    allow_insecure_srs: bool = False


def register_model(
    sender: Sender,
    rpc: Rpc,
    config: ChainConfig,
    bundle: Bundle,
    folder: Path,
    *,
    verifier: str = "",
) -> tuple[bytes, ChainConfig]:
    """Deploy a model's verifier, register the model, and return its id.

    Args:
        sender: The publisher; the model's id names it.
        rpc: The chain's node.
        config: The chain.
        bundle: The model.
        folder: What `privacy zk solidity` wrote for it.
        verifier: Address of a reusable verifier that is there already.

    Returns:
        The model's id, and the configuration with the model in it.

    Raises:
        FormatError: The verifier is of another model.
        Reverted: The registry refused.
    """
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    facts = read_facts(folder)
    if facts.model_sha256 != bundle.sha256:
        msg = f"{folder} holds verifiers of another model: run `privacy zk solidity`"
        raise FormatError(msg, code="wrong-verifier")
    chosen = facts.plain if facts.chosen == "plain" else facts.reusable
    init_code = (folder / f"{facts.chosen}.bin").read_bytes()
    if sha256_hex(init_code) != chosen.init_code_sha256:
        msg = f"{facts.chosen}.bin was changed: run `privacy zk solidity` again"
        raise VerificationError(msg, code="verifier-changed")
    vka, digest = b"", bytes(32)
    verifier = verifier or deploy_code(sender, init_code)
    if facts.chosen == "reusable":
        words = parse_vka((folder / "vka.bin").read_bytes())
        vka, digest = b"".join(words), bytes.fromhex(facts.vka_digest)
        sender.send(verifier, register_calldata(words))
    model = (
        verifier,
        params.proof_bytes,
        len(params.instances) - params.outputs,
        params.outputs,
        params.output_scale_bits,
        0,  # InputKind.Hash
        params.insecure_srs,
        False,  # set by the registry, as is the publisher
        bytes.fromhex(chosen.code_hash),
        digest,
        bytes.fromhex(bundle.sha256),
        bytes.fromhex(params.srs.sha256),
        bytes.fromhex(bundle.manifest.files["zkml/settings.json"].sha256),
        ZERO,
    )
    registry = contract(rpc, config, "registry")
    name = bundle.manifest.name.encode().ljust(32, b"\0")[:32]
    registry.send(sender, "register", name, model)
    model_id: bytes = registry.view("modelIdOf", sender.address, model[10])
    served = ServedModel(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        model_sha256=bundle.sha256,
        verifier=verifier,
        vka=vka.hex(),
    )
    return model_id, config.with_model(model_id, served)


def request_inference(
    sender: Sender,
    rpc: Rpc,
    config: ChainConfig,
    model_id: bytes,
    commitment: int,
    *,
    fee: int,
    options: OrderOptions,
) -> int:
    """Ask a model on chain, from this account, and return the request's id."""
    deadline = rpc.latest()["timestamp"] + options.valid_s
    order = (
        model_id,
        commitment.to_bytes(32, "big"),
        options.callback or ZERO,
        options.callback_gas,
        deadline,
        ZERO,
        options.provider or ZERO,
        0,  # Evidence.Proof
        options.allow_insecure_srs,
        False,
    )
    coordinator = contract(rpc, config, "coordinator")
    receipt = coordinator.send(sender, "request", order, [], value=fee)
    for event in events(coordinator.abi, receipt.get("logs", []), coordinator.address):
        if event.name == "Requested":
            return int(event.values["requestId"])
    raise NotFoundError("the transaction logged no request: is the coordinator ours?")


def events(abi: Any, logs: list[Json], address: str) -> list[Event]:
    """Return those logs that are events of one contract."""
    ours = [log for log in logs if str(log.get("address")).lower() == address.lower()]
    found = (abi.event(*log_parts(log)) for log in ours)
    return [event for event in found if event is not None]


def answer_of(proof: Proof, served: ServedModel) -> tuple[object, ...]:
    """Return an answer as `InferenceCoordinator.deliver` takes it."""
    raw = bytes.fromhex(served.vka)
    words = [raw[i : i + 32] for i in range(0, len(raw), 32)]
    return (proof.proof, list(proof.instances), words, b"")


def verify_on_chain(
    rpc: Rpc, config: ChainConfig, model_id: bytes, proof: Proof
) -> list[int]:
    """Have the chain check a proof, and return the outputs it proves, unscaled.

    Raises:
        VerificationError: The chain refuses the proof.
    """
    served = served_model(config, model_id)
    arguments = answer_of(proof, served)[:3]
    try:
        contract(rpc, config, "proofs").view("verify", model_id, *arguments)
        model = contract(rpc, config, "registry").view("get", model_id)
    except Reverted as exc:
        raise VerificationError(exc.message, code="proof-invalid") from exc
    return [signed(v) for v in proof.instances[int(model["inputs"]) :]]


def input_path(folder: Path, commitment: bytes) -> Path:
    """Return where a watcher looks for the input of a commitment."""
    return folder / "inputs" / f"{commitment.hex()}.json"


def served_model(config: ChainConfig, model_id: bytes) -> ServedModel:
    """Return a model of the configuration.

    Raises:
        NotFoundError: It is not there.
    """
    found = config.models.get(model_id.hex())
    if found is None:
        msg = f"model {model_id.hex()[:12]}… is not served here: register it first"
        raise NotFoundError(msg, code="unknown-model")
    return found
