"""Looks at jobs twice, by policy, and never while anybody waits for the first answer.

1. Whether a job is looked at is drawn when it is accepted, and written down with it;
   no node is told.
2. zkml, tee: once it has succeeded, its evidence is checked here, in a child process.
   False evidence is the node's fault, whoever made it.
3. fhe: it is run again on another node, as a job with a receipt of its own. Ciphertexts
   of equal answers differ, so only the data owner can compare, who reports.
4. Two runs that differ open a dispute, and a third node runs the job. Who is alone then
   is at fault; where there is no third node, both are suspects and an operator decides.
5. Who is at fault gets no more jobs, on any gateway, until an operator releases it.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa
import structlog

from gateway.executors.scheduler import Scheduler
from gateway.logs import error_id_of
from gateway.quality.evidence import TARGET
from gateway.quality.verdicts import Report, Verdict, judge
from gateway.registry import ModelRegistry
from gateway.store.blobs import BlobStore
from gateway.store.comparisons import Comparison, Comparisons, plan
from gateway.store.database import Database
from gateway.store.disputes import Dispute, Disputes
from gateway.store.jobs import Also, Job, Jobs, NewJob
from gateway.store.node_states import NodeStates
from gateway.store.tenants import Tenants
from privacy.child import run_in_child
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import (
    ConflictError,
    NotFoundError,
    PrivacyError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.receipt import parse_receipt

SECOND_RUN_OF = "second_run_of"
"""Among a receipt's options: of which job it is another run."""

Wish = Literal["always", "never", "sampled"]

