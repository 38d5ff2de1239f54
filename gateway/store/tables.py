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
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("jobs_by_tenant", "tenant", "seq"),
    sa.Index("jobs_by_status", "status"),
    sa.Index("jobs_by_output", "output_sha256"),
    sa.Index("jobs_by_evidence", "evidence_sha256"),
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
