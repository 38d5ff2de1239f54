"""Request and response bodies. Requests are strict: no coercion, no unknown members."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.identity.caller import Scope, Tenant
from privacy.runs import MAX_ROWS

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 in hex")]
JobId = Annotated[str, Field(pattern="^job_[0-9a-f]{32}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]
MAX_NODE_NAME = 68
"""A node's has 63 characters at most; a peer's begins with `peer:`."""
Lifetime = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Time = Annotated[str, Field(description="RFC 3339, UTC, milliseconds")]


PRINTABLE = "^[^\\x00-\\x1f\\x7f]*$"


class StrictRequest(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class JobIn(StrictRequest):
    """One request against one model in one mode."""

    model: Name
    version: Name | None = Field(None, description="The newest by default.")
    model_sha256: Sha256 | None = Field(
        None, description="Refuse (409) if the model is not this one."
    )
    mode: Annotated[
        str, Field(max_length=20, examples=["fhe", "zkml", "tee", "tee+zkml"])
    ]
    input: Sha256 = Field(description="An input blob uploaded before.")
    keys: Sha256 | None = Field(
        None, description="FHE evaluation keys uploaded before, where needed."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Echoed in the receipt; at most 4 kB."
    )
    verify: Literal["always", "never", "sampled"] = Field(
        "sampled", description="Look at it twice, after the first answer."
    )


class ApiKeyIn(StrictRequest):
    """A new API key."""

    tenant: Tenant | None = Field(None, description="The caller's own by default.")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=7)]
    name: Annotated[str, Field(max_length=100, pattern=PRINTABLE)] = ""
    expires_in_s: Lifetime | None = None


class RotationIn(StrictRequest):
    """A new text for an API key."""

    overlap_s: Annotated[float, Field(ge=0, le=90 * 86400)] = 0.0
    expires_in_s: Lifetime | None = Field(None, description="As before by default.")


class ApiKeyOut(BaseModel):
    """An API key; its text is shown once, when it is made."""

    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    previous_until: Time | None = Field(
        description="Until when the text before the last rotation works."
    )
    last_used_at: Time | None = Field(description="To the minute.")


class NewApiKeyOut(ApiKeyOut):
    """A new API key with its text."""

    key: str = Field(description="Shown this once.")


class ApiKeysOut(BaseModel):
    """Every API key."""

    api_keys: list[ApiKeyOut]


Limit = Annotated[int, Field(ge=0, le=1 << 53)]
Count = Annotated[int, Field(ge=0, le=(1 << 31) - 1)]


class TenantLimits(StrictRequest):
    """Limits of one tenant; null for the gateway's own."""

    quota_bytes: Limit | None = Field(None, description="Of all its uploads.")
    max_queued_jobs: Count | None = Field(None, description="Waiting jobs of a mode.")
    submits_per_minute: Count | None = Field(
        None, description="POST requests; 0 for any number, as for the others."
    )
    uploads_per_minute: Count | None = None
    reads_per_minute: Count | None = None
    verify_share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Of jobs that are looked at twice."
    )


class TenantIn(TenantLimits):
    """A new tenant."""

    id: Tenant
    name: Annotated[str, Field(max_length=100, pattern=PRINTABLE)] = ""


class TenantChange(TenantLimits):
    """What to change of a tenant; what is left out stays."""

    name: Annotated[str, Field(max_length=100, pattern=PRINTABLE)] = ""
    state: Literal["active", "suspended"] = "active"


class TenantOut(BaseModel):
    """A tenant; limits that are null are the gateway's own."""

    id: str
    name: str
    state: Literal["active", "suspended", "deleting", "deleted"]
    quota_bytes: int | None
    max_queued_jobs: int | None
    submits_per_minute: int | None
    uploads_per_minute: int | None
    reads_per_minute: int | None
    verify_share: float | None
    created_at: Time
    changed_at: Time


class TenantsOut(BaseModel):
    """Every tenant."""

    tenants: list[TenantOut]


class ModelOut(BaseModel):
    """A model in the list."""

    name: str
    version: str
    model_sha256: str
    publisher: str = Field(description="Key id of who signed it; empty if nobody did.")
    task: str
    published_at: Time
    modes: dict[str, bool | str] = Field(
        description="For each mode true, or the reason why it is not offered."
    )
    columns: int


