"""The durable part of a job, held by DBOS and recovered after any crash.

DBOS has one instance a process, so there is one `Workflows` at a time. Its own queue is
not used for new jobs (polling would add latency); it starts recovered ones.
"""

import asyncio
import logging
import uuid
from pathlib import Path

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetWorkflowID,
)

from gateway.jobs.service import JobService
from gateway.store.database import sqlite_engine
from privacy.errors import UnavailableError
from privacy.files import write_atomic

# Workflows of one version are recovered by it only; rows left without one are started
# again, see `Workflows.recover`.
APPLICATION_VERSION = "1"

_ANSWER_FIRST_S = 0.02

_service: JobService | None = None


def _current() -> JobService:
    if _service is None:
        raise UnavailableError("the gateway is not running jobs", code="not-started")
    return _service


@DBOS.workflow(name="job", max_recovery_attempts=None)
async def _job(job_id: str) -> None:
    # No steps: a run may be repeated, its end is written once however often it is
    # tried, so records of either would only cost time.
    await _current().join(job_id)
    # DBOS writes the workflow's end on the event loop: answer first who waits.
    await asyncio.sleep(_ANSWER_FIRST_S)


async def start_workflow(job_id: str) -> None:
    """Start the workflow of an accepted job; starting it again changes nothing."""
    with SetWorkflowID(job_id):
        await DBOS.start_workflow_async(_job, job_id)


class Workflows:
    """DBOS from launch to shutdown, over a database file of its own."""

    def __init__(self, data_dir: Path, service: JobService) -> None:
        """Launch DBOS on the running event loop; unfinished workflows go on.

        Raises:
            UnavailableError: This process runs another gateway already.
        """
        global _service  # noqa: PLW0603 - DBOS itself is one a process
        if _service is not None:
            msg = "this process runs another gateway already: stop that one first"
            raise UnavailableError(msg, code="already-running")
        _service = service
        path = data_dir / "workflows.sqlite"
        self._engine = sqlite_engine(path)
        logging.getLogger("dbos").setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": "privacy-gateway",
            "system_database_url": f"sqlite:///{path}",
            "system_database_engine": self._engine,
            "serializer": DBOSPortableJSONSerializer(),
            "application_version": APPLICATION_VERSION,
            "executor_id": _executor_id(data_dir),
            "log_level": "WARNING",
            "max_executor_threads": 64,
        }
        try:
            DBOS(config=config)
            DBOS.launch()
        except BaseException:
            self.close()
            raise

    async def recover(self) -> None:
        """Begin rows that have no workflow, and end those whose workflow gave up."""
        service = _current()
        for job_id in service.jobs.unfinished():
            status = await DBOS.get_workflow_status_async(job_id)
            if status is None:
                service.begin(job_id)
            elif status.status not in {"PENDING", "ENQUEUED", "DELAYED"}:
                await service.abandon(job_id)

    def close(self) -> None:
        """Shut DBOS down; workflows under way stay pending and go on at next start."""
        global _service  # noqa: PLW0603
        DBOS.destroy()
        self._engine.dispose()
        _service = None


def _executor_id(data_dir: Path) -> str:
    """Return the id under which this data folder's workflows are recovered."""
    path = data_dir / "executor-id"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex.encode(), private=True)
    return path.read_text()
