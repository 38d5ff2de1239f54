"""This machine as an executor: pools for FHE and proving, enclaves for TEE."""

import asyncio
import os
from pathlib import Path

from gateway.executors.base import Done, Engines, Executor, Watch, Work
from gateway.executors.enclaves import Enclaves
from gateway.executors.memory import Memory
from gateway.executors.pool import Pool
from gateway.settings import Settings
from privacy.encoding import Json
from privacy.modes import Mode


class LocalNode:
    """The node that this gateway runs itself."""

    def __init__(self, settings: Settings, engines: Engines, folder: Path) -> None:
        """Describe the node; processes start with the first jobs."""
        self._settings = settings
        proofs = Memory(settings.memory_of_jobs(Mode.ZKML))  # of both modes that prove
        memory = {Mode.ZKML: proofs, Mode.TEE_ZKML: proofs}
        self.enclaves = {
            mode: Enclaves(
                mode,
                folder / mode,
                engines,
                size=settings.workers(mode),
                time_limit_s=settings.time_limit_s(mode),
                memory=memory.get(mode),
                source=settings.evidence_source,
                limits=settings.enclave_limits,
            )
            for mode in (Mode.TEE, Mode.TEE_ZKML)
        }
        self._by_mode: dict[Mode, Executor] = {**self.enclaves}
        for mode in (Mode.FHE, Mode.ZKML):
            self._by_mode[mode] = Pool(
                mode,
                target=engines.worker_target,
                size=settings.workers(mode),
                memory_bytes=settings.worker_memory_bytes,
                time_limit_s=settings.time_limit_s(mode),
                env=settings.worker_env(mode),
                memory=memory.get(mode),
            )

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
        """Return the node as `/v1/nodes` shows it."""
        busy = self.busy()
        return {
            "name": self._settings.node_name,
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
            },
        }
