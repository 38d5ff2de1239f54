"""A peer's gateway in memory that can lie, one lie at a time.

    peer = LyingPeer(bundle, lie="other-input")
    link = Link(peer.known(), transport=httpx.ASGITransport(peer))

Without a lie it is honest: it keeps uploads, runs one job for each idempotency key,
and signs receipts. `LIES` are what it can do instead; `TROUBLES` are honest, but no
answer either.
"""

import asyncio
import json
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.peers.config import Peer
from privacy.bundle import Bundle
from privacy.encoding import sha256_hex
from privacy.jws import key_id, public_jwk
from privacy.modes import Mode
from privacy.receipt import Receipt, sign_receipt

OUTPUT, EVIDENCE = b"an answer", b"a proof"
LIES = {
    "other-key": "peer-receipt",
    "unpinned-key": "peer-receipt-key",
    "no-key-set": "peer-answer",
    "forged-receipt": "peer-receipt",
    "garbage-receipt": "peer-receipt",
    "other-input": "peer-receipt",
    "other-keys": "peer-receipt",
    "other-model": "peer-receipt",
    "other-version": "peer-receipt",
    "other-job": "peer-receipt",
    "other-mode": "peer-receipt",
    "not-its-status": "peer-receipt",
    "replayed-receipt": "peer-receipt",
    "relaxed-options": "peer-receipt",
    "unsound-receipt": "peer-receipt",
    "simulated": "peer-receipt",
    "passed-on": "peer-forwarded",
    "other-problem": "peer-receipt",
    "no-receipt": "peer-answer",
    "no-result": "peer-answer",
    "other-output": "peer-output",
    "truncated-output": "peer-output",
    "other-evidence": "peer-output",
    "huge-output": "peer-too-large",
    "huge-job": "peer-too-large",
    "garbage-job": "peer-answer",
    "garbage-error": "peer-answer",
    "odd-status": "peer-answer",
    "odd-job-id": "peer-answer",
    "swapped-job": "peer-answer",
    "redirect": "peer-redirect",
    "packed": "peer-answer",
}
SLOW = ("never-ends", "never-answers")
TROUBLES = {
    "queue-full": "peer-busy",
    "unknown-model": "peer-refused",
    "job-fails": "peer-job-failed",
    "job-is-cancelled": "peer-job-failed",
    "proxy-error": "peer-unreachable",
}
_PROBLEMS = {
    "queue-full": (429, "LimitError", "queue-full"),
    "unknown-model": (404, "NotFoundError", "unknown-model"),
}


