"""One gateway with all it holds: opened, started, stopped and closed in this order."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.background import every
from gateway.executors.base import Engines
from gateway.executors.node import LocalNode
from gateway.executors.scheduler import Scheduler
from gateway.identity.rates import Rates
from gateway.jobs.hub import Hub
from gateway.jobs.runs import Runs
from gateway.jobs.service import JobService
from gateway.jobs.workflow import Workflows, start_workflow
from gateway.lock import FolderLock
from gateway.logs import error_id_of
from gateway.quality.service import Quality, watch
from gateway.registry import ModelRegistry
from gateway.settings import Settings
from gateway.signing import load_signing_key
from gateway.store.api_keys import ApiKeys
from gateway.store.blobs import Blobs
from gateway.store.comparisons import Comparisons
from gateway.store.contract_inputs import ContractInputs
from gateway.store.database import Database
from gateway.store.disputes import Disputes
from gateway.store.jobs import Jobs
from gateway.store.measures import Measures
from gateway.store.node_states import NodeStates
from gateway.store.parts import Parts
from gateway.store.results import Results
from gateway.store.uploads import Allowance, Uploads
from privacy.publisher import Trust, load_trust

if TYPE_CHECKING:
    from gateway.identity.tokens import Tokens

_log = structlog.get_logger()
_MEASURES_S = 5.0


class Gateway:
    """What the routes reach through `request.app.state.gateway`."""

    database: Database
    api_keys: ApiKeys
    tokens: "Tokens | None"
    blobs: Blobs
    uploads: Uploads
    contract_inputs: ContractInputs
    jobs: Jobs
    measures: Measures
    comparisons: Comparisons
    disputes: Disputes
    node_states: NodeStates
    results: Results
    registry: ModelRegistry
    signing_key: Ed25519PrivateKey
    scheduler: Scheduler
    quality: Quality
    service: JobService

    def __init__(self, settings: Settings, engines: Engines) -> None:
        """Describe a gateway; nothing is touched before `open`."""
        self.settings = settings
        self.rates = Rates(settings.rate_limits)
        self.ready = False
        self._engines = engines
        self._lock: FolderLock | None = None

    def open(self) -> None:
        """Take the data folder and load what lies in it; doing it again is harmless.

        Raises:
            UnavailableError: Another gateway uses the folder.
            PrivacyError: The publishers to trust cannot be read, or nothing makes the
                evidence of enclaves that the settings ask for.
        """
        if self._lock:
            return
        data_dir = self.settings.data_dir
        self._simulated_enclaves = self.settings.evidence_source.is_simulated()
        self._lock = FolderLock(data_dir)
        self.signing_key = load_signing_key(data_dir)
        self.database = open_database(data_dir, self.settings.database_url)
        self.api_keys = ApiKeys(self.database)
        self.tokens = _tokens(self.settings)
        self.blobs = Blobs(data_dir / "blobs")
        parts = Parts(data_dir / "blobs" / "uploads")
        self.uploads = Uploads(
            self.database, self.blobs, parts, _allowance(self.settings)
        )
        self.contract_inputs = ContractInputs(
            data_dir / "contract-inputs", ttl_s=self.settings.contract_inputs_ttl_s
        )
        self.jobs = Jobs(self.database)
        self.measures = Measures(self.database)
        self.comparisons = Comparisons(self.database)
        self.disputes = Disputes(self.database)
        self.node_states = NodeStates(self.database)
        self.results = Results(
            self.database, self.uploads, ttl_s=self.settings.results_ttl_s
        )
        self.registry = ModelRegistry(self.settings.models_dir, self._trust)

    async def start(self) -> None:
        """Start running jobs, those of an earlier life first."""
        settings = self.settings
        work = settings.data_dir / "work"
        await asyncio.to_thread(_forget_finished, work, self.jobs.unfinished())
        self.scheduler = Scheduler(quarantined=self.node_states.quarantined)
        self.quality = Quality(
            database=self.database,
            comparisons=self.comparisons,
            disputes=self.disputes,
            states=self.node_states,
            jobs=self.jobs,
            blobs=self.blobs,
            registry=self.registry,
            scheduler=self.scheduler,
            share=settings.verify_share,
            accusers=settings.quarantine_accusers,
            collateral=str(settings.home / "collateral"),
        )
        if settings.local_modes:
            self.scheduler.add(await asyncio.to_thread(self._local_node))
        self.service = JobService(
            jobs=self.jobs,
            blobs=self.blobs,
            uploads=self.uploads,
            registry=self.registry,
            executor=self.scheduler,
            hub=Hub(),
            signing_key=self.signing_key,
            node_name=settings.node_name,
            max_queued=settings.max_queued_jobs,
            max_queued_by_tenant=settings.max_queued_jobs_by_tenant,
            folder=work,
            runs=Runs(start_workflow),
            simulated_enclaves=self._simulated_enclaves,
            measures=self.measures,
            quality=self.quality,
        )
        self._workflows = Workflows(settings.data_dir, self.service)
        await self._workflows.recover()
        self._sweeping = asyncio.create_task(self._sweep())
        self._background = [
            asyncio.create_task(every(_MEASURES_S, self.measures.write)),
            asyncio.create_task(watch(self.quality, self.service.begin)),
        ]
        self.ready = True
        _log.info(
            "started",
            node=settings.node_name,
            models=len(self.registry.all()),
            enclave_evidence=settings.enclave_evidence,
            simulated_enclaves=self._simulated_enclaves,
        )

    async def stop(self) -> None:
        """Stop workers and enclaves; unfinished jobs go on at the next start."""
        self.ready = False
        for task in (self._sweeping, *self._background):
            task.cancel()
        self.service.runs.close()
        await self.scheduler.close()
        self._workflows.close()
        _log.info("stopped", node=self.settings.node_name)

    def close(self) -> None:
        """Give the data folder back."""
        if self._lock:
            self.database.close()
            self._lock.release()
            self._lock = None

    async def _sweep(self) -> None:
        await _remove(self.uploads.remove_lost_files)
        while True:
            await _remove(self.uploads.sweep)
            await _remove(self.contract_inputs.sweep)
            await _remove(self.results.sweep)
            await asyncio.sleep(self.settings.sweep_every_s)

    def _trust(self) -> Trust:
        return load_trust(
            self.settings.home,
            self.settings.trusted_publishers,
            allow_unsigned=self.settings.allow_unsigned_bundles,
        )

    def _local_node(self) -> LocalNode:
        """Return this machine as a node, with the enclaves that outlived the last."""
        settings = self.settings
        folder = settings.data_dir / "enclaves"
        modes = settings.local_modes
        node = LocalNode(settings, self._engines, folder, modes=modes)
        node.attach(self.registry.all())
        return node


async def _remove(sweep: Callable[[], int]) -> None:
    try:
        if files := await asyncio.to_thread(sweep):
            _log.info("swept", files=files)
    except Exception as exc:  # noqa: BLE001 - the next time may go better
        error_id_of(exc, task="sweep")


def _tokens(settings: Settings) -> "Tokens | None":
    if not settings.oidc_issuers:
        return None
    from gateway.identity.tokens import Tokens  # 8 MB that few gateways need

    return Tokens(settings.oidc_issuers)


def _allowance(settings: Settings) -> Allowance:
    return Allowance(
        max_bytes=settings.max_upload_bytes,
        quota_bytes=settings.max_bytes_by_tenant,
        ttl_s={"keys": settings.keys_ttl_s, "blob": settings.inputs_ttl_s},
    )


def open_database(data_dir: Path, url: str = "") -> Database:
    """Return the database at an address, or that of a data folder, made if absent."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Database(url or data_dir / "gateway.sqlite")


def _forget_finished(work: Path, unfinished: list[str]) -> None:
    """Remove what is left of runs, except the rows of jobs that will go on."""
    open_jobs = set(unfinished)
    for folder in work.iterdir() if work.is_dir() else ():
        if folder.name not in open_jobs:
            shutil.rmtree(folder, ignore_errors=True)
