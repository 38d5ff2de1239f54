"""The main flow: one input, one job, one answer that has been checked.

1. Fetch the model's manifest and public files; compare with the pinned digests.
2. Check the rows, and that the proofs would count; standardise the rows; make the
   mode's input blob; upload it.
3. Submit the job and follow it to its end.
4. Verify the receipt's signature and that every digest in it is ours.
5. Let the mode verify its evidence and open the output.
6. Keep receipt, evidence and output for checks later, offline.
"""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from privacy.bundle import Bundle, standardise
from privacy.client.answer import Answer, Check, answer_rows
from privacy.client.commitment import ANSWER_FILE, commit
from privacy.client.context import Context, Prepared, Session
from privacy.client.home import JOB_ID, Home
from privacy.client.model import Notify, fetch_files, label
from privacy.client.offline import PROOF_FILE, check_sound
from privacy.client.peer_receipt import (
    PEER_FILE,
    check_peer_receipt,
    peer_caveats,
    peer_of,
)
from privacy.client.receipt_keys import gateway_keys
from privacy.client.rows import range_caveats
from privacy.client.sessions import session_for
from privacy.client.upload import upload
from privacy.client.wire import (
    Call,
    Flow,
    Reply,
    Work,
    odd_answer,
    post_json,
    problem_exception,
)
from privacy.client.zkml_session import check_srs
from privacy.encoding import Json, b64url, finite_rows, sha256_hex
from privacy.errors import (
    CannotVerifyError,
    FormatError,
    JobFailedError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.files import write_atomic
from privacy.key_history import check_counts, public_keys
from privacy.modes import Mode, who_sees_what
from privacy.receipt import Receipt, parse_receipt, verify_receipt
from privacy.runs import MAX_ROWS

_POLL_S = 2
_SOON_S = 0.05
_MAX_OUTPUT_BYTES = 1 << 29
_TRIES = 3
_AGAIN = {
    "enclave-gone": "the enclave was replaced: attest the new one",
    "unknown-keys": "the evaluation keys have expired: upload them again",
    "unknown-blob": "the input has expired: upload it again",
}
_TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(slots=True)
class Meter:
    """Counts bytes and seconds of one job."""

    clock: Callable[[], float] = time.monotonic
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = 0.0

    def start(self) -> None:
        """Begin the first stage."""
        self._since = self.clock()

    def stage(self, name: str) -> None:
        """End a stage: what passed since the last one is its time."""
        now = self.clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def infer(
    context: Context,
    bundle: Bundle,
    mode: Mode,
    rows: list[list[float]],
    meter: Meter,
    *,
    keep_input: bool = False,
) -> Flow[Answer]:
    """Run one job and return its verified answer; see the module for the steps.

    With `keep_input` the uploaded input lies beside the receipt afterwards.
    """
    manifest = bundle.manifest
    manifest.mode(mode)
    rows = finite_rows(rows, columns=len(manifest.columns), max_rows=MAX_ROWS)
    caveats = range_caveats(
        rows, manifest.columns, mode, allow_out_of_range=context.allow_out_of_range
    )
    check_srs(context, bundle, mode)
    meter.start()
    yield from fetch_files(bundle, mode, context.notify)
    meter.stage("model")
    session, prepared, job = yield from _submit(
        context, bundle, mode, standardise(rows, manifest.columns), meter
    )
    meter.stage("job")
    receipt, raw_receipt = yield from _receipt(context, bundle, mode, job, prepared)
    output, evidence = yield from _download(receipt)
    peer_receipt = yield from _peer_receipt(receipt)
    meter.stage("download")
    try:
        opened = yield from session.finish(prepared, output, evidence)
    except FormatError as exc:  # the input was checked: these are the gateway's bytes
        raise VerificationError(exc.message, code=exc.code) from exc
    check_outputs(opened.raw, rows=len(rows), outputs=manifest.outputs)
    if opened.simulated != receipt.simulated:
        msg = (
            "the receipt and the evidence disagree on whether the enclave is simulated"
        )
        raise VerificationError(msg, code="receipt-mismatch")
    meter.stage("verify")
    beside = {
        "output.bin": output,
        "evidence.json": evidence,
        PEER_FILE: peer_receipt,
    }
    if mode is Mode.FHE:
        beside[ANSWER_FILE] = commit(opened.raw).to_bytes()
    if keep_input:
        beside["input.bin"] = prepared.blob
    if opened.proofs:
        beside[PROOF_FILE] = opened.proofs
    if prepared.salt:
        salted = PROOF_FILE if opened.proofs else "evidence.json"
        beside[f"{salted}.salt"] = b64url(prepared.salt).encode()
    folder = _keep(context.home, receipt, raw_receipt, beside)
    return Answer(
        job_id=receipt.job_id,
        model=label(bundle),
        model_sha256=bundle.sha256,
        mode=mode,
        rows=answer_rows(manifest, opened.raw),
        checks=(*_publisher_checks(bundle), *_RECEIPT_CHECKS, *opened.checks),
        caveats=(
            *caveats,
            *(() if bundle.publisher else (_UNSIGNED,)),
            *opened.caveats,
            *peer_caveats(receipt),
        ),
        who_sees_what=who_sees_what(
            mode, simulated=opened.simulated, peer=peer_of(receipt)
        ),
        simulated=opened.simulated,
        seconds={k: round(v, 6) for k, v in meter.seconds.items()},
        bytes_up=meter.bytes_up,
        bytes_down=meter.bytes_down,
        gateway=context.gateway,
        node=receipt.node,
        receipt=folder / "receipt.json",
    )


_UNSIGNED = "no publisher signed this model: it is whatever the gateway serves"


def _publisher_checks(bundle: Bundle) -> tuple[Check, ...]:
    if not bundle.publisher:
        return ()
    detail = f"the manifest is signed by the pinned publisher {bundle.publisher}"
    return (Check("publisher", detail),)


_RECEIPT_CHECKS = (
    Check("model-digest", "manifest and files are the pinned ones"),
    Check("receipt-signature", "signed by the gateway's pinned key"),
    Check("receipt-binding", "model, mode, input, output and evidence are this job's"),
)


def check_outputs(raw: Any, *, rows: int, outputs: int) -> None:
    """Refuse raw outputs that are not numbers of shape (rows, outputs).

    Raises:
        VerificationError: They are not.
    """
    raw = np.asarray(raw)
    if raw.shape != (rows, outputs) or not np.isfinite(raw).all():
        msg = f"the answer has shape {raw.shape}, expected {(rows, outputs)} numbers"
        raise VerificationError(msg, code="answer-malformed")


def _keep(
    home: Home, receipt: Receipt, raw_receipt: bytes, beside: dict[str, bytes]
) -> Path:
    """Keep what a check offline needs, the receipt last, and return the folder.

    Raises:
        VerificationError: The job id is an earlier job's, whose receipt is kept there.
    """
    folder = home.receipt_folder(receipt.job_id)
    if (folder / "receipt.json").exists():
        msg = f"the gateway gave this job the id of an earlier one, {receipt.job_id}"
        raise VerificationError(msg, code="job-id-reused")
    for name, content in beside.items():
        if content:
            write_atomic(folder / name, content, private=True)
    write_atomic(folder / "receipt.json", raw_receipt, private=True)
    return folder


def _submit(
    context: Context, bundle: Bundle, mode: Mode, rows: Any, meter: Meter
) -> Flow[tuple[Session, Prepared, Json]]:
    """Run the job; what was lost at the gateway meanwhile is made or sent anew."""
    for left in reversed(range(_TRIES)):
        session = session_for(mode, context, bundle)
        prepared = yield from session.prepare(rows)
        path = f"/v1/blobs/{sha256_hex(prepared.blob)}"
        yield from upload(
            path, prepared.blob, notify=context.notify, stage="upload the input"
        )
        meter.stage("prepare")
        try:
            job = yield from _run(context, bundle, mode, prepared)
        except PrivacyError as exc:
            if exc.code not in _AGAIN or not left:
                raise
            context.notify({"stage": _AGAIN[exc.code]})
        else:
            return session, prepared, job
    raise UnavailableError("no enclave stayed up", code="enclave-gone")


def _download(receipt: Receipt) -> Flow[tuple[bytes, bytes]]:
    """Fetch output and evidence; both must be the ones the receipt names."""
    path = f"/v1/jobs/{receipt.job_id}"
    output: Reply = yield Call("GET", f"{path}/result", limit=_MAX_OUTPUT_BYTES)
    _compare("output", sha256_hex(output.body), receipt.output_sha256)
    if not receipt.evidence_sha256:
        return output.body, b""
    evidence: Reply = yield Call("GET", f"{path}/evidence", limit=_MAX_OUTPUT_BYTES)
    _compare("evidence", sha256_hex(evidence.body), receipt.evidence_sha256)
    return output.body, evidence.body


def _peer_receipt(receipt: Receipt) -> Flow[bytes]:
    """Fetch the receipt of the other operator's gateway that ran the job, if one did.

    Raises:
        VerificationError: It is not of this job.
    """
    if not receipt.peer_receipt_sha256:
        return b""
    reply: Reply = yield Call("GET", f"/v1/jobs/{receipt.job_id}/peer-receipt")
    check_peer_receipt(reply.body, receipt)
    return reply.body


def _run(
    context: Context, bundle: Bundle, mode: Mode, prepared: Prepared
) -> Flow[Json]:
    """Submit the job and return it once it has succeeded.

    Raises:
        PrivacyError: What the job's problem says.
    """
    body: Json = {
        "model": bundle.manifest.name,
        "version": bundle.manifest.version,
        "model_sha256": bundle.sha256,
        "mode": str(mode),
        "input": sha256_hex(prepared.blob),
        "options": context.extras.options,
    }
    if prepared.keys_sha256:
        body["keys"] = prepared.keys_sha256
    if context.extras.verify:
        body["verify"] = context.extras.verify
    context.notify({"stage": "run", "mode": str(mode)})
    reply: Reply = yield post_json(
        "/v1/jobs",
        body,
        Prefer=f"wait={_POLL_S}",
        Idempotency_Key=prepared.job or uuid.uuid4().hex,
    )
    job = _job(reply)
    pause_s = 0.0
    while job["status"] not in _TERMINAL:
        context.notify({"stage": "run", "job": job["id"], **(job["progress"] or {})})
        if pause_s:
            yield Work(partial(time.sleep, pause_s))
        wait = {"Prefer": f"wait={_POLL_S if job['progress'] is None else 1}"}
        asked = time.monotonic()
        reply = yield Call("GET", f"/v1/jobs/{job['id']}", headers=wait)
        # A gateway that does not wait is not asked without end at full speed.
        waited = time.monotonic() - asked > _SOON_S
        pause_s = 0.0 if waited else min(1.0, 2 * pause_s + 0.01)
        job = _job(reply)
    if job["problem"]:
        raise problem_exception(job["problem"])
    if job["status"] != "succeeded":
        msg = f"the job was {job['status']}"
        raise JobFailedError(msg, code="job-cancelled")
    return job


def _job(reply: Reply) -> Json:
    """Return the job in an answer, with members of the types that are used here."""
    job = reply.object("job")
    shown = {name: job.get(name) for name in ("id", "status", "progress", "problem")}
    if not (
        isinstance(shown["id"], str)
        and JOB_ID.fullmatch(shown["id"])
        and shown["status"] in {"queued", "running", *_TERMINAL}
        and isinstance(shown["progress"], dict | NoneType)
        and isinstance(shown["problem"], dict | NoneType)
    ):
        raise odd_answer("job")
    return shown


def _receipt(
    context: Context, bundle: Bundle, mode: Mode, job: Json, prepared: Prepared
) -> Flow[tuple[Receipt, bytes]]:
    """Fetch and verify the receipt, and compare it with what was asked."""
    reply: Reply = yield Call("GET", f"/v1/jobs/{job['id']}/receipt")
    try:
        receipt = yield from signed_receipt(context, reply.body)
    except CannotVerifyError as exc:
        if exc.code != "unknown-receipt-key":
            raise
        msg = (
            f"{context.gateway} signed with another receipt key than it named at first:"
            " ask its operator, and to trust the new key remove `keys` from "
            f"{context.home.pins_path(context.gateway)}"
        )
        raise CannotVerifyError(msg, code=exc.code) from exc
    asked: dict[str, Any] = {
        "job_id": job["id"],
        "model": bundle.manifest.name,
        "version": bundle.manifest.version,
        "model_sha256": bundle.sha256,
        "mode": str(mode),
        "status": "succeeded",
        "input_sha256": sha256_hex(prepared.blob),
        "keys_sha256": prepared.keys_sha256,
    }
    for name, expected in asked.items():
        _compare(name, getattr(receipt, name), expected)
    for name, expected in context.extras.options.items():
        _compare(f"option {name}", receipt.options.get(name), expected)
    return receipt, reply.body


def signed_receipt(context: Context, raw: bytes) -> Flow[Receipt]:
    """Return the receipt in a file that a key of the gateway's signed, and may."""
    signer = ""
    with suppress(FormatError):  # `verify_receipt` says what is wrong
        _, signer = parse_receipt(raw)
    keys = yield from gateway_keys(context.home, context.gateway, signer=signer)
    receipt = verify_receipt(raw, public_keys(keys))
    check_counts(keys[signer], finished_at=receipt.finished_at)
    return check_sound(receipt)


def _compare(name: str, found: object, expected: object) -> None:
    if found != expected:
        msg = f"the receipt's {name} is {found!s:.16}, expected {expected!s:.16}"
        raise VerificationError(msg, code="receipt-mismatch")


__all__ = ["Meter", "Notify", "gateway_keys", "infer"]
