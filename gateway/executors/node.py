"""This machine as a node: pools for FHE and proving, enclaves for TEE."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

from gateway.executors.base import Done, Engines, Watch, Work
from gateway.executors.enclaves import Enclaves
from gateway.executors.memory import Memory, gpus_needed, needed
from gateway.executors.pool import Pool
from gateway.settings import Settings
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.errors import LimitError, PrivacyError, UnavailableError
from privacy.modes import Mode


class LocalNode:
    """The node that this process runs itself."""

    is_foreign = False

    def __init__(
        self,
        settings: Settings,
        engines: Engines,
        folder: Path,
        *,
        modes: Collection[Mode] = tuple(Mode),
        gpus: int = 0,
    ) -> None:
        """Describe the node; processes start with the first jobs.

        Args:
            settings: Its name, workers, limits and memory.
            engines: What computes.
            folder: Where enclaves have their sockets.
            modes: Which it serves.
            gpus: How many GPUs its workers may use.
        """
        self.name = settings.node_name
        self._settings = settings
        self.gpus = gpus
        proofs = Memory(settings.memory_of_jobs(Mode.ZKML))  # of both modes that prove
        self._memory = {Mode.ZKML: proofs, Mode.TEE_ZKML: proofs}
        self.enclaves = {
            mode: Enclaves(
                mode,
                folder / mode,
                engines,
                size=settings.workers(mode),
                time_limit_s=settings.time_limit_s(mode),
                memory=self._memory.get(mode),
                source=settings.evidence_source,
                limits=settings.enclave_limits,
            )
            for mode in (Mode.TEE, Mode.TEE_ZKML)
            if mode in modes
        }
        self.pools = {
            mode: Pool(
                mode,
                target=engines.worker_target,
                size=settings.workers(mode),
                memory_bytes=settings.worker_memory_bytes,
                time_limit_s=settings.time_limit_s(mode),
                env=settings.worker_env(mode),
                memory=self._memory.get(mode),
            )
            for mode in (Mode.FHE, Mode.ZKML)
            if mode in modes
        }
        self._by_mode: dict[Mode, Pool | Enclaves] = {**self.enclaves, **self.pools}

    def refusal(self, mode: Mode, bundle: Bundle) -> PrivacyError | None:
        """Return why it can never run jobs of a model; see `Node`."""
        if mode not in self._by_mode:
            msg = f"node {self.name} does not serve mode {mode}"
            return UnavailableError(msg, code="no-node")
        if gpus_needed(mode, bundle) > self.gpus:
            msg = f"node {self.name} has {self.gpus} GPUs"
            return LimitError(f"{msg}: use a node with more", code="gpu-needed")
        memory = self._memory.get(mode)
        return memory.refusal(needed(mode, bundle)) if memory else None

    def places(self, mode: Mode) -> int:
        """Return how many jobs of a mode run at once."""
        return self._settings.workers(mode) if mode in self._by_mode else 0

    def has(self, _job_id: str) -> bool:
        """Return False: its jobs are this gateway's; see `Node`."""
        return False

    def warmth(self, mode: Mode, model_sha256: str, keys_sha256: str = "") -> int:
        """Return 2 if the keys are loaded, 1 if the model is, else 0; see `Node`."""
        has_warm = self._by_mode[mode].has_warm
        return 2 if has_warm(keys_sha256) else int(has_warm(model_sha256))

    def warm(self) -> dict[Mode, list[str]]:
        """Return the digests of the models and keys that are loaded, by mode."""
        return {
            mode: sorted(executor.warm()) for mode, executor in self._by_mode.items()
        }

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        """Return fresh evidence of a model's enclave, started if need be."""
        return await self.enclaves[mode].evidence(bundle, nonce)

    def attach(self, bundles: list[Bundle]) -> None:
        """Hold on to enclaves that outlived an earlier life of this process; blocks."""
        for mode, enclaves in self.enclaves.items():
            parts = [(b, b.manifest.modes.get(mode)) for b in bundles]
            enclaves.attach([b for b, part in parts if part and part.available])

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        return await self._by_mode[work.mode].run(work, watch)

    def cancel(self, job_id: str) -> None:
        """Stop a job wherever it waits or runs."""
        for executor in self._by_mode.values():
            executor.cancel(job_id)

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of each mode run now."""
        parts = [executor.busy() for executor in self._by_mode.values()]
        return {mode: n for part in parts for mode, n in part.items()}

    async def close(self) -> None:
        """Stop every worker and enclave."""
        await asyncio.gather(*(e.close() for e in self._by_mode.values()))

    def describe(self) -> Json:
        """Return the node as `/v1/nodes` shows it; see `Node`."""
        busy = self.busy()
        return {
            "name": self.name,
            "kind": "local",
            "gpus": self.gpus,
            "cpus": os.cpu_count() or 1,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "enclave_evidence": self._settings.enclave_evidence,
            "modes": {
                str(mode): {
                    "workers": self._settings.workers(mode),
                    "busy": busy[mode],
                    "time_limit_s": self._settings.time_limit_s(mode),
                }
                for mode in Mode
                if mode in self._by_mode
            },
        }
