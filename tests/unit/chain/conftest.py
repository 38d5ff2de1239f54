"""A chain in this process with our contracts, one model, and real proofs for it."""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from privacy.bundle import Bundle, ModePart, list_files, write_manifest
from privacy.chain.abi import Abi
from privacy.chain.contracts import deploy_all
from privacy.chain.models import register_model
from privacy.tee.measure import measure
from privacy.zkml.blobs import (
    Evidence,
    Proof,
    make_evidence,
    make_input,
    parse_evidence,
)
from privacy.zkml.evm import EvmFacts, build_verifier, parse_vka, read_facts
from privacy.zkml.evm.calldata import keccak
from privacy.zkml.evm.solc import Compiled, compile_sources
from privacy.zkml.params import parse_params
from tests.support.anvil import Anvil
from tests.support.chain_site import PUBLISHER, ProvenJobs, Site
from tests.support.evm_chain import Contract, EvmChain
from tests.unit.zkml.conftest import (  # noqa: F401 - fixtures
    _own_cache,
    bundle_of,
    job,
    linear,
    make_bundle,
    node,
    rows,
)

ROOT = Path(__file__).resolve().parents[3]
ZERO = "0x" + "00" * 20
NAME = b"credit".ljust(32, b"\0")
FEE = 10**16


