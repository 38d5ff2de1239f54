"""How fast this machine proves, learned from every circuit that was tuned on it.

The ranking does not depend on it; the seconds that are shown do.
"""

import json
import os
import statistics
from pathlib import Path

from privacy.files import write_atomic
from privacy.zkml.srs import cache_folder

_KEPT = 15


def speed() -> float:
    """Return what this machine takes over what the fitted one took; 1 if unknown."""
    found = _read()
    return statistics.median(found) if found else 1.0


def remember_speed(*, expected_s: float, took_s: float) -> None:
    """Keep one measurement; the newest few count.

    Args:
        expected_s: By `estimate`, at a speed of 1.
        took_s: By the clock.
    """
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [*_read(), took_s / expected_s][-_KEPT:]
    write_atomic(path, json.dumps(kept).encode())


def _read() -> list[float]:
    try:
        found = json.loads(_path().read_text())
        return [float(v) for v in found if 0 < v < float("inf")]
    except (OSError, ValueError, TypeError):
        return []  # a cache: what cannot be read is measured again


def _path() -> Path:
    return cache_folder() / f"prove-speed-{os.cpu_count()}.json"