class ModelsOut(BaseModel):
    """Every version of every model, the newest first."""

    models: list[ModelOut]


class BlobOut(BaseModel):
    """An uploaded blob."""

    sha256: str
    bytes: int


class UploadOut(BaseModel):
    """An upload of the tenant's."""

    sha256: str
    bytes: int
    keyset_sha256: str
    created_at: Time
    used_at: Time
    expires_at: Time = Field(description="Unless a job uses it before.")


class UploadsOut(BaseModel):
    """A tenant's uploads of one kind, the newest first, and its quota for all."""

    uploads: list[UploadOut]
    used_bytes: int
    quota_bytes: int


class JobOut(BaseModel):
    """A job."""

    id: str
    status: Status
    model: str
    version: str
    model_sha256: str
    mode: str
    input_sha256: str
    keys_sha256: str | None
    options: dict[str, JsonValue]
    submitted_at: Time
    started_at: Time | None
    finished_at: Time | None
    progress: dict[str, JsonValue] | None
    attempts: int
    problem: dict[str, JsonValue] | None
    output_sha256: str | None
    evidence_sha256: str | None
    evidence_kind: str = Field(description='"proof", "attestation" or empty')
    simulated: bool
    peer: str | None = Field(
        None, description="The other operator's gateway that ran it."
    )
    who_sees_what: dict[str, str]
    links: dict[str, str]


class JobsOut(BaseModel):
    """A tenant's jobs, the newest first."""

    jobs: list[JobOut]


class EstimateIn(StrictRequest):
    """A job that may be sent."""

    model: Name
    version: Name | None = Field(None, description="The newest by default.")
    modes: Annotated[
        list[Annotated[str, Field(max_length=20)]], Field(max_length=8)
    ] = Field(default_factory=list, description="Every mode by default.")
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]


class EstimateOut(BaseModel):
    """What one job will take; null where nothing is known."""

    basis: Literal["measured", "publisher", "none"] = Field(
        description="Runs here, the publisher's figures, or nothing."
    )
    runs: int = Field(description="How many runs it stands on.")
    latency_s: float | None = Field(
        description="Submission to answer; half of all jobs."
    )
    slow_latency_s: float | None = Field(description="Of 19 in 20 jobs.")
    queue_s: float | None = Field(description="Of it, waiting for a node.")
    load_s: float | None = Field(description="Of it, if engine and model are not warm.")
    bytes_up: int | None = Field(description="Of the input, without keys.")
    bytes_down: int | None = Field(description="Of output and evidence.")
    memory_bytes: int | None = Field(description="On the node.")


class NodeEstimateOut(EstimateOut):
    """What it will take on one node."""

    node: str


class ModeEstimateOut(EstimateOut):
    """What it will take in one mode."""

    mode: str
    reason: str = Field(description="Why the mode is not offered; empty if it is.")
    simulated: bool
    keys_bytes: int = Field(description="Of the evaluation keys that it needs.")
    keys_uploaded: bool = Field(description="The tenant has uploaded such keys.")
    nodes: list[NodeEstimateOut] = Field(description="Of those that have run it.")


class EstimatesOut(BaseModel):
    """Estimates by mode."""

    model: str
    version: str
    model_sha256: str
    rows: int
    modes: list[ModeEstimateOut]


class RunOut(BaseModel):
    """One run of a job that is compared."""

    job_id: str
    node: str = Field(description="Empty while it has not finished.")


class ComparisonOut(BaseModel):
    """What became of looking at a job twice."""

    job_id: str
    mode: str
    why: str = Field(description='"always" or "sampled"')
    state: str = Field(
        description="planned, running, compare (waits for the data owner's report), "
        "agreed, checked, disputed or impossible"
    )
    detail: str
    runs: list[RunOut]
    dispute_id: str | None
    created_at: Time
    changed_at: Time


class ComparisonsOut(BaseModel):
    """A tenant's comparisons, the newest first."""

    comparisons: list[ComparisonOut]


class ReportIn(StrictRequest):
    """What a data owner found on decrypting the runs of a job."""

    groups: Annotated[
        list[Annotated[list[JobId], Field(min_length=1, max_length=3)]],
        Field(min_length=1, max_length=3, description="Runs that agree, together."),
    ]
    digests: dict[str, Sha256] = Field(
        description="Of each run's answer, salted: the owner can open them later."
    )
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]
    differing_rows: Annotated[int, Field(ge=0, le=MAX_ROWS)]


