"""This gateway among those that share its database.

Every job's row names the gateway that runs it: the one that took it, unless its input
is sealed to an enclave of another. In short rounds each gateway

1. says that it lives, and takes over the jobs of one that does not (see
   `gateway.store.gateways`);
2. begins jobs that are its own by now, and ends runs of jobs that another gateway
   cancelled;
3. passes on what became of jobs that somebody waits for here and that run elsewhere.

They ask the database rather than listen to it: after an outage there is nothing to set
up again, and nothing to have missed. A gateway with a database of its own needs none.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from gateway.jobs.hub import Hub, News
from gateway.logs import error_id_of
from gateway.store.away import StoreAwayError
from gateway.store.gateways import Gateways, Member, name_taken
from gateway.store.jobs import Job, Jobs
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.tee.evidence import parse_evidence
from privacy.tee.seal import parse_sealed

_log = structlog.get_logger()
_ROUND_S = 0.25
_PROGRESS_S = 1.0
_FILE = "gateway-id"
_BEATS = 5  # in the time after which a gateway is taken for dead


class Runner(Protocol):
    """What a membership asks of the job service."""

    def begin(self, job_id: str) -> None:
        """Begin the run of an accepted job, unless it is under way."""

    def under_way(self) -> set[str]:
        """Return the jobs whose runs are under way."""

    def abandon(self, job_id: str) -> None:
        """End a run of a job that has ended, also on its node."""

    def let_go(self, job_id: str) -> None:
        """End a run of a job that is another's; a node that others have goes on."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a round found.

    Attributes:
        mine: Open jobs that are this gateway's to run.
        ended: Jobs that have ended, though runs of them go on here.
        moved: The same of jobs that were taken over, be it by this gateway's new id.
        news: Of jobs that run elsewhere.
        lost: Others had taken this gateway for dead.
    """

    mine: set[str]
    ended: set[str]
    moved: set[str]
    news: list[Job]
    lost: bool


class Membership:
    """One gateway's part; its methods but `id` and `run` block."""

    def __init__(
        self, gateways: Gateways, jobs: Jobs, folder: Path, *, name: str, lease_s: float
    ) -> None:
        """Prepare; nothing is written before `join`.

        Args:
            gateways: The table.
            jobs: The jobs.
            folder: The data folder, which keeps an id.
            name: Of this gateway's node.
            lease_s: Dead for others if it does not beat for so long.
        """
        self._gateways, self._jobs = gateways, jobs
        self._member = Member(gateway_id(folder), uuid.uuid4().hex, name, lease_s)
        self._seen: dict[str, tuple[Member, float]] = {}
        self._looked_at = self._beat_at = self._told_progress_at = 0.0
        self._told: dict[str, tuple[str, int, Json | None]] = {}
        self._sent: dict[str, Json] = {}
        self._enclaves: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="membership")

    @property
    def id(self) -> str:
        """Who runs a job that is taken now."""
        return self._member.id

    def names(self) -> set[str]:
        """Return what no node of a cluster may be called: gateways' names, as seen."""
        others = (member.name for member, _ in self._seen.values())
        return {self._member.name, *others}

    def gateway_for(self, mode: Mode, sealed: Callable[[], Path]) -> str:
        """Return who is to run a job: who has the enclave that its input is sealed to.

        If that gateway is gone, or the input is not sealed, it is this one.
        """
        if not self._gateways.shared or Mode.TEE not in mode.parts:
            return self.id
        try:
            key_id = parse_sealed(sealed().read_bytes()).key_id.hex()
        except FormatError:
            return self.id  # the run will say what is wrong with it
        return self._gateways.enclave_at(key_id) or self.id

    def keep_enclave(self, evidence: bytes) -> None:
        """Remember that the enclave which gave this evidence is here."""
        if not self._gateways.shared:
            return
        try:
            keys = parse_evidence(evidence).hpke_public_keys
        except FormatError:  # of a node with another version: any gateway may try
            return
        for key_id in {key.id.hex() for key in keys} - self._enclaves:
            self._gateways.keep_enclave(key_id, self.id)
            self._enclaves.add(key_id)

    def outlive_namesake(self) -> None:
        """Return once nobody else has our name: quarantine and receipts go by it.

        One that has died, and whose data folder is gone, is waited for.

        Raises:
            ConflictError: Another gateway that lives has it.
        """
        if not self._gateways.shared:
            return
        seen: Member | None = None
        until = 0.0
        while found := self._namesake():
            if seen is None:
                seen, until = found, time.monotonic() + found.lease_s
            elif found != seen:
                raise name_taken(found)
            elif time.monotonic() > until:
                self._gateways.bury(found)
                seen = None
            time.sleep(_ROUND_S)

    def _namesake(self) -> Member | None:
        us = self._member
        others = (m for m in self._gateways.all() if m.id != us.id)
        return next((m for m in others if m.name == us.name), None)

    def join(self) -> set[str]:
        """Write this gateway down; return the open jobs that are its own to run.

        Raises:
            ConflictError: Another gateway took its name just now.
        """
        self._gateways.join(self._member)
        self._gateways.claim(self.id)
        return self._jobs.open_of(self.id)

    def leave(self) -> None:
        """Give open jobs to others, or to this gateway's next life."""
        self._thread.shutdown(wait=True)
        self._gateways.leave(self._member)

    async def run(self, runner: Runner, hub: Hub) -> None:
        """Do a round again and again, until cancelled; none if nothing is shared."""
        if not self._gateways.shared:
            return
        loop, away = asyncio.get_running_loop(), False
        while True:
            try:
                here = runner.under_way()
                found = await loop.run_in_executor(
                    self._thread,
                    self._round,
                    here,
                    hub.followed() - here,
                    hub.reports(here),
                )
            except StoreAwayError as exc:
                if not away:
                    _log.warning("store-away", code=exc.code)
                away = True
                await asyncio.sleep(4 * _ROUND_S)
                continue
            except Exception as exc:  # noqa: BLE001 - the next round may go better
                error_id_of(exc, task="membership")
                await asyncio.sleep(4 * _ROUND_S)
                continue
            if away:
                _log.info("store-back")
            away = False
            self._act(found, here, runner, hub.tell)
            await asyncio.sleep(_ROUND_S)

    def _act(
        self,
        found: _Found,
        here: set[str],
        runner: Runner,
        tell: Callable[[str, News], None],
    ) -> None:
        if found.lost:
            _log.warning("lease-lost", runs=len(here))
        for job_id in found.ended:
            runner.abandon(job_id)
        for job_id in found.moved:
            runner.let_go(job_id)
        for job_id in found.mine - here:
            runner.begin(job_id)
        told = {}
        for job in found.news:
            state = told[job.id] = (job.status, job.attempts, job.progress)
            before = self._told.get(job.id)
            if before is None or before[:2] != state[:2]:
                tell(job.id, job)
            elif job.progress and before != state:
                tell(job.id, job.progress)
        self._told = told

    def _round(
        self, here: set[str], followed: set[str], progress: dict[str, Json]
    ) -> _Found:
        lost, at = False, time.monotonic()
        if at >= self._beat_at:
            if lost := not self._gateways.beat(self._member):
                self._join_anew()
            self._beat_at = at + self._member.lease_s / _BEATS
            self._look()
        if at >= self._told_progress_at:
            self._told_progress_at = at + _PROGRESS_S
            new = {j: p for j, p in progress.items() if self._sent.get(j) != p}
            if len(self._seen) > 1:  # others may have somebody who waits
                self._jobs.report(self.id, new)
            self._sent = progress
        mine = self._jobs.open_of(self.id)
        gone = here if lost else here - mine
        moved = {job.id for job in self._jobs.of(gone) if not job.finished}
        return _Found(mine, gone - moved, moved, self._jobs.of(followed), lost)

    def _join_anew(self) -> None:
        """Come back under a new id: the old one's jobs are another's by now.

        The next life has the first id again, or takes it from who copied the folder.
        """
        before = self.id
        self._member = replace(self._member, id=uuid.uuid4().hex, life=uuid.uuid4().hex)
        self._gateways.join(self._member, allow_namesake=True)  # it serves already
        self._gateways.claim(self.id)
        self._gateways.move_enclaves(before, self.id)

    def _look(self) -> None:
        """See who beats, and take over from who has not for as long as it promised.

        Only time in which we looked counts, a little at a time: if the database was
        away, or we were stopped, nobody is dead for that.
        """
        at = time.monotonic()
        passed = min(at - self._looked_at, 2 * self._member.lease_s / _BEATS)
        self._looked_at = at
        seen = {}
        for member in self._gateways.all():
            before, silent_s = self._seen.get(member.id, (None, 0.0))
            silent_s = silent_s + passed if before == member else 0.0
            seen[member.id] = (member, silent_s)
            dead = silent_s >= member.lease_s and member.id != self.id
            if dead and self._gateways.bury(member):
                _log.warning("gateway-dead", gateway=member.id, name=member.name)
        self._seen = seen
        if jobs := self._gateways.claim(self.id):
            _log.warning("jobs-taken-over", jobs=jobs)


def gateway_id(folder: Path) -> str:
    """Return the id of a data folder's gateway, which outlives its process."""
    file = folder / _FILE
    if not file.exists():
        write_atomic(file, uuid.uuid4().hex.encode(), private=True)
    return file.read_text()
