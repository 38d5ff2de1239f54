"""Register a model, ask it, answer, and check a proof, on a chain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.bundle import Bundle
from privacy.chain.abi import Event, Reverted
from privacy.chain.config import ChainConfig, ServedModel
from privacy.chain.contracts import ZERO, OnChain, contract, deploy_code
from privacy.chain.inputs import Input
from privacy.chain.rpc import Rpc, log_parts
from privacy.chain.sender import Sender
from privacy.chain.verifiers import artifact_words, chosen_code
from privacy.encoding import Json
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.modes import Mode
from privacy.onchain import SALTED, terms_of
from privacy.zkml.blobs import Proof
from privacy.zkml.evm import register_calldata
from privacy.zkml.field import signed
from privacy.zkml.params import parse_params

PROOF, ATTESTATION, BOTH = 0, 1, 2
EVIDENCE = {"proof": PROOF, "attestation": ATTESTATION, "both": BOTH}
"""What a request can want an answer to come with; `Evidence` in Types.sol."""

_LOG_BLOCKS = 5_000
_ENDS = {"Fulfilled": "answered", "Refunded": "refunded"}


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """What a requester chooses; see `Order` in contracts/src/Types.sol.

    Attributes:
        callback: A contract to call with the answer; none if empty.
        callback_gas: How much gas it is given.
        valid_s: Seconds until the fee goes back.
        provider: Who alone may answer; anyone if empty.
        evidence: `PROOF`, `ATTESTATION` or `BOTH`.
        allow_insecure_srs: Accept a model whose publisher could forge proofs.
        allow_simulated: Accept an attestation of a simulated enclave.
    """

    callback: str = ""
    callback_gas: int = 0
    valid_s: int = 3600
    provider: str = ""
    evidence: int = PROOF
    allow_insecure_srs: bool = False
    allow_simulated: bool = False


@dataclass(frozen=True, slots=True)
class _Circuit:
    """What the registry holds of a model's circuit; nothing if there is none."""

    verifier: str = ZERO
    code_hash: bytes = bytes(32)
    proof_bytes: int = 0
    insecure_srs: bool = False
    vka: bytes = b""
    vka_digest: bytes = bytes(32)
    srs: bytes = bytes(32)
    settings: bytes = bytes(32)


def register_model(
    sender: Sender,
    rpc: Rpc,
    config: ChainConfig,
    bundle: Bundle,
    folder: Path | None,
    *,
    verifier: str = "",
) -> tuple[bytes, ChainConfig]:
    """Deploy a model's verifier, register the model, and return its id.

    Args:
        sender: The publisher; the model's id names it.
        rpc: The chain's node.
        config: The chain.
        bundle: The model.
        folder: What `privacy zk solidity` wrote for it; None for a model that only
            enclaves answer.
        verifier: Address of a reusable verifier that is there already.

    Returns:
        The model's id, and the configuration with the model in it.

    Raises:
        FormatError: The verifier is of another model, or the circuit does not fit.
        Reverted: The registry refused.
    """
    terms = terms_of(bundle.manifest)
    circuit = _Circuit()
    if folder is not None:
        if terms.kind == SALTED:
            msg = (
                "the model has no circuit for contracts: it takes one with the weights "
                "bound and the input committed or shown; leave --verifier out to have "
                "enclaves alone answer"
            )
            raise FormatError(msg, code="no-circuit")
        circuit = _deploy_circuit(sender, bundle, folder, verifier)
    model = (
        circuit.verifier,
        circuit.proof_bytes,
        terms.inputs,
        terms.outputs,
        terms.output_bits,
        terms.input_kind,
        circuit.insecure_srs,
        False,  # set by the registry, as is the publisher
        circuit.code_hash,
        circuit.vka_digest,
        bytes.fromhex(bundle.sha256),
        circuit.srs,
        circuit.settings,
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
        verifier=circuit.verifier,
        vka=circuit.vka.hex(),
    )
    return model_id, config.with_model(model_id, served)


def _deploy_circuit(
    sender: Sender, bundle: Bundle, folder: Path, verifier: str
) -> _Circuit:
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    facts, init_code = chosen_code(folder)
    if facts.model_sha256 != bundle.sha256:
        msg = f"{folder} holds verifiers of another model: run `privacy zk solidity`"
        raise FormatError(msg, code="wrong-verifier")
    chosen = facts.plain if facts.chosen == "plain" else facts.reusable
    vka, digest = b"", bytes(32)
    verifier = verifier or deploy_code(sender, init_code)
    if facts.chosen == "reusable":
        words = artifact_words(folder)
        vka, digest = b"".join(words), bytes.fromhex(facts.vka_digest)
        sender.send(verifier, register_calldata(words))
    return _Circuit(
        verifier=verifier,
        code_hash=bytes.fromhex(chosen.code_hash),
        proof_bytes=params.proof_bytes,
        insecure_srs=params.insecure_srs,
        vka=vka,
        vka_digest=digest,
        srs=bytes.fromhex(params.srs.sha256),
        settings=bytes.fromhex(bundle.manifest.files["zkml/settings.json"].sha256),
    )