_log = structlog.get_logger()
_MOST_RUNNING = 16
"""Second runs at a time: they come after what tenants wait for."""
_MOST_AWAITED = 10_000
_EVIDENCE_S = 300.0
_random = secrets.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The second looks of one gateway.

    Attributes:
        share: Of jobs that are looked at, 0 to 1; a tenant may have its own.
        accusers: How many tenants' disputes a node must have lost to be quarantined.
        gateway: Who runs what is begun here.
        collateral: Folder of what evidence of hardware is verified with.
        awaited: Jobs run here after whose end a step is due; others are found in time.
        woken: Set when one of them has ended.
    """

    database: Database
    comparisons: Comparisons
    disputes: Disputes
    states: NodeStates
    tenants: Tenants
    jobs: Jobs
    blobs: BlobStore
    registry: ModelRegistry
    scheduler: Scheduler
    share: float
    accusers: int
    gateway: str
    collateral: str
    awaited: set[str] = field(default_factory=set)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self, job_id: str) -> None:
        """Hear that a job has ended here; on the event loop."""
        if job_id in self.awaited:
            self.awaited.discard(job_id)
            self.woken.set()

    def plan(self, job: NewJob, wish: Wish) -> Also | None:
        """Return what writes with a new job that it will be looked at, if it will."""
        own = self.tenants.own(job.tenant).verify_share
        why = draw(wish, share=self.share if own is None else own)
        if not why:
            return None

        def also(c: sa.Connection) -> None:
            plan(c, job=job, why=why)
            if len(self.awaited) < _MOST_AWAITED:  # a hint: steps are found without it
                self.awaited.add(job.id)

        return also

    def avoid(self, job: Job) -> frozenset[str]:
        """Return the nodes that must not run a job: those of its other runs."""
        first = job.options.get(SECOND_RUN_OF)
        comparison = self.comparisons.find(first) if isinstance(first, str) else None
        if comparison is None:
            return frozenset()
        others = [i for i in comparison.job_ids if i != job.id]
        return frozenset(self.nodes_of(others).values())

    def nodes_of(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return who ran jobs that have finished, as their receipts say."""
        receipts = {job_id: self.jobs.receipt(job_id) for job_id in job_ids}
        return {i: parse_receipt(raw)[0].node for i, raw in receipts.items() if raw}

    def advance(self) -> list[str]:
        """Take every step that is due; return the jobs that are to begin now."""
        begun = []
        for comparison in self.comparisons.due():
            try:
                begun += self._step(comparison)
            except NotFoundError as exc:  # the model or a job is gone: it stays so
                self.comparisons.step(comparison, "impossible", detail=exc.message)
            except Exception as exc:  # noqa: BLE001 - the others must go on
                error_id_of(exc, task="second run", job=comparison.job_id)
        return begun

    def report(
        self, job_id: str, report: Report, *, tenant: str, by: str
    ) -> tuple[Comparison, list[str]]:
        """Take a data owner's report; return what became of it, and jobs to begin.

        Raises:
            NotFoundError: The tenant's job is not looked at twice.
            ConflictError: It does not wait for a report.
            FormatError: The report is not about its runs.
        """
        found = self.comparisons.get(job_id, tenant=tenant)
        if found.state != "compare":
            msg = f"the comparison is {found.state}: only `compare` waits for a report"
            raise ConflictError(msg, code="not-comparing")
        report.check(found.job_ids)
        nodes = self.nodes_of(found.job_ids)
        claim = report.claim(by=by, at=now())
        verdict = judge(report, nodes)
        begun: list[str] = []
        if verdict.agreed:
            self._agreed(found, claim)
        else:
            begun = self._differs(found, verdict, claim, nodes)
        self.states.refresh()
        return self.comparisons.get(job_id, tenant=tenant), begun

    def resolve(self, dispute_id: str, *, at_fault: str, note: str, by: str) -> Dispute:
        """Close a dispute as an operator decides; see `Disputes.resolve`.

        A node at fault is quarantined, and no other node's state changes.
        """
        closed = self.disputes.resolve(dispute_id, at_fault=at_fault, note=note, by=by)
        if at_fault:
            self.states.quarantine(at_fault, f"dispute {closed.id}, by an operator")
        return closed

    def _step(self, comparison: Comparison) -> list[str]:
        job = self.jobs.find(comparison.job_ids[-1])
        if job.status != "succeeded":
            self._give_up(comparison, job)
            return []
        if comparison.state == "running":
            self.comparisons.step(comparison, "compare")
            return []
        if comparison.mode == Mode.FHE:
            return self._run_again(comparison, job, None)
        self._check_evidence(comparison, job)
        return []

    def _give_up(self, comparison: Comparison, job: Job) -> None:
        """Note that a run gave nothing to compare."""
        code = (job.problem or {}).get("code", job.status)
        detail = f"job {job.id} {job.status}: {code}"
        if not comparison.dispute_id:
            self.comparisons.step(comparison, "impossible", detail=detail)
            return
        dispute = self.disputes.get(comparison.dispute_id, tenant=None)
        names = [run["node"] for run in dispute.runs]
        self.comparisons.step(
            comparison, "disputed", detail=detail, also=self._suspect(dispute, names)
        )

    def _run_again(
        self, comparison: Comparison, job: Job, dispute: Dispute | None
    ) -> list[str]:
        """Have a job run on a node that has not run it, if there is one."""
        if not dispute and self.comparisons.running() >= _MOST_RUNNING:
            return []  # it stays planned, and its turn comes
        if not self._others(comparison, job):
            if not dispute:
                detail = "no other node runs this model in this mode"
                self.comparisons.step(comparison, "impossible", detail=detail)
            return []
        new = NewJob(
            id=f"job_{secrets.token_hex(16)}",
            tenant=job.tenant,
            idempotency_key=None,
            request_sha256=job.request_sha256,
            model=job.model,
            version=job.version,
            model_sha256=job.model_sha256,
            mode=job.mode,
            simulated=job.simulated,
            input_sha256=job.input_sha256,
            keys_sha256=job.keys_sha256,
            options={**job.options, SECOND_RUN_OF: comparison.job_id},
            gateway=self.gateway,
        )
        more: dict[str, Any] = {}
        if dispute:
            more = {"also": self._saving(dispute), "dispute_id": dispute.id}
        self.awaited.add(new.id)
        taken = self.comparisons.run_again(comparison, new, **more)
        return [new.id] if taken else []

    def _others(self, comparison: Comparison, job: Job) -> list[str]:
        """Return the nodes that could run a job again."""
        bundle = self.registry.accepted(job.model, job.version)
        used = {*self.nodes_of(comparison.job_ids).values(), *self.states.quarantined()}
        nodes = self.scheduler.nodes().values()
        mode = Mode(job.mode)
        return [
            n.name
            for n in nodes
            if n.name not in used and n.refusal(mode, bundle) is None
        ]

    def _check_evidence(self, comparison: Comparison, job: Job) -> None:
        try:
            found = run_in_child(TARGET, self._request(job), timeout_s=_EVIDENCE_S)
        except VerificationError as exc:
            claim = {"by": "gateway", "at": now(), "false": exc.message}
            nodes = self.nodes_of([job.id])
            dispute = self._dispute(job, comparison, claim, nodes)
            decided = replace(
                dispute, state="decided", verdict="evidence", at_fault=nodes[job.id]
            )
            self._close(comparison, decided, exc.message)
        except PrivacyError as exc:
            detail = f"its evidence could not be checked: {exc.code}"
            self.comparisons.step(comparison, "impossible", detail=detail)
        else:
            self.comparisons.step(comparison, "checked", detail=str(found["detail"]))

    def _request(self, job: Job) -> Json:
        bundle = self.registry.accepted(job.model, job.version)
        digests = {
            "input": job.input_sha256,
            "output": job.output_sha256,
            "evidence": job.evidence_sha256,
        }
        return {
            "mode": job.mode,
            "bundle": str(bundle.root),
            "model_sha256": job.model_sha256,
            "publisher": bundle.publisher,
            "simulated": job.simulated,
            "finished_at": job.finished_at,
            "collateral": self.collateral,
            **{n: str(self.blobs.fetch(d)) if d else "" for n, d in digests.items()},
            **{f"{n}_sha256": d for n, d in digests.items()},
        }

    def _agreed(self, comparison: Comparison, claim: Json) -> None:
        """Write that all runs agree, which ends a dispute of theirs."""
        also = None
        if comparison.dispute_id:
            dispute = self.disputes.get(comparison.dispute_id, tenant=None)
            ended = replace(
                dispute,
                state="decided",
                verdict="agreed",
                claims=[*dispute.claims, claim],
            )
            also = self._saving(ended)
        self.comparisons.step(comparison, "agreed", also=also)

    def _differs(
        self,
        comparison: Comparison,
        verdict: Verdict,
        claim: Json,
        nodes: dict[str, str],
    ) -> list[str]:
        job = self.jobs.find(comparison.job_id)
        dispute = self._dispute(job, comparison, claim, nodes)
        if verdict.wants_third and (begun := self._run_again(comparison, job, dispute)):
            return begun
        if verdict.at_fault:
            decided = replace(
                dispute, state="decided", verdict="majority", at_fault=verdict.at_fault
            )
            self._close(comparison, decided, f"{verdict.at_fault} is alone")
        else:
            also = self._suspect(dispute, verdict.suspects)
            detail = f"one of {', '.join(verdict.suspects)} is at fault"
            self.comparisons.step(
                comparison, "disputed", detail=detail, also=also, dispute_id=dispute.id
            )
        return []

    def _dispute(
        self, job: Job, comparison: Comparison, claim: Json, nodes: dict[str, str]
    ) -> Dispute:
        """Return the dispute of a comparison, new or with one more claim."""
        receipts = {i: self.jobs.receipt(i) or b"" for i in nodes}
        runs = [
            {"job_id": i, "node": node, "receipt": receipts[i].decode()}
            for i, node in nodes.items()
        ]
        if comparison.dispute_id:
            known = self.disputes.get(comparison.dispute_id, tenant=None)
            return replace(known, runs=runs, claims=[*known.claims, claim])
        return Dispute(
            id=f"dis_{secrets.token_hex(12)}",
            job_id=job.id,
            tenant=job.tenant,
            model=job.model,
            version=job.version,
            model_sha256=job.model_sha256,
            mode=job.mode,
            state="open",
            verdict="",
            at_fault="",
            runs=runs,
            claims=[claim],
            note="",
            opened_at=now(),
            resolved_at="",
            resolved_by="",
        )

    def _close(self, comparison: Comparison, dispute: Dispute, detail: str) -> None:
        """Write a dispute that is decided, and what becomes of the node at fault."""
        node, why = dispute.at_fault, f"dispute {dispute.id}: {dispute.verdict}"
        save = self._saving(dispute)

        def also(c: sa.Connection) -> None:
            save(c)
            enough = len(self.disputes.accusers(c, node)) >= self.accusers
            certain = dispute.verdict == "evidence"
            self.states.mark(
                c, node, "quarantined" if certain or enough else "suspect", why
            )

        self.comparisons.step(
            comparison, "disputed", detail=detail, also=also, dispute_id=dispute.id
        )
        self.states.refresh()
        _log.warning(
            "node-at-fault", node=node, dispute=dispute.id, verdict=dispute.verdict
        )

    def _saving(self, dispute: Dispute) -> Also:
        """Return what writes a dispute, its comparison's link, and its pins."""
        pinned: set[str] = set()
        for run in dispute.runs:
            job = self.jobs.find(run["job_id"])
            pinned |= {job.input_sha256, job.keys_sha256}
            pinned |= {job.output_sha256, job.evidence_sha256}
        return lambda c: self.disputes.save(c, dispute, pinned - {""})

    def _suspect(self, dispute: Dispute, names: Iterable[str]) -> Also:
        save = self._saving(dispute)

        def also(c: sa.Connection) -> None:
            save(c)
            for name in names:
                self.states.mark(c, name, "suspect", f"dispute {dispute.id}: open")

        return also


def draw(wish: Wish, *, share: float) -> str:
    """Return why a new job will be looked at, or "": nobody can foretell it."""
    if wish == "sampled":
        return "sampled" if _random.random() < share else ""
    return "always" if wish == "always" else ""


async def watch(
    quality: Quality, begin: Callable[[str], None], *, every_s: float = 1.0
) -> None:
    """Take due steps for ever, and begin the runs that come of them."""
    while True:
        quality.woken.clear()
        try:
            for job_id in await asyncio.to_thread(quality.advance):
                begin(job_id)
            if await asyncio.to_thread(quality.states.refresh):
                quality.scheduler.changed()
        except Exception as exc:  # noqa: BLE001 - the next time may go better
            error_id_of(exc, task="second runs")
        with suppress(TimeoutError):
            await asyncio.wait_for(quality.woken.wait(), every_s)