class DisputedRunOut(RunOut):
    """One run of a disputed job."""

    receipt: str = Field(description="The receipt file, as signed.")


class DisputeOut(BaseModel):
    """Runs of one job that do not agree."""

    id: str
    job_id: str
    tenant: str
    model: str
    version: str
    model_sha256: str
    mode: str
    state: str = Field(description="open, decided or resolved")
    verdict: str = Field(description="evidence, majority, agreed, operator or empty")
    at_fault: str = Field(description="The node, or empty.")
    runs: list[DisputedRunOut]
    claims: list[dict[str, JsonValue]] = Field(description="What was reported.")
    note: str
    opened_at: Time
    resolved_at: Time | None
    resolved_by: str


class DisputesOut(BaseModel):
    """Disputes, the newest first."""

    disputes: list[DisputeOut]


class ResolutionIn(StrictRequest):
    """An operator's decision on a dispute."""

    at_fault: Annotated[str, Field(max_length=MAX_NODE_NAME, pattern=PRINTABLE)] = (
        Field("", description="The node, which is quarantined; empty if none is.")
    )
    note: Annotated[str, Field(max_length=500, pattern=PRINTABLE)] = ""


class QuarantineIn(StrictRequest):
    """Why a node gets no more jobs."""

    why: Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)] = (
        "by an operator"
    )


class NodeStateOut(BaseModel):
    """A node that is not as it should be."""

    node: str
    state: str = Field(description="suspect or quarantined")
    why: str
    at: Time


class NodeModeOut(BaseModel):
    """What a node offers of one mode."""

    workers: int
    busy: int
    time_limit_s: float | None = Field(description="null until it has run a job")


class NodeOut(BaseModel):
    """A machine that runs jobs."""

    name: str
    kind: str = Field(description='"local", "ray" or "peer"')
    state: str = Field(
        description='"ready", "lost", "quarantined"; a peer\'s also "unreachable", '
        '"distrusted"'
    )
    cpus: int
    gpus: int
    memory_bytes: int
    enclave_evidence: str
    url: str = Field("", description="Of a peer.")
    detail: str = Field("", description="Why a peer gets no jobs now.")
    doubt: str = Field(
        "", description="If it is a suspect or in quarantine; why, for operators."
    )
    modes: dict[str, NodeModeOut]


class PeerLieOut(BaseModel):
    """Why a peer was distrusted."""

    id: int
    peer: str
    job_id: str = Field(description="Ours, that it was asked to run; or empty.")
    code: str
    message: str
    said: dict[str, JsonValue] = Field(description="What was asked and answered.")
    at: Time
    distrusted_until: Time


class PeerLiesOut(BaseModel):
    """Why a peer was distrusted, the newest first."""

    lies: list[PeerLieOut]


class NodesOut(BaseModel):
    """Every node."""

    nodes: list[NodeOut]


class HealthOut(BaseModel):
    """Whether the gateway is alive or ready."""

    status: str


class ReadyOut(HealthOut):
    """That the gateway takes jobs, and what was looked at."""

    checks: dict[str, str]


class JwksOut(BaseModel):
    """The receipt keys as a JSON Web Key Set, and what was said about them."""

    keys: list[dict[str, JsonValue]]
    history: list[dict[str, JsonValue]] = Field(
        description="Signed statements, each bound to the one before."
    )


class InclusionOut(BaseModel):
    """Where a receipt is in the log; hashes are base64, as in tree heads."""

    index: int
    size: int
    path: list[str] = Field(description="RFC 9162 inclusion proof, from the leaf up.")


class ConsistencyOut(BaseModel):
    """That a log begins with an earlier one."""

    from_: int = Field(alias="from")
    to: int
    path: list[str] = Field(description="RFC 9162 consistency proof.")


class LeavesOut(BaseModel):
    """Leaf hashes of the log, in order."""

    start: int
    leaf_hashes: list[str]


class AuditOut(BaseModel):
    """Entries of the audit log, and where its chain ends."""

    lines: list[str] = Field(description="One canonical JSON object each.")
    size: int
    sha256: str = Field(description="Of the last entry.")
    archived_size: int = Field(description="Entries up to here are in archive files.")
    archived_sha256: str


class AuditHeadsOut(BaseModel):
    """Signed tree heads."""

    heads: list[str]
