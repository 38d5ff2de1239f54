"""The jobs that prove answers, at a gateway."""

from typing import Protocol

from privacy.chain.config import ServedModel
from privacy.client.drive import SyncDriver
from privacy.client.wire import Call, Flow, Reply, post_json
from privacy.encoding import Json, sha256_hex
from privacy.errors import JobFailedError
from privacy.modes import Mode

_LIMIT = 1 << 28


class Jobs(Protocol):
    """Where a watcher has answers proven."""

    def ask(
        self, served: ServedModel, blob: bytes, *, key: str, options: Json
    ) -> tuple[str, bytes | None]:
        """Return a job and its evidence, or None while it runs.

        Asking again with the same key is asking about the same job.

        Raises:
            JobFailedError: It failed; ask with another key to try again.
        """
        ...

    def receipt(self, job: str) -> bytes:
        """Return a finished job's signed receipt."""
        ...


class GatewayJobs:
    """Jobs at a gateway, over its HTTP API."""

    def __init__(self, url: str, api_key: str) -> None:
        """Prepare; nothing is sent yet."""
        self._driver = SyncDriver(url, api_key)

    def ask(
        self, served: ServedModel, blob: bytes, *, key: str, options: Json
    ) -> tuple[str, bytes | None]:
        """See `Jobs.ask`."""
        return self._driver.run(_ask(served, blob, key, options))

    def receipt(self, job: str) -> bytes:
        """See `Jobs.receipt`."""
        return self._driver.run(_body(f"/v1/jobs/{job}/receipt"))


def _ask(
    served: ServedModel, blob: bytes, key: str, options: Json
) -> Flow[tuple[str, bytes | None]]:
    digest = sha256_hex(blob)
    yield Call("PUT", f"/v1/blobs/{digest}", body=blob)
    body = {
        "model": served.model,
        "version": served.version,
        "model_sha256": served.model_sha256,
        "mode": Mode.ZKML.value,
        "input": digest,
        "options": options,
    }
    reply: Reply = yield post_json("/v1/jobs", body, Idempotency_Key=key)
    job = reply.object("job")
    name, status = str(job["id"]), job["status"]
    if status in {"failed", "cancelled"}:
        problem = job.get("problem") or {}
        raise JobFailedError(f"job {name} has {status}: {problem.get('detail', '')}")
    if status != "succeeded":
        return name, None
    evidence = yield from _body(f"/v1/jobs/{name}/evidence")
    return name, evidence


def _body(path: str) -> Flow[bytes]:
    reply: Reply = yield Call("GET", path, limit=_LIMIT)
    return reply.body
