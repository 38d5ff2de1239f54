"""What a peer's job gave, taken once its receipt and every file were checked."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.executors.base import Done, NodeDeclinedError, Work
from gateway.peers.check import Asked, check_receipt
from gateway.peers.link import PeerRefusedError, plain
from gateway.peers.site import Site
from privacy.client.wire import problem_exception
from privacy.encoding import Json
from privacy.errors import FormatError, NotFoundError, PrivacyError, error_from
from privacy.modes import Mode
from privacy.receipt import Receipt, parse_receipt

_CODE = re.compile(r"[a-z][a-z0-9-]{0,62}")


async def take_answer(
    site: Site, work: Work, job: Json, *, options: Json, asked: Json, node: str
) -> Done:
    """Return the answer of a job that ended there.

    Args:
        site: The peer.
        work: The job here.
        job: The job there, as the peer told it last.
        options: That it was asked with.
        asked: Gets the receipt, for the record of a lie.
        node: As receipts of ours name the peer.

    Raises:
        PeerLiedError: Receipt or files are not what they must be.
        NodeLostError: It does not give the answer, or the job failed only there.
        PrivacyError: The job failed, as it would anywhere.
    """
    path = f"/v1/jobs/{job['id']}"
    if job["status"] == "cancelled":
        site.tries.again(work.job_id)
        msg = f"peer {site.peer.name} cancelled the job"
        raise NodeDeclinedError(msg, code="peer-job-failed")
    async with _must_have(site, "receipt", work):
        reply = await site.link.ask("GET", f"{path}/receipt")
    asked |= {"receipt": reply.body.decode(errors="replace")}
    receipt = check_receipt(
        reply.body,
        _asked(work, job, options),
        status=job["status"],
        keys=await site.keys.get(signer=_signer(reply.body)),
        allow_forwarding=site.peer.allow_forwarding,
    )
    if receipt.status == "failed":
        raise _failure(site, work, job, receipt)
    if receipt.simulated != (Mode.TEE in work.mode.parts and site.simulated):
        raise site.link.lied("it and we disagree on simulated enclaves", "receipt")
    await _fetch(site, work, path, receipt)
    site.tries.over(work.job_id)
    return Done(
        work.folder / "output",
        work.folder / "evidence" if receipt.evidence_sha256 else None,
        receipt.evidence_kind,
        node=node,
        peer_receipt=reply.body,
    )


async def _fetch(site: Site, work: Work, path: str, receipt: Receipt) -> None:
    """Write what the receipt names into the job's folder."""
    for name, file, sha256 in (
        ("result", work.folder / "output", receipt.output_sha256),
        ("evidence", work.folder / "evidence", receipt.evidence_sha256),
    ):
        if not sha256:
            continue
        async with _must_have(site, name, work):
            await site.link.fetch(
                f"{path}/{name}",
                file,
                sha256=sha256,
                limit=site.max_answer_bytes,
                timeout_s=site.limit_s(work.mode),
            )


@asynccontextmanager
async def _must_have(site: Site, what: str, work: Work) -> AsyncIterator[None]:
    """Call it a lie if a finished job has no such thing, and never had."""
    try:
        yield
    except PeerRefusedError as exc:
        if exc.problem.code == "result-gone":  # fetched in an earlier life of ours
            site.tries.again(work.job_id)
        elif isinstance(exc.problem, NotFoundError):
            msg = f"a job that has ended has no {what}"
            raise site.link.lied(msg, "answer") from exc
        raise


def _asked(work: Work, job: Json, options: Json) -> Asked:
    return Asked(
        job_id=job["id"],
        model=work.bundle.manifest.name,
        version=work.bundle.manifest.version,
        model_sha256=work.bundle.sha256,
        mode=str(work.mode),
        input_sha256=work.input_sha256,
        keys_sha256=work.keys_sha256,
        options=options,
    )


def _failure(site: Site, work: Work, job: Json, receipt: Receipt) -> PrivacyError:
    """Return the error for a job that failed there, as its receipt confirms."""
    error = problem_exception(job["problem"])
    if not _CODE.fullmatch(error.code) or error.code != receipt.problem:
        return site.link.lied("job and receipt name different problems", "receipt")
    # What is wrong with the input is wrong everywhere; a sealed one opens nowhere else.
    if isinstance(error, FormatError) or Mode.TEE in work.mode.parts:
        said = plain(f"peer {site.peer.name}: {error.message}")
        return error_from(type(error).__name__, error.code, said)
    site.tries.again(work.job_id)
    msg = f"the job failed at peer {site.peer.name} ({error.code})"
    return NodeDeclinedError(msg, code="peer-job-failed")


def _signer(receipt: bytes) -> str:
    """Return the id of the key that should have signed, "" if nothing says it."""
    try:
        return parse_receipt(receipt)[1]
    except FormatError:
        return ""
