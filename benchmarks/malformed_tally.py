"""What became of malformed inputs."""

from collections import Counter
from dataclasses import dataclass, field

from privacy.encoding import Json

DEATHS = frozenset({"worker-died", "input-crashes-engine"})
"""Codes of jobs that killed their workers."""


@dataclass
class Tally:
    """What became of the inputs, by kind."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    worker_deaths: int = 0
    honest_jobs: int = 0

    def add(self, kind: str, outcome: str, code: str = "") -> None:
        """Count one input."""
        self.outcomes[kind, outcome] += 1
        if code:
            self.codes[code] += 1

    @property
    def inputs(self) -> int:
        """How many were sent."""
        return sum(self.outcomes.values())

    def as_json(self) -> Json:
        """Return the figures."""
        by_kind: Json = {}
        for (kind, outcome), n in sorted(self.outcomes.items()):
            by_kind.setdefault(kind, {})[outcome] = n
        return {
            "inputs": self.inputs,
            "worker_deaths": self.worker_deaths,
            "wrong_answers": len(self.wrong),
            "untyped_refusals": len(self.untyped),
            "honest_jobs_between": self.honest_jobs,
            "by_kind": by_kind,
            "codes": dict(self.codes.most_common()),
        }

    def check_typed(self, kind: str, problem: Json) -> None:
        """Note a refusal that does not say what was wrong."""
        if not problem.get("code") or problem["code"] in {"internal", "error"}:
            self.untyped.append(f"{kind}: {problem.get('code')}")