class LyingPeer:
    """An ASGI application."""

    def __init__(self, bundle: Bundle, *, lie: str = "", name: str = "acme") -> None:
        self.bundle = bundle
        self.lie = lie
        self.name = name
        self.key, self.other_key = (Ed25519PrivateKey.generate() for _ in range(2))
        self.blobs: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.started = asyncio.Event()
        self.hold = 0
        """How many times a job is still running when asked for."""
        self.detail = "it failed"
        self.forgets = 0
        """How many times its uploads have expired when a job needs them."""
        self.problem = ("BackendError", "worker-died")

    def known(self, **more: Any) -> Peer:
        """Return the peer as its operator would name it."""
        chosen = {
            "name": self.name,
            "url": "https://peer.example",
            "api_key": "pk_peer",
            "receipt_keys": (key_id(self.key.public_key()),),
            "modes": (Mode.FHE, Mode.ZKML),
            "allow_clear_inputs": True,
        }
        return Peer(**{**chosen, **more})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        method, path = scope["method"], scope["path"]
        self.asked.append(f"{method} {path}")
        headers = {k.decode().lower(): v.decode() for k, v in scope["headers"]}
        assert headers["authorization"] == "Bearer pk_peer"
        status, content, more = await self._answer(method, path, headers, body)
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        sent = [(k.encode(), v.encode()) for k, v in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": content})

    async def _answer(  # noqa: PLR0911 - one for each route
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        if path == "/v1/models":
            return 200, {"models": [self._model()]}, {}
        if path == "/.well-known/jwks.json":
            return 200, self._key_set(), {}
        if path.startswith(("/v1/blobs/", "/v1/keys/")):
            return self._upload(method, path, headers, body)
        if path.startswith("/v1/attestations"):
            return 200, b"evidence of the peer", {}
        if method == "POST" and path == "/v1/jobs":
            return await self._submit(headers, json.loads(body))
        job = self.jobs[path.split("/")[3]]
        if method == "DELETE" and path.endswith("/result"):
            job["gone"] = True
            return 204, b"", {}
        if method == "DELETE":
            job["status"] = "cancelled"
            return 200, self._view(job), {}
        return self._of_job(job, path.split("/")[4:])

    def _model(self) -> dict[str, Any]:
        manifest = self.bundle.manifest
        modes = {m: True for m, part in manifest.modes.items() if part.available}
        return {
            "name": manifest.name,
            "version": manifest.version,
            "model_sha256": self.bundle.sha256,
            "modes": modes,
        }

    def _key_set(self) -> Any:
        if self.lie == "no-key-set":
            return {"keys": []}
        key = self.other_key if self.lie == "unpinned-key" else self.key
        return {"keys": [public_jwk(key.public_key())]}

    def _upload(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        sha256 = path.rpartition("/")[2]
        if method == "DELETE":
            if self.blobs.pop(sha256, None) is None:
                return 404, {"family": "NotFoundError", "code": "unknown-blob"}, {}
            return 204, b"", {}
        if method == "HEAD":
            return (200 if sha256 in self.blobs else 404), b"", {}
        assert sha256_hex(body) == sha256
        assert int(headers["content-length"]) == len(body)
        self.blobs[sha256] = body
        return 201, {"sha256": sha256, "bytes": len(body)}, {}

    async def _submit(  # noqa: C901, PLR0911 - one for each lie
        self, headers: dict[str, str], order: dict[str, Any]
    ) -> tuple[int, Any, dict[str, str]]:
        match self.lie:
            case "redirect":
                return 307, b"", {"location": "http://127.0.0.1:1/v1/jobs"}
            case "garbage-job":
                return 200, b"<html>welcome</html>", {}
            case "garbage-error":
                return 403, b"<html>no</html>", {}
            case "packed":
                return 200, b"\x1f\x8b", {"content-encoding": "gzip"}
            case "proxy-error":
                return 502, b"<html>bad gateway</html>", {}
            case "never-answers":
                await asyncio.sleep(60)
        if self.lie in _PROBLEMS:
            status, family, code = _PROBLEMS[self.lie]
            return status, {"family": family, "code": code, "detail": "no"}, {}
        if self.forgets:
            self.forgets -= 1
            self.blobs.clear()
        if order["input"] not in self.blobs:
            gone = {"family": "NotFoundError", "code": "unknown-blob"}
            return 404, gone, {}
        again = headers["idempotency-key"]
        known = [j for j in self.jobs.values() if j["again"] == again]
        job = known[0] if known else self._new(again, order)
        return 202, self._view(job), {}

    def _new(self, again: str, order: dict[str, Any]) -> dict[str, Any]:
        job_id = f"job_{len(self.jobs)}"
        job = {"id": job_id, "again": again, "order": order, "asked": 0}
        fails = {"job-fails", "other-problem"}
        job["status"] = "failed" if self.lie in fails else "succeeded"
        if self.lie == "job-is-cancelled":
            job["status"] = "cancelled"
        self.jobs[job_id] = job
        self.started.set()
        return job

    def _view(self, job: dict[str, Any]) -> Any:  # noqa: C901 - one for each lie
        job["asked"] += 1
        is_held = job["asked"] <= self.hold or self.lie == "never-ends"
        view = {"id": job["id"], "status": job["status"], "progress": None}
        view["problem"] = None
        if is_held and job["status"] != "cancelled":
            view |= {"status": "running", "progress": {"done": 1, "total": 2, "x": "y"}}
        elif job["status"] == "failed":
            family, code = self.problem
            view["problem"] = {"family": family, "code": code, "detail": self.detail}
            if self.lie == "other-problem":
                view["problem"] |= {"family": "FormatError", "code": "bad-input"}
        match self.lie:
            case "huge-job":
                view["padding"] = "x" * (2 << 20)
            case "odd-status":
                view["status"] = "nearly"
            case "odd-job-id":
                view["id"] = "../../v1/api-keys"
            case "swapped-job" if job["asked"] == 1:
                view["status"] = "running"
            case "swapped-job":
                view["id"] = "job_of_another"
        return view

    def _of_job(  # noqa: C901, PLR0911 - one for each lie
        self, job: dict[str, Any], rest: list[str]
    ) -> tuple[int, Any, dict[str, str]]:
        missing = (404, {"family": "NotFoundError", "code": "x", "detail": "no"}, {})
        match [*rest, self.lie]:
            case [_]:
                return 200, self._view(job), {}
            case ["receipt", "no-receipt"] | ["result", "no-result"]:
                return missing
            case ["result", _] if job.get("gone"):
                gone = {"family": "NotFoundError", "code": "result-gone"}
                return 404, gone, {}
            case ["receipt", _]:
                return 200, self._receipt(job), {}
            case ["result", "other-output"]:
                return 200, b"another answer", {}
            case ["result", "truncated-output"]:
                return 200, OUTPUT[:-1], {}
            case ["result", "huge-output"]:
                return 200, bytes(1 << 20), {}
            case ["evidence", "other-evidence"]:
                return 200, b"another proof", {}
            case ["result", _]:
                return 200, OUTPUT, {}
        return 200, EVIDENCE, {}

    def _receipt(self, job: dict[str, Any]) -> bytes:
        order, done = job["order"], job["status"] == "succeeded"
        is_proof = done and order["mode"] == "zkml"
        receipt = Receipt(
            job_id=job["id"],
            model=order["model"],
            version=order["version"],
            model_sha256=order["model_sha256"],
            mode=order["mode"],
            status=job["status"],
            problem="" if done else self.problem[1],
            input_sha256=order["input"],
            keys_sha256=order.get("keys", ""),
            output_sha256=sha256_hex(OUTPUT) if done else "",
            evidence_kind="proof" if is_proof else "",
            evidence_sha256=sha256_hex(EVIDENCE) if is_proof else "",
            node="theirs",
            simulated=False,
            options=order["options"],
            submitted_at="2026-01-01T00:00:00.000Z",
            started_at="2026-01-01T00:00:00.000Z",
            finished_at="2026-01-01T00:00:01.000Z",
        )
        relaxed = {**receipt.options, "p_error": 0.5}
        changes: dict[str, dict[str, Any]] = {
            "other-input": {"input_sha256": "0" * 64},
            "other-keys": {"keys_sha256": "0" * 64},
            "other-model": {"model_sha256": "0" * 64},
            "other-version": {"version": "0"},
            "other-job": {"job_id": "job_of_another"},
            "other-mode": {"mode": "fhe" if is_proof else "zkml"},
            "not-its-status": {"status": "failed"},
            "replayed-receipt": {"options": {}},
            "relaxed-options": {"options": relaxed},
            "unsound-receipt": {"output_sha256": ""},
            "simulated": {"simulated": True},
            "passed-on": {"peer_receipt_sha256": "0" * 64},
        }
        receipt = replace(receipt, **changes.get(self.lie, {}))
        key = self.other_key if self.lie == "other-key" else self.key
        raw = sign_receipt(receipt, key)
        if self.lie == "forged-receipt":
            return raw.replace(b"theirs", b"others")
        return b"{}" if self.lie == "garbage-receipt" else raw
