"""One gateway with all it holds: opened, started, stopped and closed in this order."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.background import every
from gateway.executors.base import Engines
from gateway.executors.node import LocalNode
from gateway.executors.scheduler import Scheduler
from gateway.identity.rates import Rates
from gateway.jobs.deletions import Deletions
from gateway.jobs.ends import Ends
from gateway.jobs.hub import Hub
from gateway.jobs.intake import Intake
from gateway.jobs.membership import Membership
from gateway.jobs.runs import Runs
from gateway.jobs.service import JobService
from gateway.lock import FolderLock
from gateway.log_keeper import LogKeeper, Refusals
from gateway.logs import error_id_of
from gateway.opening import open_blobs, open_database, open_uploads
from gateway.peers.peers import Peers
from gateway.quality.service import Quality, watch
from gateway.registry import ModelRegistry
from gateway.settings import Settings
from gateway.signing import KEY_FILE, ReceiptKeys
from gateway.store.api_keys import ApiKeys
from gateway.store.audit import WHO, Act, Audit, Who
from gateway.store.away import StoreAwayError
from gateway.store.blobs import BlobStore
from gateway.store.comparisons import Comparisons
from gateway.store.contract_inputs import ContractInputs
from gateway.store.database import Database
from gateway.store.disputes import Disputes
from gateway.store.gateways import Gateways
from gateway.store.jobs import Jobs
from gateway.store.measures import Measures
from gateway.store.node_states import NodeStates
from gateway.store.peers import PeerStore
from gateway.store.receipt_log import ReceiptLog
from gateway.store.results import Results
from gateway.store.tenants import Tenants
from gateway.store.uploads import Uploads
from gateway.store.webhooks import Webhooks
from gateway.webhooks.secrets import WebhookSecrets, load_webhook_secrets
from gateway.webhooks.sender import Sender
from privacy import __version__
from privacy.encoding import Json
from privacy.errors import PrivacyError
from privacy.publisher import Trust, load_trust

if TYPE_CHECKING:
    from gateway.executors.ray.cluster import RayCluster
    from gateway.identity.tokens import Tokens

_log = structlog.get_logger()
_REFUSALS_S = 10.0
_ARCHIVE_S = 3600.0
_LOST_FILES_S = 3600.0
_ITSELF = Who(actor="gateway")
_MEASURES_S = 5.0


class Gateway:
    """What the routes reach through `request.app.state.gateway`."""

    database: Database
    api_keys: ApiKeys
    tenants: Tenants
    tokens: "Tokens | None"
    blobs: BlobStore
    uploads: Uploads
    contract_inputs: ContractInputs
    jobs: Jobs
    gateways: Gateways
    membership: Membership
    measures: Measures
    comparisons: Comparisons
    disputes: Disputes
    node_states: NodeStates
    peers: Peers
    results: Results
    webhooks: Webhooks
    webhook_secrets: WebhookSecrets
    registry: ModelRegistry
    receipt_keys: ReceiptKeys
    receipt_log: ReceiptLog
    audit: Audit
    refusals: Refusals
    scheduler: Scheduler
    quality: Quality
    service: JobService
    deletions: Deletions

    def __init__(self, settings: Settings, engines: Engines) -> None:
        """Describe a gateway; nothing is touched before `open`."""
        self.settings = settings
        self.rates = Rates(settings.rate_limits)
        self.ready = self.draining = False
        self.failure: PrivacyError | None = None  # why it could not start
        self._background: list[asyncio.Task[None]] = []
        self._engines = engines
        self._lock: FolderLock | None = None
        self._trusted: Trust | None = None

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
        self._cluster = self._ray_cluster()
        self.simulated_enclaves = self.settings.evidence_source.is_simulated()
        self._lock = FolderLock(data_dir)
        self.database = open_database(data_dir, self.settings.database_url)
        self.audit = Audit(self.database, gateway=self.settings.node_name)
        self.refusals = Refusals()
        self.receipt_log = ReceiptLog(self.database)
        key_file = self.settings.receipt_key or data_dir / KEY_FILE
        self.receipt_keys = ReceiptKeys(key_file, self.database)
        self.api_keys = ApiKeys(self.database)
        self.tenants = Tenants(self.database)
        self.tokens = _tokens(self.settings)
        self.blobs = open_blobs(self.settings)
        self.uploads = open_uploads(self.settings, self.database, self.blobs)
        self.contract_inputs = ContractInputs(
            self.database,
            self.blobs,
            self.uploads,
            ttl_s=self.settings.contract_inputs_ttl_s,
        )
        self.jobs = Jobs(self.database)
        self.measures = Measures(self.database)
        self.comparisons = Comparisons(self.database)
        self.disputes = Disputes(self.database)
        self.node_states = NodeStates(self.database)
        self.gateways = Gateways(self.database)
        self.results = Results(self.uploads, ttl_s=self.settings.results_ttl_s)
        self.webhook_secrets = load_webhook_secrets(
            self.settings.webhook_key_file or data_dir / "webhooks.key"
        )
        self.webhooks = Webhooks(self.database, key_id=self.webhook_secrets.key_id)
        self.registry = ModelRegistry(self.settings.models_dir, self._trust)
        self.peers = Peers(
            self.settings,
            PeerStore(self.database),
            key_ids=self.receipt_keys.key_ids,
            simulated=self.simulated_enclaves,
        )

    async def start(self) -> None:
        """Start running jobs, those of an earlier life first.

        What was started is stopped again if the rest cannot be.
        """
        try:
            await self._start()
        except BaseException as exc:
            self.failure = exc if isinstance(exc, PrivacyError) else None
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        # Tasks begun here act on this gateway's behalf; requests say on whose they do.
        WHO.set(Who(actor="gateway", gateway=settings.node_name))
        self.membership = Membership(
            self.gateways,
            self.jobs,
            settings.data_dir,
            name=settings.node_name,
            lease_s=settings.lease_s,
        )
        await asyncio.to_thread(self.membership.outlive_namesake)
        work = settings.data_dir / "work"
        await asyncio.to_thread(_forget_finished, work, self.jobs.unfinished())
        self.scheduler = Scheduler(
            node_wait_s=settings.node_wait_s if settings.ray_address else 0.0,
            quarantined=self.node_states.quarantined,
        )
        if settings.local_modes:
            self.scheduler.add(await asyncio.to_thread(self._local_node))
        if self._cluster:
            self._cluster.start(self.scheduler, reserved=self.membership.names)
        self.quality = Quality(
            database=self.database,
            comparisons=self.comparisons,
            disputes=self.disputes,
            states=self.node_states,
            tenants=self.tenants,
            jobs=self.jobs,
            blobs=self.blobs,
            registry=self.registry,
            scheduler=self.scheduler,
            share=settings.verify_share,
            accusers=settings.quarantine_accusers,
            gateway=self.membership.id,
            collateral=str(settings.home / "collateral"),
        )
        await self.peers.start(self.scheduler)
        self.service = JobService(
            intake=self._intake(),
            ends=self._ends(),
            jobs=self.jobs,
            blobs=self.blobs,
            registry=self.registry,
            executor=self.scheduler,
            hub=Hub(),
            folder=work,
            runs=Runs(threads=16 if settings.blobs_s3 else 2),
            membership=self.membership,
            measures=self.measures,
            quality=self.quality,
            peers=self.peers,
        )
        for job_id in await asyncio.to_thread(self.membership.join):
            self.service.begin(job_id)
        self._keeper = self._log_keeper()
        self.deletions = Deletions(
            database=self.database,
            tenants=self.tenants,
            uploads=self.uploads,
            service=self.service,
            log_receipts=self._keeper.tick,
        )
        self._background = [asyncio.create_task(self._sweep())]
        await asyncio.to_thread(self.audit.record, _started(settings))
        self._background += [
            asyncio.create_task(self.membership.run(self.service, self.service.hub)),
            asyncio.create_task(self._sender().run()),
            asyncio.create_task(every(_MEASURES_S, self.measures.write)),
            asyncio.create_task(watch(self.quality, self.service.begin)),
            asyncio.create_task(self.peers.watch(self.scheduler)),
            asyncio.create_task(self.deletions.run(settings.sweep_every_s)),
            asyncio.create_task(every(settings.log_every_s, self._keeper.tick)),
            asyncio.create_task(every(_REFUSALS_S, self._keeper.note_refusals)),
            asyncio.create_task(every(_ARCHIVE_S, self._keeper.archive)),
        ]
        self.ready = True
        _log.info(
            "started",
            node=settings.node_name,
            models=len(self.registry.all()),
            enclave_evidence=settings.enclave_evidence,
            simulated_enclaves=self.simulated_enclaves,
        )

    async def drain(self) -> None:
        """Take no new jobs, and wait for those that run, for `drain_s` at most.

        Jobs that have not begun stay as they are: for another gateway, or the next
        start.
        """
        self.ready, self.draining = False, True
        left = await self.service.drain(self.settings.drain_s)
        _log.info("drained", node=self.settings.node_name, still_running=left)

    async def stop(self) -> None:
        """Stop workers and enclaves; unfinished jobs go on at the next start."""
        self.ready = False
        begun = vars(self)  # a start that broke off has made only some of these
        for task in self._background:
            task.cancel()
        if "scheduler" in begun:
            await self.scheduler.close()
        if self._cluster:
            await self._cluster.close()
        if "service" in begun:
            await self.service.runs.close()
        if "membership" in begun:
            try:
                await asyncio.to_thread(self.membership.leave)
            except StoreAwayError as exc:  # others find out by themselves
                _log.warning("store-away", code=exc.code)
        if "_keeper" in begun:
            await asyncio.to_thread(self._keeper.close)
        _log.info("stopped", node=self.settings.node_name)

    def close(self) -> None:
        """Give the data folder back."""
        if self._lock:
            self.database.close()
            self._lock.release()
            self._lock = None

    async def _sweep(self) -> None:
        look_at = 0.0
        while True:
            if time.monotonic() >= look_at:  # at every file there is
                await _remove(self.uploads.remove_lost_files)
                look_at = time.monotonic() + _LOST_FILES_S
            await _remove(self.uploads.sweep)
            await _remove(self.contract_inputs.sweep)
            await _remove(self.results.sweep)
            await _remove(self.gateways.sweep)
            await _remove(self.uploads.trim_copies)
            await _remove(self.webhooks.sweep)
            await _remove(self.comparisons.sweep)
            await asyncio.sleep(self.settings.sweep_every_s)

    def _sender(self) -> Sender:
        return Sender(
            webhooks=self.webhooks,
            secrets=self.webhook_secrets,
            rules=self.settings.webhook_rules,
        )

    def _trust(self) -> Trust:
        trust = load_trust(
            self.settings.home,
            self.settings.trusted_publishers,
            allow_unsigned=self.settings.allow_unsigned_bundles,
        )
        if self._trusted not in {None, trust}:
            self.audit.record(_trust_changed(trust))
        self._trusted = trust
        return trust

    def _intake(self) -> Intake:
        return Intake(
            jobs=self.jobs,
            blobs=self.blobs,
            uploads=self.uploads,
            tenants=self.tenants,
            registry=self.registry,
            executor=self.scheduler,
            membership=self.membership,
            quality=self.quality,
            peers=self.peers,
            max_queued=self.settings.max_queued_jobs,
            max_queued_by_tenant=self.settings.max_queued_jobs_by_tenant,
            simulated_enclaves=self.simulated_enclaves,
        )

    def _ends(self) -> Ends:
        return Ends(
            jobs=self.jobs,
            blobs=self.blobs,
            uploads=self.uploads,
            peers=self.peers,
            receipt_keys=self.receipt_keys,
            node_name=self.settings.node_name,
        )

    def _log_keeper(self) -> LogKeeper:
        return LogKeeper(
            self.receipt_keys,
            self.receipt_log,
            self.audit,
            self.refusals,
            archive=self.settings.data_dir / "audit",
            most_age_s=self.settings.tree_head_every_s,
            keep_s=self.settings.audit_keep_s,
        )

    def _ray_cluster(self) -> "RayCluster | None":
        """Return the cluster whose nodes join those of the scheduler, if there is one.

        Raises:
            NotFoundError: What lets this machine into it is missing.
        """
        if not self.settings.ray_address:
            return None
        from gateway.executors.ray.cluster import RayCluster

        return RayCluster(self.settings, worker_target=self._engines.worker_target)

    def _local_node(self) -> LocalNode:
        """Return this machine as a node, with the enclaves that outlived the last."""
        settings = self.settings
        folder = settings.data_dir / "enclaves"
        modes, gpus = settings.local_modes, settings.gpus
        node = LocalNode(settings, self._engines, folder, modes=modes, gpus=gpus)
        node.attach(self.registry.all())
        return node


async def _remove(sweep: Callable[[], int]) -> None:
    try:
        if files := await asyncio.to_thread(sweep):
            _log.info("swept", files=files)
    except StoreAwayError as exc:
        _log.warning("store-away", task="sweep", code=exc.code)
    except Exception as exc:  # noqa: BLE001 - the next time may go better
        error_id_of(exc, task="sweep")


def _started(settings: Settings) -> Act:
    """Return the act of starting: which settings were made, not what they say."""
    made = sorted(settings.model_fields_set)
    relaxed = [n for n in made if n.startswith("allow") and getattr(settings, n)]
    details: Json = {"version": __version__, "settings": made, "relaxed": relaxed}
    return Act(action="gateway-started", who=_ITSELF, details=details)


def _trust_changed(trust: Trust) -> Act:
    publishers, unsigned = sorted(trust.key_ids), trust.allow_unsigned
    details: Json = {"publishers": publishers, "allow_unsigned": unsigned}
    return Act(action="trust-changed", who=_ITSELF, details=details)


def _tokens(settings: Settings) -> "Tokens | None":
    if not settings.oidc_issuers:
        return None
    from gateway.identity.tokens import Tokens  # 8 MB that few gateways need

    return Tokens(settings.oidc_issuers)


def _forget_finished(work: Path, unfinished: list[str]) -> None:
    """Remove what is left of runs, except the rows of jobs that will go on."""
    open_jobs = set(unfinished)
    for folder in work.iterdir() if work.is_dir() else ():
        if folder.name not in open_jobs:
            shutil.rmtree(folder, ignore_errors=True)
