"""Verified FHE: rows of a job are asked again, and the client compares.

A node computes blind, and nothing shows that it computed at all. So a sample of the
rows is encrypted anew and sent as a job of its own, after the first has answered, best
to another operator's gateway. **One gateway alone picks the node of both jobs**, mostly
the one that has the keys loaded: nothing in a job says that it is a check, so neither
can it say which node to avoid. The answer's caveats say so; for another node of the
same gateway there is `verify="always"`, of which the gateway knows. The ciphertexts
have nothing in common; operators who compare notes would see the same evaluation keys.
Both answers are opened here. If they lie further apart than the manifest says of honest
nodes, one answered falsely, and both receipts name the model they were asked about.

What it proves: a node that falsifies a share f of the rows is found, over n rows of
which a share s is asked again, with probability 1 - (1 - f s)**n, unless both nodes lie
alike. Two nodes of one operator can.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from privacy.bundle import Bundle
from privacy.client.answer import Answer, Check
from privacy.client.context import Context, Extras
from privacy.client.fhe_keys import FheKeys
from privacy.client.fhe_session import FheSession
from privacy.client.home import Home
from privacy.client.infer import Meter
from privacy.client.wire import Flow, On, Work
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.fhe.agreement import Agreement, agreement_of
from privacy.modes import Mode

MAX_RUNS = 10
_EXACT = Agreement(0, 0.0)
_random = secrets.SystemRandom()


class Asker(Protocol):
    """What is needed of a client."""

    home: Home
    gateway: str

    @property
    def driver(self) -> Any:
        """What runs its flows."""

    def asked(
        self,
        model: str,
        rows: Any,
        mode: str,
        meter: Meter,
        *,
        keep_input: bool,
        extras: Extras | None = None,
    ) -> Flow[Answer]:
        """Return the verified answer of one job."""

    def opened(self, answer: Answer) -> Flow["Run"]:
        """Return what its circuit gave; see `open_run`."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a circuit gave: integers, (rows, …), and how far honest ones may differ."""

    integers: Any
    rule: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRuns:
    """How an answer is compared.

    Attributes:
        runs: How often sampled rows are asked again.
        share: The chance of each row to be sampled, above 0, at most 1.
        tolerance: How far two outputs may differ; None for what the manifest says of
            honest nodes, or nothing at all if it says nothing.
        askers: Whom to ask in turn.
    """

    runs: int
    share: float
    tolerance: float | None
    askers: Sequence[Asker]

    def check(self, mode: Mode) -> None:
        """Refuse what makes no sense.

        Raises:
            FormatError: Another mode than `fhe`, or a number out of range.
        """
        if mode is not Mode.FHE:
            msg = f"mode {mode} shows what it ran by itself: second runs are for fhe"
            raise FormatError(msg, code="second-run-not-wanted")
        if not (1 <= self.runs <= MAX_RUNS and 0 < self.share <= 1):
            msg = (
                f"{self.runs} second runs of a share of {self.share:g}: expected 1 to "
                f"{MAX_RUNS}, and a share above 0 up to 1"
            )
            raise FormatError(msg, code="usage")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            msg = f"a tolerance of {self.tolerance:g}: expected a number from 0"
            raise FormatError(msg, code="usage")


def infer_compared(
    client: Asker,
    model: str,
    rows: Any,
    mode: str,
    meter: Meter,
    wanted: SecondRuns,
    extras: Extras | None = None,
) -> Flow[Answer]:
    """Return the answer of a job after comparing it with second runs of its rows.

    Raises:
        VerificationError: Two runs answer differently; both receipts are kept.
    """
    first = yield from client.asked(
        model, rows, mode, meter, keep_input=True, extras=extras
    )
    for turn in range(wanted.runs):
        asker = wanted.askers[turn % len(wanted.askers)]
        picked = [i for i in range(len(rows)) if _random.random() < wanted.share]
        if not picked:
            caveat = (
                f"second run {turn + 1} compared nothing: none of {len(rows)} rows was "
                f"drawn (share {wanted.share:g})"
            )
            first = replace(first, caveats=(*first.caveats, caveat))
            continue
        also = Meter()
        pinned = f"{first.model}@{first.model_sha256}"
        flow = asker.asked(
            pinned, [rows[i] for i in picked], mode, also, keep_input=True
        )
        second: Answer = yield On(asker.driver, flow, also)
        if wanted.tolerance is None:
            mine: Run = yield from client.opened(first)
            its: Run = yield On(asker.driver, asker.opened(second), also)
            odd, may = _apart(mine, its, picked)
        else:
            odd, may = _unlike(first, second, picked, wanted.tolerance), False
        if odd and not may:
            raise _differ(first, second, odd)
        who, caveats = _whose(client.home, first, second)
        part = f"{len(picked)} of {len(rows)} rows"
        detail = f"{part}, encrypted anew, answered alike by {who}"
        if odd:
            detail += f"; but {len(odd)}, as look-ups that err by chance make them"
        first = replace(
            _with(first, Check("second-run", detail), *caveats),
            bytes_up=first.bytes_up + second.bytes_up,
            bytes_down=first.bytes_down + second.bytes_down,
            seconds={**first.seconds, f"second run {turn + 1}": _total(second)},
        )
    return first


