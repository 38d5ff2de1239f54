"""What follows from a data owner's comparison: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.encoding import Json
from privacy.errors import FormatError

_DECIDING = 3
"""Runs of which two can outvote one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a data owner found on decrypting the runs of one job.

    Attributes:
        groups: The job ids of the runs, those that agree together.
        digests: Of the answer of each run, salted by the owner, who can open them.
        rows: How many rows were compared.
        differing_rows: In how many of them runs differ.
    """

    groups: tuple[tuple[str, ...], ...]
    digests: Mapping[str, str]
    rows: int
    differing_rows: int

    def check(self, runs: Sequence[str]) -> None:
        """Refuse a report that is not about these runs, each once.

        Raises:
            FormatError: It is not.
        """
        named = [job_id for group in self.groups for job_id in group]
        if sorted(named) != sorted(runs) or set(self.digests) != set(runs):
            msg = f"the report must name each of the runs once: {', '.join(runs)}"
            raise FormatError(msg, code="bad-report")
        agree = len(self.groups) == 1
        if not (agree or self.differing_rows) or self.differing_rows > self.rows:
            msg = "the report's groups and its number of differing rows contradict"
            raise FormatError(msg, code="bad-report")

    def claim(self, *, by: str, at: str) -> Json:
        """Return the report as a dispute keeps it."""
        return {
            "by": by,
            "at": at,
            "groups": [list(group) for group in self.groups],
            "digests": dict(self.digests),
            "rows": self.rows,
            "differing_rows": self.differing_rows,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is at fault, as far as runs show it.

    Attributes:
        agreed: All runs agree.
        at_fault: The node that a majority outvotes, or "".
        suspects: Nodes of which at least one is at fault.
        wants_third: Another run could decide.
    """

    agreed: bool = False
    at_fault: str = ""
    suspects: tuple[str, ...] = ()
    wants_third: bool = False


def judge(report: Report, nodes: Mapping[str, str]) -> Verdict:
    """Return what a report says of the nodes that ran a job.

    Args:
        report: Of the data owner.
        nodes: Who ran each of the runs.
    """
    if len(report.groups) == 1:
        return Verdict(agreed=True)
    names = tuple(dict.fromkeys(nodes[job_id] for job_id in nodes))
    if len(nodes) < _DECIDING:
        return Verdict(suspects=names, wants_third=True)
    alone = [group for group in report.groups if len(group) == 1]
    if len(alone) == 1:
        return Verdict(at_fault=nodes[alone[0][0]])
    return Verdict(suspects=names)
