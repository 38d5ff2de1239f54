"""Estimates of jobs from what this gateway knows; see `gateway.estimates`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter

from gateway.estimates import Estimate, from_publisher, from_runs
from gateway.registry import ModelRegistry
from gateway.store.jobs import Jobs
from gateway.store.measures import Measure, Measures
from gateway.store.uploads import Uploads
from privacy.bundle import Bundle, ModePart
from privacy.encoding import Json
from privacy.modes import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Where estimates come from.

    Attributes:
        places: How many jobs of a mode run at once.
    """

    registry: ModelRegistry
    measures: Measures
    uploads: Uploads
    jobs: Jobs
    places: Mapping[Mode, int]
    simulated_enclaves: bool

    def estimate(
        self,
        model: str,
        version: str | None,
        modes: Sequence[Mode],
        *,
        rows: int,
        tenant: str,
    ) -> Json:
        """Return what a job will take in each of these modes; see `EstimatesOut`.

        Raises:
            NotFoundError: No such model.
        """
        bundle = self.registry.get(model, version)
        self.measures.write()  # what was measured just now counts, too
        return {
            "model": bundle.manifest.name,
            "version": bundle.manifest.version,
            "model_sha256": bundle.sha256,
            "rows": rows,
            "modes": [self._mode(bundle, m, rows, tenant) for m in modes],
        }

    def _mode(self, bundle: Bundle, mode: Mode, rows: int, tenant: str) -> Json:
        part = bundle.manifest.modes.get(mode)
        head = {
            "mode": str(mode),
            "reason": part.reason if part else "it was not published",
            "simulated": Mode.TEE in mode.parts and self.simulated_enclaves,
            "keys_bytes": 0,
            "keys_uploaded": False,
            "nodes": [],
        }
        if part is None or not part.available:
            return {**head, **asdict(Estimate())}
        runs = self.measures.of(bundle.sha256, mode)
        found = self._of(bundle, mode, part, runs, rows)
        runs.sort(key=attrgetter("node"))
        nodes = [
            {"node": node, **asdict(self._of(bundle, mode, part, list(own), rows))}
            for node, own in groupby(runs, attrgetter("node"))
        ]
        keys = self._keys(part, tenant) if mode is Mode.FHE else {}
        return {**head, **asdict(found), **keys, "nodes": nodes}

    def _of(
        self,
        bundle: Bundle,
        mode: Mode,
        part: ModePart,
        runs: list[Measure],
        rows: int,
    ) -> Estimate:
        columns = len(bundle.manifest.columns)
        published = from_publisher(part, columns=columns, rows=rows, waiting_s=0.0)
        alone = from_runs(runs, rows, waiting_s=0.0) if runs else published
        if waiting := self.jobs.count_open().get((mode, "queued"), 0):
            # Of other models too, whose jobs are taken to last as long as this one.
            waiting_s = waiting * (alone.latency_s or 0.0) / self.places[mode]
            if runs:
                return from_runs(runs, rows, waiting_s=waiting_s)
            return from_publisher(part, columns=columns, rows=rows, waiting_s=waiting_s)
        return alone

    def _keys(self, part: ModePart, tenant: str) -> Json:
        if not part.params.get("needs_keys", True):
            return {}
        keyset = part.params.get("keyset_sha256", "")
        known = self.uploads.of(tenant, "keys") if keyset else []
        return {
            "keys_bytes": int(part.cost.get("keys_bytes", 0)),
            "keys_uploaded": any(u.keyset_sha256 == keyset for u in known),
        }
