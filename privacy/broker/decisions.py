"""What the broker decided: a line of JSON each, with a signed token.

    broker/releases.jsonl     every key that was given out
    broker/refusals.jsonl     the newest refusals
    broker/refusals.1.jsonl   those before, once the file had grown too large

Anyone may be refused, as often as they like: that must not push releases out.
The token is an Attestation Result that anyone who has the broker's public key can check
(`privacy attest check-result --at`). The log is the broker's own: who runs it could
remove lines, but not change what a token says.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy.encoding import Json, canonical_json
from privacy.errors import FormatError
from privacy.files import locked, make_folder

FOLDER = "broker"
_RELEASES, _REFUSALS, _BEFORE = (
    f"{name}.jsonl" for name in ("releases", "refusals", "refusals.1")
)
_MAX_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer to evidence.

    Attributes:
        at: RFC 3339, UTC.
        model: `name/version`.
        released: Whether the key was given out.
        code: Why not; "ok" if it was.
        message: The same in words; empty if it was.
        ear: The signed token.
    """

    at: str
    model: str
    model_sha256: str
    released: bool
    code: str
    message: str
    ear: str


class Decisions:
    """The log in a home. Safe for several threads and processes."""

    def __init__(self, home: Path) -> None:
        """Use the folder `broker` of a home."""
        self._folder = home / FOLDER

    def add(self, decision: Decision) -> None:
        """Write a decision down, for good before this returns."""
        line = canonical_json(asdict(decision)) + b"\n"
        make_folder(self._folder, private=True)
        with locked(self._folder / ".decisions.lock"):
            path = self._folder / (_RELEASES if decision.released else _REFUSALS)
            full = path.exists() and path.stat().st_size + len(line) > _MAX_BYTES
            if full and not decision.released:
                path.replace(self._folder / _BEFORE)
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(fd, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(fd)

    def all(self) -> list[Decision]:
        """Return every decision that is kept, the oldest first.

        Raises:
            FormatError: The log is damaged.
        """
        files = [self._folder / name for name in (_RELEASES, _BEFORE, _REFUSALS)]
        lines = [
            line for f in files if f.is_file() for line in f.read_bytes().splitlines()
        ]
        return sorted((_decision(line) for line in lines), key=lambda d: d.at)


def _decision(line: bytes) -> Decision:
    try:
        value: Json = json.loads(line)
        return Decision(**value)
    except (ValueError, TypeError) as exc:
        msg = "the broker's log has a line that is none of its own: restore the file"
        raise FormatError(msg, code="log-damaged") from exc
