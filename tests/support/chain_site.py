"""A development chain with our contracts and one real model, and who is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.chain.watcher import Terms, Watcher
from privacy.chain.config import ChainConfig, ServedModel
from privacy.chain.contracts import OnChain, contract
from privacy.chain.inputs import parse_input
from privacy.chain.models import OrderOptions, input_path, request_inference
from privacy.chain.rpc import Rpc
from privacy.errors import JobFailedError
from privacy.modes import Mode
from privacy.zkml.blobs import Proof
from tests.support.anvil import Anvil

FEE = 10**16
PUBLISHER, PROVIDER, REQUESTER = 101, 102, 103


class ProvenJobs:
    """Jobs that were proven before, by input; and an enclave in this process."""

    def __init__(self, evidence: dict[bytes, bytes], enclave: Any = None) -> None:
        self.evidence = evidence
        self.enclave = enclave
        self.asked: list[str] = []
        self.handed_over: dict[tuple[bytes, bool], bytes] = {}
        self.failures = 0
        self.waits = 0

    def ask(
        self, served: ServedModel, blob: bytes, *, mode: Mode, key: str, options: Any
    ) -> Any:
        self.asked.append(key)
        self.options = options
        if self.failures:
            self.failures -= 1
            raise JobFailedError("the job failed")
        if self.waits:
            self.waits -= 1
            return f"job_{mode}", None
        if mode == Mode.TEE:
            return "job_tee", self.enclave.infer(blob)[0]
        return "job_zkml", self.evidence[blob]

    def receipt(self, job: str) -> bytes:
        return b'{"receipt":{}}'

    def attest(self, served: ServedModel, nonce: bytes) -> bytes:
        made: bytes = self.enclave.evidence(nonce)
        return made

    def find_input(
        self, served: ServedModel, commitment: bytes, *, sealed: bool
    ) -> bytes | None:
        return self.handed_over.get((commitment, sealed))


@dataclass
class Site:
    """A chain with our contracts and one real model, and who is there."""

    chain: Anvil
    config: ChainConfig
    model_id: bytes
    proofs: list[Proof]
    jobs: ProvenJobs
    bundle: Any
    folder: Path
    helpers: Any
    inputs: list[bytes]
    """In the clear, one for each proof."""

    @property
    def receipts(self) -> Path:
        """Where the watcher keeps what it delivered."""
        address = self.coordinator.address.lower()
        return self.folder / "receipts" / f"31337-{address}"

    @property
    def coordinator(self) -> OnChain:
        return contract(self.chain.rpc, self.config, "coordinator")

    def watcher(
        self, *, who: int = PROVIDER, rpc: Rpc | None = None, **how: Any
    ) -> Any:
        node = rpc or self.chain.rpc
        terms = {
            k: how.pop(k) for k in ("least_fee", "allow_loss", "trigger") if k in how
        }
        folder = how.pop("folder", self.folder)
        self.now = getattr(self, "now", 0.0)
        return Watcher(
            how.pop("config", self.config),
            rpc=node,
            sender=self.chain.sender(who, rpc=node, **how),
            jobs=self.jobs,
            bundles=lambda _: self.bundle,
            terms=Terms(folder, **terms),
            notify=lambda _: None,
            clock=lambda: self.now,
        )

    def ask(
        self, which: int = 0, *, fee: int = FEE, known: bool = True, **how: Any
    ) -> int:
        given = parse_input(self.bundle, self.inputs[which])
        if known:
            path = input_path(self.folder, given.commitment)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.inputs[which])
        return request_inference(
            self.chain.sender(REQUESTER),
            self.chain.rpc,
            self.config,
            how.pop("model_id", self.model_id),
            given,
            fee=fee,
            options=OrderOptions(allow_insecure_srs=True, **how),
        )

    def credit(self, who: int = PROVIDER) -> int:
        return int(self.coordinator.view("credit", self.chain.account(who).address))

    def run(self, watcher: Any, rounds: int = 6) -> int:
        """Let rounds and blocks pass; return how many requests are open then."""
        still_open = 0
        for _ in range(rounds):
            still_open = watcher.round()
            self.chain.mine()
            self.now += 1000.0
        return int(still_open)