@pytest.fixture(scope="session")
def bundle(linear: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:  # noqa: F811
    """A model with a circuit, and one that an enclave can load."""
    made = make_bundle(tmp_path_factory.mktemp("bundle"), linear)
    (made.root / "tee").mkdir()
    model = made.root / "tee" / "model.onnx"
    shutil.copy(linear.folder / "model.onnx", model)
    params = {
        "measurements": measure(model).as_dict(),
    }
    public = frozenset(n for n, e in made.manifest.files.items() if e.public)
    manifest = replace(
        made.manifest,
        modes={**made.manifest.modes, "tee": ModePart(available=True, params=params)},
        files=list_files(made.root, public),
    )
    return write_manifest(made.root, manifest)


@pytest.fixture(scope="session")
def inputs(rows: Any) -> list[bytes]:  # noqa: F811
    """What the two proofs are about, in the clear."""
    return [make_input([row], salt=bytes(32)) for row in rows[540:542]]


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def helpers() -> dict[str, Compiled]:
    """The contracts of contracts/test."""
    script = load_script("contracts_build")
    return compile_sources(script.sources(ROOT / "contracts" / "test"))


@dataclass(frozen=True)
class Circuit:
    """A model's generated contracts and two real proofs."""

    facts: EvmFacts
    plain: bytes
    reusable: bytes
    vka: list[bytes]
    proofs: list[Proof]


@pytest.fixture(scope="session")
def circuit(bundle: Any, job: Any, verifier_folder: Path) -> Circuit:  # noqa: F811
    folder, facts = verifier_folder, read_facts(verifier_folder)
    params = parse_params(bundle.manifest.modes["zkml"].params)
    claim = parse_evidence(
        job.evidence, instances=len(params.instances), proof_bytes=params.proof_bytes
    )
    return Circuit(
        facts=facts,
        plain=(folder / "plain.bin").read_bytes(),
        reusable=(folder / "reusable.bin").read_bytes(),
        vka=parse_vka((folder / "vka.bin").read_bytes()),
        proofs=list(claim.proofs),
    )


@dataclass
class World:
    """Our contracts, deployed; account 0 publishes and is the authority."""

    chain: EvmChain
    registry: Contract
    proofs: Contract
    attestations: Contract
    coordinator: Contract
    helpers: dict[str, Compiled]

    @property
    def accounts(self) -> list[str]:
        return self.chain.accounts

    def helper(self, name: str, *arguments: Any, value: int = 0) -> Contract:
        made = self.helpers[name]
        abi = Abi(made.abi)
        code = made.init_code + abi.construct(*arguments)
        return self.chain.deploy_code(code, abi, value=value)

    def consumer(self, name: str = "Recorder", *arguments: Any) -> Contract:
        return self.helper(name, self.coordinator.address, *arguments)

    def register(self, verifier: str, /, **changes: Any) -> bytes:
        """Register a model and return its id."""
        code_hash = bytes(32) if verifier == ZERO else self.chain.code_hash(verifier)
        model = {
            "verifier": verifier,
            "proofBytes": 32,
            "inputs": 1,
            "outputs": 1,
            "outputScale": 10,
            "inputKind": 0,
            "insecureSrs": False,
            "active": False,
            "verifierCodeHash": code_hash,
            "vkaDigest": bytes(32),
            "manifestDigest": b"\1" * 32,
            "srsDigest": b"\2" * 32,
            "settingsDigest": b"\3" * 32,
            "publisher": ZERO,
            **changes,
        }
        made: bytes = self.registry.call("register", NAME, tuple(model.values()))
        return made

    def order(
        self, model_id: bytes, commitment: int, **changes: Any
    ) -> tuple[Any, ...]:
        order = {
            "modelId": model_id,
            "inputCommitment": commitment.to_bytes(32, "big"),
            "callback": ZERO,
            "callbackGas": 0,
            "deadline": self.chain.now + 3600,
            "owner": ZERO,
            "provider": ZERO,
            "evidence": 0,
            "allowInsecureSrs": True,
            "allowSimulated": False,
            **changes,
        }
        return tuple(order.values())

    def ask(self, order: tuple[Any, ...], *, fee: int = FEE, **how: Any) -> int:
        inputs = how.pop("inputs", [])
        made: int = self.coordinator.call("request", order, inputs, value=fee, **how)
        return made

    def credit(self, account: str) -> int:
        return int(self.coordinator.view("credit", account))


@pytest.fixture
def world(helpers: dict[str, Compiled]) -> World:
    chain = EvmChain()
    registry = chain.deploy("ModelRegistry")
    proofs = chain.deploy("ProofVerifier", registry.address)
    attestations = chain.deploy("AttestationVerifier", chain.accounts[0])
    parts = [c.address for c in (registry, proofs, attestations)]
    coordinator = chain.deploy("InferenceCoordinator", *parts)
    return World(chain, registry, proofs, attestations, coordinator, helpers)


@dataclass(frozen=True)
class Proven:
    """A registered model with its real verifier, and how to answer."""

    world: World
    model_id: bytes
    circuit: Circuit

    def answer(self, proof: Proof, /, **changes: Any) -> tuple[Any, ...]:
        answer = {
            "proof": proof.proof,
            "instances": list(proof.instances),
            "vka": [],
            "signature": b"",
            **changes,
        }
        return tuple(answer.values())

    def order(self, proof: Proof, **changes: Any) -> tuple[Any, ...]:
        return self.world.order(self.model_id, proof.instances[0], **changes)


@pytest.fixture
def plain(world: World, circuit: Circuit) -> Proven:
    """The real model behind its plain verifier."""
    verifier = world.chain.deploy_code(circuit.plain, Abi([]))
    size = len(circuit.proofs[0].proof)
    model_id = world.register(verifier.address, proofBytes=size, insecureSrs=True)
    return Proven(world, model_id, circuit)


@pytest.fixture
def reusable(world: World, circuit: Circuit) -> Proven:
    """The real model behind the reusable verifier, its artifact registered there."""
    from privacy.zkml.evm import register_calldata

    verifier = world.chain.deploy_code(circuit.reusable, Abi([]))
    world.chain.send("", verifier.address, register_calldata(circuit.vka))
    model_id = world.register(
        verifier.address,
        proofBytes=len(circuit.proofs[0].proof),
        insecureSrs=True,
        vkaDigest=bytes.fromhex(circuit.facts.vka_digest),
    )
    return Proven(world, model_id, circuit)


@pytest.fixture
def refuses() -> Callable[..., Any]:
    """`with refuses("RequestEnded"): …`: the contracts' own error, by its name."""
    from contextlib import contextmanager

    from privacy.chain.abi import Reverted

    @contextmanager
    def check(error: str) -> Any:
        with pytest.raises(Reverted) as caught:
            yield caught
        assert caught.value.error == error

    return check


def hash_proof(instances: list[int]) -> bytes:
    """What `HashVerifier` takes for a proof."""
    return keccak(b"".join(v.to_bytes(32, "big") for v in instances))


@dataclass(frozen=True)
class Hashed:
    """A model behind `HashVerifier`, for which tests can make "proofs" of anything."""

    world: World
    model_id: bytes

    def order(self, commitment: int, **changes: Any) -> tuple[Any, ...]:
        return self.world.order(self.model_id, commitment, **changes)

    def answer(self, *instances: int, **changes: Any) -> tuple[Any, ...]:
        proof = changes.get("proof", hash_proof(list(instances)))
        signature = changes.get("signature", b"")
        return (proof, list(instances), changes.get("vka", []), signature)

    def deliver(self, request_id: int, answer: tuple[Any, ...], **how: Any) -> None:
        self.world.coordinator.call("deliver", request_id, answer, **how)


@pytest.fixture
def hashed(world: World) -> Hashed:
    verifier = world.helper("HashVerifier")
    return Hashed(world, world.register(verifier.address))


@pytest.fixture(scope="session")
def verifier_folder(bundle: Any, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("watched")
    build_verifier(bundle, folder, progress=lambda _: None, allow_insecure_srs=True)
    return folder


@pytest.fixture(scope="session")
def deployed(bundle, verifier_folder):
    """The state of a chain with our contracts and one model, its id, and the chain."""
    with Anvil() as chain:
        publisher = chain.sender(PUBLISHER)
        config = deploy_all(
            publisher,
            chain.rpc,
            authority=publisher.address,
            confirmations=2,
            url=chain.url,
        )
        model_id, config = register_model(
            publisher, chain.rpc, config, bundle, verifier_folder
        )
        return chain.rpc.ask("anvil_dumpState"), model_id, config


@pytest.fixture
def site(bundle, circuit, deployed, helpers, inputs, tmp_path):
    evidence = {
        blob: make_evidence(Evidence(bundle.sha256, True, (proof,)))  # noqa: FBT003
        for blob, proof in zip(inputs, circuit.proofs, strict=True)
    }
    state, model_id, config = deployed
    with Anvil() as chain:
        chain.rpc.ask("anvil_loadState", state)
        chain.mine()
        yield Site(
            chain,
            replace(config, rpc=chain.url),
            model_id,
            circuit.proofs,
            ProvenJobs(evidence),
            bundle,
            tmp_path,
            helpers,
            inputs,
        )
