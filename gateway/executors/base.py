"""What the gateway asks of whatever runs its jobs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from privacy.bundle import Bundle
from privacy.child import Progress
from privacy.encoding import Json
from privacy.errors import PrivacyError, UnavailableError
from privacy.modes import Mode
from privacy.runs import RunResult
from privacy.tee.harden import Limits
from privacy.tee.sources import EvidenceSource

WORKER_TARGET = "gateway.executors.worker:handler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job for an executor.

    Attributes:
        folder: For the files the run writes; exists, and keeps the rows that earlier
            attempts have done.
        keys: The evaluation keys, None if the mode or the model needs none.
        options: The job's, for a node that submits it elsewhere.
        avoid: Names of nodes that must not run it, such as who gave the first answer.
    """

    job_id: str
    mode: Mode
    bundle: Bundle
    input: Path
    keys: Path | None
    folder: Path
    input_sha256: str = ""
    keys_sha256: str = ""
    avoid: frozenset[str] = frozenset()
    options: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """The files of a run that succeeded; `evidence` is None if the mode has none.

    Attributes:
        node: Who computed; the scheduler fills it in.
        memory_bytes: The most its process has taken; 0 if unknown.
        peer_receipt: The signed record of the peer that ran it; empty if none did.
    """

    output: Path
    evidence: Path | None
    evidence_kind: str
    node: str = ""
    memory_bytes: int = 0
    peer_receipt: bytes = b""


class NodeLostError(UnavailableError):
    """The node died or cannot be reached: another one may run the job."""

    default_code = "node-lost"


class NodeDeclinedError(NodeLostError):
    """The node does not run this job, but may well run others."""

    default_code = "node-declined"


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how a job goes.

    Attributes:
        started: Called before each attempt, from a worker thread; may block.
        progress: Called from any thread.
    """

    started: Callable[[], None]
    progress: Progress


class Executor(Protocol):
    """Runs jobs of some modes."""

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job.

        Raises:
            PrivacyError: The job failed, for good.
            asyncio.CancelledError: The executor closed first; run the job again later.
        """

    def cancel(self, job_id: str) -> None:
        """Stop a job if it waits or runs here; its `run` raises `JobFailedError`."""

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of each mode run now."""

    async def close(self) -> None:
        """Stop everything."""


class Node(Executor, Protocol):
    """A machine that runs jobs, for `gateway.executors.scheduler`.

    Its `run` raises `NodeLostError` if it may have ended: the job goes on elsewhere.
    """

    @property
    def name(self) -> str:
        """The name that receipts give; no two nodes of a scheduler share one."""

    @property
    def gpus(self) -> int:
        """How many GPUs it has."""

    @property
    def is_foreign(self) -> bool:
        """Whether another operator runs it."""

    def refusal(self, mode: Mode, bundle: Bundle) -> PrivacyError | None:
        """Return why it can never run jobs of a model in a mode, None if it can."""

    def places(self, mode: Mode) -> int:
        """Return how many jobs of a mode it runs at once."""

    def has(self, job_id: str) -> bool:
        """Whether it runs a job already, for a gateway that has died since."""

    def warmth(self, mode: Mode, model_sha256: str, keys_sha256: str = "") -> int:
        """Return 2 if it has the keys loaded, 1 if it has the model, else 0."""

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        """Return fresh evidence of its enclave of a model, started if need be."""

    def describe(self) -> Json:
        """Return the node as `/v1/nodes` shows it, without its state."""


class EnclaveLike(Protocol):
    """What the node needs of `privacy.tee.host.Enclave`."""

    @classmethod
    def start(
        cls,
        model_dir: Path,
        run_dir: Path,
        *,
        model_sha256: str,
        source: EvidenceSource,
        limits: Limits,
    ) -> Self:
        """Start an enclave process that outlives this one."""

    @classmethod
    def attach(
        cls, run_dir: Path, *, source: EvidenceSource, limits: Limits
    ) -> Self | None:
        """Return the enclave that runs there already."""

    def evidence(self, nonce: bytes) -> bytes:
        """Return fresh evidence for a nonce of 32 bytes."""

    def infer(
        self, sealed: bytes, *, timeout_s: float, progress: Progress
    ) -> RunResult:
        """Return the sealed answer to a sealed input; ended if `progress` raises."""

    def unseal(self, release: bytes) -> None:
        """Give the enclave the key of its sealed model, as the broker sealed it."""

    @property
    def alive(self) -> bool:
        """Whether the enclave still answers."""

    def stop(self) -> None:
        """End the enclave."""


def _host_enclave(mode: Mode) -> type[EnclaveLike]:
    if mode is Mode.TEE_ZKML:
        from privacy.tee_zkml.host import ProvingEnclave

        return ProvingEnclave
    from privacy.tee.host import Enclave

    return Enclave


@dataclass(frozen=True, slots=True)
class Engines:
    """What actually computes; tests put their own here.

    Attributes:
        worker_target: `module:function`, the handler that worker processes serve.
        enclave: Gives the class that starts and finds enclaves of a mode.
    """

    worker_target: str = WORKER_TARGET
    enclave: Callable[[Mode], type[EnclaveLike]] = _host_enclave
