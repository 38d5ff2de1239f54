"""A job as clients see it."""

from gateway.store.jobs import Job
from privacy.encoding import Json
from privacy.modes import Mode, who_sees_what


def job_view(job: Job, progress: Json | None) -> Json:
    """Return a job as JSON; `progress` is the latest report while it runs."""
    here = f"/v1/jobs/{job.id}"
    parts = ["events", "result", "evidence", "receipt", "comparison"]
    if job.peer:
        parts.append("peer-receipt")
    return {
        "id": job.id,
        "status": job.status,
        "model": job.model,
        "version": job.version,
        "model_sha256": job.model_sha256,
        "mode": job.mode,
        "input_sha256": job.input_sha256,
        "keys_sha256": job.keys_sha256 or None,
        "options": job.options,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at or None,
        "finished_at": job.finished_at or None,
        "progress": progress or None,
        "attempts": job.attempts,
        "problem": job.problem,
        "output_sha256": job.output_sha256 or None,
        "evidence_sha256": job.evidence_sha256 or None,
        "evidence_kind": job.evidence_kind,
        "simulated": job.simulated,
        "peer": job.peer or None,
        "who_sees_what": who_sees_what(
            Mode(job.mode), simulated=job.simulated, peer=job.peer
        ).as_dict(),
        "links": {
            "self": here,
            **{part: f"{here}/{part}" for part in parts},
        },
    }
