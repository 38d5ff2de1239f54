"""Compares the runs of a job that the gateway had run again, and reports what it finds.

1. Wait until the other run has ended; fetch its receipt, which must be of this job.
2. Decrypt every run. The first must open to the answer that was given before.
3. Put runs together that agree, within what the manifest says of honest nodes.
4. Report the groups with digests, never the answers. If two runs differ, a third may
   follow, and all three are compared.

A report tells the gateway whether ciphertexts that came from it decrypt alike. One that
makes them up learns a little of the client key from each report that runs differ, so
keys are to be rotated after one: docs/limitations.md.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

from privacy.bundle import Bundle, open_bundle
from privacy.client.commitment import (
    ANSWER_FILE,
    Commitment,
    digest_of,
    read_commitment,
)
from privacy.client.context import Context
from privacy.client.fhe_keys import FheKeys
from privacy.client.fhe_session import FheSession
from privacy.client.home import JOB_ID
from privacy.client.infer import signed_receipt
from privacy.client.wire import Call, Flow, Reply, Work, odd_answer, post_json
from privacy.encoding import Json, sha256_hex
from privacy.errors import (
    CannotVerifyError,
    FormatError,
    NotFoundError,
    VerificationError,
)
from privacy.fhe.agreement import Agreement, agreement_of
from privacy.fhe.quantizers import raw_outputs
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.receipt import Receipt, parse_receipt

_MAX_OUTPUT_BYTES = 1 << 29
_POLL_S = 0.5
_MOST_RUNS = 3
_WAITS = frozenset({"planned", "running"})
_SAME = ("model", "version", "model_sha256", "mode", "input_sha256", "keys_sha256")


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of a job's second look.

    Attributes:
        state: `agreed`, `checked` (the gateway checked its evidence), `impossible`,
            `disputed`; or `planned` and `running` if the wait was over before.
        detail: In words.
        nodes: Who ran it, in the order of the runs.
        rows: How many rows were compared here; 0 if none were.
        differing_rows: In how many of them runs differ.
    """

    job_id: str
    state: str
    detail: str
    nodes: tuple[str, ...]
    rows: int
    differing_rows: int
    dispute_id: str

    def as_dict(self) -> Json:
        """Return it JSON-ready."""
        return asdict(self)


def compare(context: Context, job_id: str, *, wait_s: float) -> Flow[Compared]:
    """Return what became of a job's second look, after doing the owner's part.

    Raises:
        VerificationError: The answer that was given is not the majority's, or a run's
            receipt is not of this job.
        NotFoundError: The job is not looked at twice, or its receipt is not here.
        CannotVerifyError: The keys or the model are not here any more.
    """
    deadline = time.monotonic() + wait_s
    path = f"/v1/jobs/{quote(job_id, safe='')}/comparison"
    found = None
    while True:
        reply: Reply = yield Call("GET", path)
        told = _checked(reply, job_id)
        if told["state"] == "compare":
            if found and len(told["runs"]) <= len(found.digests):
                raise odd_answer("comparison")  # a third run, or nothing new
            found = yield from _compare_runs(context, told)
            yield post_json(path, found.report())
        elif told["state"] in _WAITS and time.monotonic() < deadline:
            context.notify({"stage": f"second look: {told['state']}"})
            yield Work(partial(time.sleep, _POLL_S))
        else:
            break
    result = Compared(
        job_id=job_id,
        state=told["state"],
        detail=told["detail"],
        nodes=tuple(run["node"] for run in told["runs"]),
        rows=found.rows if found else 0,
        differing_rows=found.differing_rows if found else 0,
        dispute_id=told["dispute_id"] or "",
    )
    if result.state == "disputed" and not (found and found.first_is_supported(job_id)):
        msg = (
            f"job {job_id} was answered differently when it was run again "
            f"({result.detail}): do not believe its answer. Dispute "
            f"{result.dispute_id} keeps the evidence. A gateway that made the runs up "
            "learned a little about your key by this report: rotate it "
            "(`privacy keys rotate`) before you compare more"
        )
        raise VerificationError(msg, code="second-run-differs")
    return result


def waiting_jobs(context: Context) -> Flow[list[str]]:
    """Return the jobs that wait for a comparison here, where their answers are."""
    reply: Reply = yield Call(
        "GET", "/v1/comparisons", params={"state": "compare", "limit": "500"}
    )
    found = [str(one.get("job_id")) for one in reply.objects("comparisons")]
    return [
        job_id
        for job_id in found
        if JOB_ID.fullmatch(job_id)
        and (context.home.receipt_folder(job_id) / ANSWER_FILE).is_file()
    ]


@dataclass(frozen=True, slots=True)
class _Found:
    """The runs of a job, decrypted and put into groups that agree."""

    groups: tuple[tuple[str, ...], ...]
    digests: dict[str, str]
    rows: int
    differing_rows: int

    def report(self) -> Json:
        return asdict(self)

    def first_is_supported(self, job_id: str) -> bool:
        return any(job_id in group and group[1:] for group in self.groups)


