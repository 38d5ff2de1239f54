"""How runs of jobs end: files, outcome and receipt are written together, once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import structlog

from gateway.executors.base import Done
from gateway.logs import error_id_of
from gateway.peers.peers import Peers
from gateway.problems import internal_problem, problem_of
from gateway.signing import ReceiptKeys
from gateway.store.away import full_disk
from gateway.store.blobs import BlobStore
from gateway.store.jobs import Job, Jobs, Outcome
from gateway.store.uploads import Uploads
from privacy.encoding import sha256_file, sha256_hex
from privacy.errors import NotFoundError, PrivacyError
from privacy.receipt import Receipt

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the files that it made, by digest, and who computed."""

    outcome: Outcome
    files: Mapping[str, Path] = field(default_factory=dict)
    node: str = ""
    peer_receipt: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Writes how jobs end.

    Attributes:
        node_name: In receipts of jobs that no node ended.
    """

    jobs: Jobs
    blobs: BlobStore
    uploads: Uploads
    peers: Peers
    receipt_keys: ReceiptKeys
    node_name: str

    def write(
        self,
        job_id: str,
        end: Ended,
        *,
        by: str | None = None,
        known: Job | None = None,
    ) -> tuple[Job, bool]:
        """Return a job as it has ended, and whether it ended so just now; blocks.

        Args:
            job_id: The job.
            end: How it ended, unless it had ended before.
            by: Not if another gateway runs it by now.
            known: The job as it is likely to be, which saves reading it.

        Raises:
            NotFoundError: It was deleted (`is_gone`).
            UnavailableError: What is needed is away: try again, it is harmless.
        """

        def keep(c: sa.Connection) -> None:
            if end.peer_receipt:
                self.peers.keep(c, job_id, end.peer_receipt)
            with full_disk():
                for sha256, file in end.files.items():
                    self.blobs.keep(file, sha256)

        for sha256, file in end.files.items():
            self.blobs.bring(file, sha256)
        seal = partial(self.seal, end)
        try:
            job, ended = self.jobs.finish(
                job_id, end.outcome, seal, keep=keep, by=by, known=known
            )
        except NotFoundError as exc:
            if is_gone(exc):
                self._take_back(end)
            raise
        if not ended:
            self._take_back(end)
        return job, ended

    def _take_back(self, end: Ended) -> None:
        """Remove what was brought of a run whose end came too late."""
        if end.files:
            with self.uploads.removing() as c:
                self.uploads.remove_unneeded(c, set(end.files))

    def seal(self, end: Ended, job: Job, outcome: Outcome, finished_at: str) -> bytes:
        """Return the receipt file of a job that ends now."""
        receipt = Receipt(
            job_id=job.id,
            model=job.model,
            version=job.version,
            model_sha256=job.model_sha256,
            mode=job.mode,
            status=outcome.status,
            problem=str(outcome.problem["code"]) if outcome.problem else "",
            input_sha256=job.input_sha256,
            keys_sha256=job.keys_sha256,
            output_sha256=outcome.output_sha256,
            evidence_kind=outcome.evidence_kind,
            evidence_sha256=outcome.evidence_sha256,
            node=end.node or self.node_name,
            simulated=job.simulated,
            options=job.options,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            finished_at=finished_at,
            peer_receipt_sha256=sha256_hex(end.peer_receipt)
            if end.peer_receipt
            else "",
        )
        return self.receipt_keys.sign(receipt)


def succeeded(done: Done) -> Ended:
    """Return how a run ended that gave files; blocks."""
    output_sha256 = sha256_file(done.output)
    evidence_sha256 = sha256_file(done.evidence) if done.evidence else ""
    files = {output_sha256: done.output}
    if done.evidence:
        files[evidence_sha256] = done.evidence
    outcome = Outcome(
        "succeeded",
        output_sha256=output_sha256,
        evidence_sha256=evidence_sha256,
        evidence_kind=done.evidence_kind,
        peer=done.node if done.peer_receipt else "",
    )
    return Ended(outcome, files, done.node, done.peer_receipt)


def defect(exc: Exception, job_id: str) -> Outcome:
    """Return how a job ends under which the gateway itself failed; it is logged."""
    return Outcome("failed", internal_problem(error_id_of(exc, job=job_id)))


def failure(exc: PrivacyError, job_id: str) -> Outcome:
    """Return how a job ends that was refused, or whose engine failed."""
    if exc.code == "cancelled":
        return Outcome("cancelled")
    _log.warning("job-failed", job=job_id, code=exc.code, family=type(exc).__name__)
    return Outcome("failed", problem_of(exc, instance=f"/v1/jobs/{job_id}"))


def is_gone(exc: Exception) -> bool:
    """Whether a job was deleted meanwhile, with its tenant; nothing else counts."""
    return isinstance(exc, NotFoundError) and exc.code == "unknown-job"
