"""What is looked at before a job is taken: model, mode, uploads, options, room."""

import secrets
from dataclasses import asdict, dataclass
from functools import partial

from gateway.executors.scheduler import Scheduler
from gateway.jobs.membership import Membership
from gateway.peers.hops import check_options
from gateway.peers.peers import Peers
from gateway.quality.service import SECOND_RUN_OF, Quality, Wish
from gateway.registry import ModelRegistry
from gateway.store.blobs import BlobStore
from gateway.store.jobs import Job, Jobs, NewJob
from gateway.store.parts import Owner
from gateway.store.tenants import Tenants
from gateway.store.uploads import Uploads
from privacy.bundle import Bundle, ModePart
from privacy.encoding import Json, canonical_json, sha256_hex
from privacy.errors import ConflictError, FormatError
from privacy.fhe.options import DEFAULT_P_ERROR
from privacy.modes import Mode, parse_mode

_MAX_OPTIONS_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What a tenant asks for; see `POST /v1/jobs`."""

    model: str
    mode: str
    input_sha256: str
    version: str | None = None
    model_sha256: str | None = None
    keys_sha256: str | None = None
    options: Json
    verify: Wish = "sampled"

    @property
    def sha256(self) -> str:
        """The digest that an idempotency key is bound to."""
        return sha256_hex(canonical_json(asdict(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Takes jobs, and writes them down.

    Attributes:
        max_queued: Jobs of a mode that wait.
        max_queued_by_tenant: Those of one tenant, unless it has a number of its own.
        simulated_enclaves: What the node's enclaves show proves nothing.
    """

    jobs: Jobs
    blobs: BlobStore
    uploads: Uploads
    tenants: Tenants
    registry: ModelRegistry
    executor: Scheduler
    membership: Membership
    quality: Quality
    peers: Peers
    max_queued: int
    max_queued_by_tenant: int
    simulated_enclaves: bool

    def accept(
        self, request: JobRequest, tenant: str, idempotency_key: str | None
    ) -> tuple[Job, bool]:
        """Return the stored job and whether it is new; blocks.

        Raises:
            NotFoundError: No such model, mode or uploaded blob.
            ConflictError: The model changed, or the idempotency key was used.
            FormatError: Keys are missing or not wanted, or options are too long.
            LimitError: The queue is full.
            UnavailableError: No node may run it.
        """
        if idempotency_key:
            earlier = self.jobs.repeated(tenant, idempotency_key, request.sha256)
            if earlier:
                return earlier, False
        mode = parse_mode(request.mode)
        bundle = self.registry.get(request.model, request.version)
        part = bundle.manifest.mode(mode)
        _check(request, mode, bundle, part)
        if Mode.TEE in mode.parts:  # it is sealed to one enclave: say so before it runs
            avoid = self.peers.avoided(request.options)
            self.executor.check_stays(mode, bundle, avoid)
        self.uploads.use(Owner(tenant, "blob", request.input_sha256))
        if request.keys_sha256:
            keys = self.uploads.use(Owner(tenant, "keys", request.keys_sha256))
            _check_keyset(keys.keyset_sha256, part)
        new = NewJob(
            id=f"job_{secrets.token_hex(16)}",
            tenant=tenant,
            idempotency_key=idempotency_key,
            request_sha256=request.sha256,
            model=bundle.manifest.name,
            version=bundle.manifest.version,
            model_sha256=bundle.sha256,
            mode=mode,
            simulated=Mode.TEE in mode.parts and self.simulated_enclaves,
            input_sha256=request.input_sha256,
            keys_sha256=request.keys_sha256 or "",
            options=_marked(request.options, part),
            gateway=self.membership.gateway_for(
                mode, partial(self.blobs.fetch, request.input_sha256)
            ),
        )
        return self.jobs.accept(
            new,
            max_queued=self.max_queued,
            max_queued_by_tenant=self._most_queued(tenant),
            also=self.quality.plan(new, request.verify),
        )

    def _most_queued(self, tenant: str) -> int:
        own = self.tenants.own(tenant).max_queued_jobs
        return self.max_queued_by_tenant if own is None else own


def _check(request: JobRequest, mode: Mode, bundle: Bundle, part: ModePart) -> None:
    if request.model_sha256 not in {None, bundle.sha256}:
        msg = (
            f"model {request.model} has digest {bundle.sha256[:12]}…, expected "
            f"{str(request.model_sha256)[:12]}…: fetch its manifest again"
        )
        raise ConflictError(msg, code="model-changed")
    wants_keys = mode is Mode.FHE and part.params.get("needs_keys", True)
    if wants_keys and not request.keys_sha256:
        msg = "this model needs evaluation keys: upload them and name them in `keys`"
        raise FormatError(msg, code="keys-missing")
    if request.keys_sha256 and mode is not Mode.FHE:
        msg = f"mode {mode} takes no evaluation keys: leave `keys` out"
        raise FormatError(msg, code="keys-not-wanted")
    if SECOND_RUN_OF in request.options:
        msg = f"the option {SECOND_RUN_OF} is the gateway's own: leave it out"
        raise FormatError(msg, code="reserved-option")
    if len(canonical_json(request.options)) > _MAX_OPTIONS_BYTES:
        msg = f"options have more than {_MAX_OPTIONS_BYTES} bytes: leave some out"
        raise FormatError(msg, code="options-too-long")
    check_options(request.options)


def _check_keyset(found: str, part: ModePart) -> None:
    """Refuse keys that were uploaded for another key set than the model's."""
    expected = part.params.get("keyset_sha256", "")
    if found and expected and found != expected:
        msg = (
            f"these evaluation keys were uploaded for key set {found[:12]}…, the model "
            f"has {expected[:12]}…: name the keys of that one"
        )
        raise FormatError(msg, code="fhe-keys-mismatch")


def _marked(options: Json, part: ModePart) -> Json:
    """Return a job's options, with what its model's publisher relaxed for it."""
    relaxed: Json = {"insecure_srs": True} if part.params.get("insecure_srs") else {}
    if part.params.get("p_error", 0) > DEFAULT_P_ERROR:
        relaxed["p_error"] = part.params["p_error"]
    return {**options, **relaxed}