def open_run(context: Context, bundle: Bundle, answer: Answer) -> Flow[Run]:
    """Return what the circuit of an answer gave, opened again from what was kept."""
    keys: FheKeys = yield Work(FheSession(context, bundle).keys)
    output = answer.receipt.parent / "output.bin"
    integers = yield Work(
        lambda: keys.client.decrypt_integers(output.read_bytes(), len(answer.rows))
    )
    try:
        return Run(integers, agreement_of(bundle.manifest.mode(Mode.FHE).params))
    except CannotVerifyError:
        return Run(integers, _EXACT)


def _apart(first: Run, second: Run, picked: list[int]) -> tuple[list[int], bool]:
    """Return which rows differ, by number, and whether so many may by chance."""
    rule = first.rule
    gave, again = np.asarray(first.integers)[picked], np.asarray(second.integers)
    odd = [
        i + 1
        for at, i in enumerate(picked)
        if rule.differing(gave[at : at + 1], again[at : at + 1])
    ]
    return odd, rule.allows(len(odd), len(picked))


def _unlike(
    first: Answer, second: Answer, picked: list[int], tolerance: float
) -> list[int]:
    """Return which rows' outputs differ by more than a tolerance."""
    return [
        i + 1
        for i, again in zip(picked, second.rows, strict=True)
        if not _alike(first.rows[i].outputs, again.outputs, tolerance)
    ]


def _differ(first: Answer, second: Answer, odd: list[int]) -> VerificationError:
    """Return the error for answers that differ, without saying what they are."""
    more = f" and {len(odd) - 1} more rows" if odd[1:] else ""
    msg = (
        f"row {odd[0]}{more} was answered differently by node {first.node} of "
        f"{first.gateway} (job {first.job_id}) and node {second.node} of "
        f"{second.gateway} (job {second.job_id}), further apart than honest nodes are: "
        "one of them is wrong, so believe neither. The evidence is kept in "
        f"{first.receipt.parent} and {second.receipt.parent}. If the manifest does not "
        "say how far this model's honest answers differ, allow that with a tolerance"
    )
    return VerificationError(msg, code="second-run-differs")


def _alike(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def _whose(home: Home, first: Answer, second: Answer) -> tuple[str, tuple[str, ...]]:
    """Return in words who ran it again, and the caveat if that is hardly another."""
    node = f"node {second.node} of {second.gateway}"
    if (first.gateway, first.node) == (second.gateway, second.node):
        caveat = (
            "the second run was on the same node: it finds faults, not a node that "
            "lies the same way twice; name another operator's gateway for that"
        )
        return f"the same {node}", (caveat,)
    mine, theirs = (_receipt_keys(home, a.gateway) for a in (first, second))
    if mine & theirs:
        caveat = "the second run was on another node of the same operator"
        return node, (caveat,)
    return f"{node}, whose receipts another key signs", ()


def _receipt_keys(home: Home, gateway: str) -> set[str]:
    return {str(jwk.get("x")) for jwk in home.pins(gateway).get("keys", [])}


def _with(answer: Answer, check: Check, *caveats: str) -> Answer:
    new = tuple(c for c in caveats if c not in answer.caveats)
    return replace(
        answer, checks=(*answer.checks, check), caveats=(*answer.caveats, *new)
    )


def _total(answer: Answer) -> float:
    return round(sum(answer.seconds.values()), 6)
