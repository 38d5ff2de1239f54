"""The tables. Times are RFC 3339 in UTC with milliseconds, so they sort as text."""

import sqlalchemy as sa

metadata = sa.MetaData()

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("secret_sha256", sa.String, nullable=False, unique=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("expires_at", sa.String),
    sa.Column("revoked_at", sa.String),
    sa.Column("previous_sha256", sa.String),
    sa.Column("previous_until", sa.String),
    sa.Column("last_used_at", sa.String),
    sa.Index("api_keys_by_previous", "previous_sha256", unique=True),
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("quota_bytes", sa.BigInteger),
    sa.Column("max_queued_jobs", sa.Integer),
    sa.Column("submits_per_minute", sa.Integer),
    sa.Column("uploads_per_minute", sa.Integer),
    sa.Column("reads_per_minute", sa.Integer),
    sa.Column("verify_share", sa.Float),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("changed_at", sa.String, nullable=False),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("sha256", sa.String, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("keyset_sha256", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("used_at", sa.String, nullable=False),
    sa.Index("uploads_by_digest", "sha256"),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
"""How many bytes of uploads each tenant keeps: the sums of `uploads`."""

contract_inputs = sa.Table(
    "contract_inputs",
    metadata,
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Index("contract_inputs_by_name", "name", "created_at"),
)

gateways = sa.Table(
    "gateways",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("life", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("lease_s", sa.Double, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("joined_at", sa.String, nullable=False),
)

enclaves = sa.Table(
    "enclaves",
    metadata,
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("gateway", sa.String, nullable=False),
    sa.Column("seen_at", sa.String, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("idempotency_key", sa.String),
    sa.Column("request_sha256", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("model_sha256", sa.String, nullable=False),
    sa.Column("mode", sa.String, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("input_sha256", sa.String, nullable=False),
    sa.Column("keys_sha256", sa.String, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("submitted_at", sa.String, nullable=False),
    sa.Column("started_at", sa.String, nullable=False, default=""),
    sa.Column("finished_at", sa.String, nullable=False, default=""),
    sa.Column("problem", sa.JSON(none_as_null=True)),
    sa.Column("output_sha256", sa.String, nullable=False, default=""),
    sa.Column("evidence_sha256", sa.String, nullable=False, default=""),
    sa.Column("evidence_kind", sa.String, nullable=False, default=""),
    sa.Column("receipt", sa.LargeBinary),
    sa.Column("peer", sa.String, nullable=False, server_default=""),
    sa.Column("gateway", sa.String, nullable=False, server_default=""),
    sa.Column("progress", sa.JSON(none_as_null=True)),
    sa.Column("log_index", sa.BigInteger),
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("jobs_by_tenant", "tenant", "seq"),
    sa.Index("jobs_by_status", "status"),
    sa.Index("jobs_by_gateway", "gateway", "status"),
    sa.Index("jobs_by_end", "tenant", "finished_at"),
    sa.Index("jobs_by_output", "output_sha256"),
    sa.Index("jobs_by_evidence", "evidence_sha256"),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False, index=True),
    sa.Column("url", sa.String, nullable=False),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("secret_number", sa.Integer, nullable=False),
    sa.Column("old_secret_until", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("seen_until", sa.String, nullable=False),
    sa.Column("failing_since", sa.String, nullable=False),
    sa.Column("disabled_at", sa.String, nullable=False),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("webhook_id", sa.String, nullable=False),
    sa.Column("about", sa.String, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("payload", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("next_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String, nullable=False),
    sa.Column("answer", sa.String, nullable=False),
    sa.UniqueConstraint("webhook_id", "about"),
    sa.Index("webhook_deliveries_due", "status", "next_at"),
)

run_measures = sa.Table(
    "run_measures",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model_sha256", sa.String, nullable=False),
    sa.Column("mode", sa.String, nullable=False),
    sa.Column("node", sa.String, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("queue_s", sa.Float, nullable=False),
    sa.Column("load_s", sa.Float, nullable=False),
    sa.Column("run_s", sa.Float, nullable=False),
    sa.Column("bytes_up", sa.BigInteger, nullable=False),
    sa.Column("bytes_down", sa.BigInteger, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Index("run_measures_by_model", "model_sha256", "mode", "id"),
)

_NOT_LOGGED = sa.and_(jobs.c.log_index.is_(None), jobs.c.receipt.is_not(None))
sa.Index(
    "jobs_not_logged",
    jobs.c.finished_at,
    postgresql_where=_NOT_LOGGED,
    sqlite_where=_NOT_LOGGED,
)

comparisons = sa.Table(
    "comparisons",
    metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("mode", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False, default=""),
    sa.Column("second_job_id", sa.String, nullable=False, default=""),
    sa.Column("third_job_id", sa.String, nullable=False, default=""),
    sa.Column("dispute_id", sa.String, nullable=False, default=""),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("changed_at", sa.String, nullable=False),
    sa.Index("comparisons_by_state", "state"),
    sa.Index("comparisons_by_tenant", "tenant", "created_at"),
)

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("job_id", sa.String, nullable=False),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("model_sha256", sa.String, nullable=False),
    sa.Column("mode", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False, default=""),
    sa.Column("at_fault", sa.String, nullable=False, default=""),
    sa.Column("runs", sa.JSON, nullable=False),
    sa.Column("claims", sa.JSON, nullable=False),
    sa.Column("note", sa.String, nullable=False, default=""),
    sa.Column("opened_at", sa.String, nullable=False),
    sa.Column("resolved_at", sa.String, nullable=False, default=""),
    sa.Column("resolved_by", sa.String, nullable=False, default=""),
    sa.Index("disputes_by_tenant", "tenant", "opened_at"),
    sa.Index("disputes_by_state", "state"),
    sa.Index("disputes_by_fault", "at_fault"),
)

pins = sa.Table(
    "pins",
    metadata,
    sa.Column("dispute_id", sa.String, primary_key=True),
    sa.Column("sha256", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Index("pins_by_digest", "sha256"),
)

node_states = sa.Table(
    "node_states",
    metadata,
    sa.Column("node", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)

peer_receipts = sa.Table(
    "peer_receipts",
    metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("receipt", sa.LargeBinary, nullable=False),
)

peer_lies = sa.Table(
    "peer_lies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("job_id", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("said", sa.JSON, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("distrusted_until", sa.String, nullable=False),
    sa.Index("peer_lies_by_peer", "peer", "id"),
)