def request_inference(
    sender: Sender,
    rpc: Rpc,
    config: ChainConfig,
    model_id: bytes,
    given: Input,
    *,
    fee: int,
    options: OrderOptions,
) -> int:
    """Ask a model on chain, from this account, and return the request's id.

    Args:
        sender: Who pays.
        rpc: The chain's node.
        config: The chain.
        model_id: As `register_model` returned it.
        given: The input; handed over in another way, unless it is public.
        fee: In wei.
        options: See `OrderOptions`.

    Raises:
        Reverted: The coordinator refused.
    """
    deadline = rpc.latest()["timestamp"] + options.valid_s
    published = list(given.described) if given.is_public else []
    order = (
        model_id,
        bytes(32) if given.is_public else given.commitment,
        options.callback or ZERO,
        options.callback_gas,
        deadline,
        ZERO,
        options.provider or ZERO,
        options.evidence,
        options.allow_insecure_srs,
        options.allow_simulated,
    )
    coordinator = contract(rpc, config, "coordinator")
    receipt = coordinator.send(sender, "request", order, published, value=fee)
    for event in events(coordinator.abi, receipt.get("logs", []), coordinator.address):
        if event.name == "Requested":
            return int(event.values["requestId"])
    raise NotFoundError("the transaction logged no request: is the coordinator ours?")


def public_input_of(coordinator: OnChain, request_id: int, *, newest: int) -> list[int]:
    """Return the input that a request published, from the chain's logs.

    Raises:
        NotFoundError: No log of that request is there.
    """
    event = _last_event(coordinator, request_id, {"Requested"}, newest=newest)
    return [int(v) for v in event.values["input"]]


def outcome_of(coordinator: OnChain, request_id: int) -> Json:
    """Return what became of a request: `state`, and of an answered one what it says.

    The state is `open`, `answered` or `refunded`; `outputs` are whole numbers, a
    model's outputs times 2**bits.

    Raises:
        NotFoundError: There is no such request.
    """
    if not 0 < request_id < int(coordinator.view("nextRequestId")):
        msg = f"the coordinator has no request {request_id}"
        raise NotFoundError(msg, code="unknown-request")
    newest, names = coordinator.rpc.block_number(), {"Requested", *_ENDS}
    event = _last_event(coordinator, request_id, names, newest=newest)
    found: Json = {"request_id": request_id, "state": _ENDS.get(event.name, "open")}
    if event.name == "Fulfilled":
        found["provider"] = event.values["provider"]
        found["outputs"] = [int(v) for v in event.values["outputs"]]
    return found


def _last_event(
    coordinator: OnChain, request_id: int, names: set[str], *, newest: int
) -> Event:
    """Return a request's last event of these names, from the chain's logs.

    They are searched backwards from the block `newest`, in ranges that nodes allow.

    Raises:
        NotFoundError: There is none.
    """
    last, topics = newest, [None, request_id.to_bytes(32, "big")]
    while last >= 0:
        first = max(0, last - _LOG_BLOCKS + 1)
        logs = coordinator.rpc.logs(coordinator.address, topics, first=first, last=last)
        found = events(coordinator.abi, logs, coordinator.address)
        for event in reversed(found):
            if event.name in names and event.values.get("requestId") == request_id:
                return event
        last = first - 1
    raise NotFoundError(f"the chain's node has no log of request {request_id}")


def events(abi: Any, logs: list[Json], address: str) -> list[Event]:
    """Return those logs that are events of one contract."""
    ours = [log for log in logs if str(log.get("address")).lower() == address.lower()]
    found = (abi.event(*log_parts(log)) for log in ours)
    return [event for event in found if event is not None]


def answer_of(
    proof: Proof, served: ServedModel, *, signature: bytes = b""
) -> tuple[object, ...]:
    """Return an answer as `InferenceCoordinator.deliver` takes it.

    Args:
        proof: The proof and its instances; an empty one if an enclave alone answers.
        served: The model.
        signature: An enclave's, 65 bytes.
    """
    raw = bytes.fromhex(served.vka) if proof.proof else b""
    words = [raw[i : i + 32] for i in range(0, len(raw), 32)]
    return (proof.proof, list(proof.instances), words, signature)


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


def input_path(folder: Path, commitment: bytes, *, sealed: bool = False) -> Path:
    """Return where a watcher looks for the input of a commitment.

    Args:
        folder: The watcher's.
        commitment: 32 bytes.
        sealed: For an enclave; otherwise in the clear, for proving.
    """
    kind = "sealed" if sealed else "json"
    return folder / "inputs" / f"{commitment.hex()}.{kind}"


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