def _checked(reply: Reply, job_id: str) -> Json:
    """Return a comparison as the API gives it."""
    told = reply.object("comparison")
    runs = told.get("runs")
    if not (
        isinstance(runs, list)
        and all(
            isinstance(run, dict)
            and isinstance(run.get("node"), str)
            and JOB_ID.fullmatch(str(run.get("job_id")))
            for run in runs
        )
        and 1 <= len(runs) <= _MOST_RUNS
        and runs[0]["job_id"] == job_id
        and isinstance(told.get("state"), str)
        and isinstance(told.get("detail"), str)
        and (told["state"] != "compare" or runs[1:])
    ):
        raise odd_answer("comparison")
    return {**told, "dispute_id": told.get("dispute_id")}


def _compare_runs(context: Context, told: Json) -> Flow[_Found]:
    first, *others = (str(run["job_id"]) for run in told["runs"])
    folder = context.home.receipt_folder(first)
    receipt = _receipt_kept(folder)
    answer = read_commitment(folder / ANSWER_FILE)
    bundle = _bundle(context, receipt)
    keys: FheKeys = yield Work(FheSession(context, bundle).keys)
    outputs = {first: _output_kept(folder)}
    nodes = {receipt.node}
    for job_id in others:
        node, outputs[job_id] = yield from _other_run(context, job_id, receipt)
        if node in nodes:
            msg = f"job {job_id} was no run on another node: {node} again"
            raise VerificationError(msg, code="receipt-mismatch")
        nodes.add(node)
    integers: dict[str, Any] = {}
    digests = {}
    for job_id, raw in outputs.items():
        opened = yield Work(partial(_opened, keys.client, raw, answer))
        integers[job_id], digests[job_id] = opened
    if digests[first] != answer.sha256:
        msg = (
            "the first answer does not open as it did: were the keys rotated since, or "
            "this program updated?"
        )
        raise CannotVerifyError(msg, code="keys-changed")
    rule = agreement_of(bundle.manifest.mode(Mode.FHE).params)
    return _grouped(integers, digests, answer.rows, rule)


def _grouped(
    integers: dict[str, Any], digests: dict[str, str], rows: int, rule: Agreement
) -> _Found:
    """Put runs together that may both be honest; the first run is named first."""

    def differing(a: str, b: str) -> int:
        one, other = integers[a], integers[b]
        return rows if one is None or other is None else rule.differing(one, other)

    def agree(a: str, b: str) -> bool:
        if integers[a] is None or integers[b] is None:
            return False
        return rule.allows(differing(a, b), rows)

    groups: list[list[str]] = []
    for job_id in integers:  # who agrees with anyone of a group belongs to it
        near = [g for g in groups if any(agree(job_id, other) for other in g)]
        groups = [g for g in groups if g not in near]
        groups.append([*(other for g in near for other in g), job_id])
    pairs = combinations(integers, 2)
    return _Found(
        groups=tuple(tuple(g) for g in groups),
        digests=digests,
        rows=rows,
        differing_rows=max(differing(a, b) for a, b in pairs),
    )


def _opened(client: Any, output: bytes, answer: Commitment) -> tuple[Any, str]:
    """Return the integers of a run (None: it is no result), and their digest."""
    try:
        integers = client.decrypt_integers(output, answer.rows)
        raw = raw_outputs(integers, client.spec.output)
    except FormatError:  # what the node gave is no result of this circuit
        return None, sha256_hex(answer.salt + output)
    return integers, digest_of(raw, answer.salt)


def _other_run(
    context: Context, job_id: str, first: Receipt
) -> Flow[tuple[str, bytes]]:
    """Return the node and the output of another run, whose receipt says so."""
    reply: Reply = yield Call("GET", f"/v1/jobs/{job_id}/receipt")
    receipt = yield from signed_receipt(context, reply.body)
    odd = [n for n in _SAME if getattr(receipt, n) != getattr(first, n)]
    is_run = receipt.options.get("second_run_of") == first.job_id
    if odd or not is_run or receipt.job_id != job_id or receipt.status != "succeeded":
        msg = f"job {job_id} is no other run of job {first.job_id}"
        raise VerificationError(msg, code="receipt-mismatch")
    output: Reply = yield Call(
        "GET", f"/v1/jobs/{job_id}/result", limit=_MAX_OUTPUT_BYTES
    )
    if sha256_hex(output.body) != receipt.output_sha256:
        msg = f"the output of job {job_id} is not the one that its receipt names"
        raise VerificationError(msg, code="receipt-mismatch")
    folder = context.home.receipt_folder(job_id)
    write_atomic(folder / "output.bin", output.body, private=True)
    write_atomic(folder / "receipt.json", reply.body, private=True)
    return receipt.node, output.body


def _receipt_kept(folder: Path) -> Receipt:
    path = folder / "receipt.json"
    if not path.is_file():
        msg = f"the receipt of this job is not here: {path} is missing"
        raise NotFoundError(msg, code="missing-receipt")
    return parse_receipt(path.read_bytes())[0]


def _output_kept(folder: Path) -> bytes:
    path = folder / "output.bin"
    if not path.is_file():
        msg = f"the answer of this job is not here: {path} is missing"
        raise NotFoundError(msg, code="missing-output")
    return path.read_bytes()


def _bundle(context: Context, receipt: Receipt) -> Bundle:
    """Return the model of a job, as it was pinned here when the job was sent."""
    bundle = open_bundle(context.home.model(receipt.model_sha256), check_files=False)
    if bundle.sha256 != receipt.model_sha256:
        msg = f"model {receipt.model} was changed here: fetch it again"
        raise VerificationError(msg, code="bundle-changed")
    return bundle
