"""The jobs that make answers, at a gateway."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from privacy.chain.config import ServedModel
from privacy.client.drive import SyncDriver
from privacy.client.wire import Call, Flow, Reply, post_json
from privacy.encoding import Json, b64url, sha256_hex
from privacy.errors import JobFailedError
from privacy.modes import Mode
from privacy.tls import files_of_environment

_LIMIT = 1 << 28
_OK = 200


class Jobs(Protocol):
    """Where a watcher has answers made."""

    def ask(
        self, served: ServedModel, blob: bytes, *, mode: Mode, key: str, options: Json
    ) -> tuple[str, bytes | None]:
        """Return a job and what it is about, or None while it runs.

        That is the evidence of a job in mode zkml, and the output of one in mode tee.
        Asking again with the same key is asking about the same job.

        Raises:
            JobFailedError: It failed; ask with another key to try again.
        """
        ...

    def receipt(self, job: str) -> bytes:
        """Return a finished job's signed receipt."""
        ...

    def attest(self, served: ServedModel, nonce: bytes) -> bytes:
        """Return fresh evidence of the model's enclave."""
        ...

    def find_input(
        self, served: ServedModel, commitment: bytes, *, sealed: bool
    ) -> bytes | None:
        """Return an input that was handed over at the gateway, if it was."""
        ...


class GatewayJobs:
    """Jobs at a gateway, over its HTTP API."""

    def __init__(self, url: str, api_key: str) -> None:
        """Prepare; nothing is sent yet."""
        self._driver = SyncDriver(url, api_key, tls=files_of_environment())

    def ask(
        self, served: ServedModel, blob: bytes, *, mode: Mode, key: str, options: Json
    ) -> tuple[str, bytes | None]:
        """See `Jobs.ask`."""
        return self._driver.run(_ask(served, blob, mode, key, options))

    def receipt(self, job: str) -> bytes:
        """See `Jobs.receipt`."""
        return self._driver.run(_body(f"/v1/jobs/{job}/receipt"))

    def attest(self, served: ServedModel, nonce: bytes) -> bytes:
        """See `Jobs.attest`."""
        params = {
            "model": served.model,
            "version": served.version,
            "nonce": b64url(nonce),
        }
        return self._driver.run(_body("/v1/attestations", params))

    def find_input(
        self, served: ServedModel, commitment: bytes, *, sealed: bool
    ) -> bytes | None:
        """See `Jobs.find_input`."""
        call = input_call("GET", served, commitment, sealed=sealed)
        return self._driver.run(_found(call))

    def hand_over(
        self, served: ServedModel, commitment: bytes, body: bytes, *, sealed: bool
    ) -> None:
        """Hand an input over at the gateway, as who asks.

        Raises:
            VerificationError: It is not the input of that commitment.
        """
        call = input_call("PUT", served, commitment, sealed=sealed)
        self._driver.run(_sent(replace(call, body=body)))


def _ask(
    served: ServedModel, blob: bytes, mode: Mode, key: str, options: Json
) -> Flow[tuple[str, bytes | None]]:
    digest = sha256_hex(blob)
    yield Call("PUT", f"/v1/blobs/{digest}", body=blob)
    body = {
        "model": served.model,
        "version": served.version,
        "model_sha256": served.model_sha256,
        "mode": mode.value,
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
    part = "evidence" if mode == Mode.ZKML else "result"
    found = yield from _body(f"/v1/jobs/{name}/{part}")
    return name, found


def input_call(
    method: str, served: ServedModel, commitment: bytes, *, sealed: bool
) -> Call:
    """Return the request about an input for a contract."""
    params = {
        "model": served.model,
        "version": served.version,
        "sealed": "true" if sealed else "false",
    }
    path = f"/v1/contract-inputs/{commitment.hex()}"
    return Call(method, path, params=params)


def _found(call: Call) -> Flow[bytes | None]:
    reply: Reply = yield replace(call, accept=(200, 404))
    return reply.body if reply.status == _OK else None


def _sent(call: Call) -> Flow[None]:
    yield call


def _body(path: str, params: Mapping[str, str] | None = None) -> Flow[bytes]:
    reply: Reply = yield Call("GET", path, params=params or {}, limit=_LIMIT)
    return reply.body
