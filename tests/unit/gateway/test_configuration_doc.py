"""docs/configuration.md names every setting once, with the default it has."""

import json
import re
from pathlib import Path
from typing import Any

from gateway.settings import Settings

DOC = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
PREFIX = Settings.model_config["env_prefix"]
UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


def _shown(name: str, default: Any) -> str:
    """Return a default as the document writes it."""
    if isinstance(default, bool | tuple):
        return json.dumps(default)
    if isinstance(default, int | float):
        return _number(default, in_bytes="_bytes" in name)
    if default is None:
        return "~/.privacy" if name == "home" else "none"
    return str(default) or '""'


def _number(value: float, *, in_bytes: bool) -> str:
    for unit, size in UNITS.items() if in_bytes and value else ():
        if value % size == 0:
            return f"{int(value) // size} {unit}"
    return f"{value:.0f}" if value % 1 == 0 else str(value)


def test_every_setting_is_described_with_its_default_and_no_other():
    found = re.findall(rf"(?m)^\| `{PREFIX}(\w+)` \| `([^`]*)` \| \S", DOC.read_text())
    described = {name.lower(): default for name, default in found}
    assert len(described) == len(found), "a setting has two rows"
    expected = {
        name: _shown(name, None if name == "home" else field.default)
        for name, field in Settings.model_fields.items()
    }
    assert described == expected, "correct the rows of docs/configuration.md"
