"""What was found for a model before, on this machine."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from privacy.encoding import canonical_json, sha256_hex
from privacy.errors import FormatError
from privacy.files import write_atomic
from privacy.zkml.choose import Model
from privacy.zkml.srs import cache_folder
from privacy.zkml.system import CircuitChoice
from privacy.zkml.tune.options import TuneOptions, parse_choices

_FORMAT = 1


def key_of(model: Model, options: TuneOptions, system: str) -> str:
    """Return what identifies a search: model, range, wishes, engine and machine."""
    asked = {
        "format": _FORMAT,
        "onnx": sha256_hex(model.onnx.read_bytes()),
        "rows": sha256_hex(model.held.tobytes() + model.corners.tobytes()),
        "objective": options.objective,
        "max_gas": options.max_gas,
        "visibility": asdict(options.visibility),
        "system": system,
        "cpus": os.cpu_count() or 1,
    }
    return sha256_hex(canonical_json(asked))


def remembered(key: str) -> tuple[CircuitChoice, ...]:
    """Return the choice that was found, if any."""
    try:
        return parse_choices([json.loads(_path(key).read_text())])
    except (OSError, ValueError, FormatError):
        return ()  # a cache: what cannot be read is searched again


def remember(key: str, choice: CircuitChoice) -> None:
    """Keep a choice."""
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json(asdict(choice)))


def _path(key: str) -> Path:
    return cache_folder() / "tuned" / f"{key}.json"
