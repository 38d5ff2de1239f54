"""Vendors' answers kept in a folder, to verify offline and to ask less.

    <digest of what was asked>.entry    what, from where, until when, which files
    <sha256>.json|der|pem|xml           the answers, by their digest, as they came

The folder is also one to give as collateral: older answers stay, so that evidence can
be verified at an earlier time. Of OCSP responses, which count for a day, only the last
stays: copy the folder to keep them. A file that does not match its digest is not used.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.encoding import Json, canonical_json, parse_canonical, sha256_hex
from privacy.errors import FormatError
from privacy.files import write_atomic
from privacy.tee.fetch import Answer
from privacy.tee.inventory import inventory
from privacy.tee.services import Wanted

ENTRY = ".entry"
_MAX_ENTRY_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class CollateralCache:
    """Answers in a folder.

    Attributes:
        folder: Made if missing.
        now: What "still counts" means.
    """

    folder: Path
    now: datetime

    def get(self, asked: Wanted, url: str) -> Answer | None:
        """Return the answer that is kept and counts now, or None."""
        try:
            entry = self._read(asked, url)
            ends = datetime.fromisoformat(entry["ends"])
            starts = datetime.fromisoformat(entry["starts"])
            if not starts <= self.now <= ends:
                return None
            return Answer(
                *(self._file(name) for name in (entry["body"], entry["chain"]))
            )
        except (OSError, FormatError, KeyError, TypeError, ValueError):
            return None  # missing or damaged: it is asked for again

    def put(self, asked: Wanted, url: str, answer: Answer) -> None:
        """Keep an answer; what is kept of earlier ones stays."""
        found = inventory(answer.collateral())
        ends = [e.ends for e in found if e.ends is not None]
        if not ends:  # a CRL that never ends counts for nothing
            return
        entry: dict[str, Any] = {
            "kind": asked.kind,
            "about": asked.about,
            "url": url,
            "kept_at": datetime.now(UTC).isoformat(),
            "starts": max(e.starts for e in found).isoformat(),
            "ends": min(ends).isoformat(),
            "body": self._keep(answer.body),
            "chain": self._keep(answer.chain),
        }
        if asked.kind == "ocsp":
            self._forget(asked, url, entry["body"])
        write_atomic(self._entry(asked, url), canonical_json(entry))

    def _read(self, asked: Wanted, url: str) -> Json:
        raw = self._entry(asked, url).read_bytes()
        return parse_canonical(raw, what="entry", limit=_MAX_ENTRY_BYTES)

    def _forget(self, asked: Wanted, url: str, new: str) -> None:
        """Remove the answer that a new one replaces."""
        with contextlib.suppress(OSError, FormatError, KeyError):
            old = Path(str(self._read(asked, url)["body"])).name
            if old != new:
                (self.folder / old).unlink(missing_ok=True)

    def _entry(self, asked: Wanted, url: str) -> Path:
        key = sha256_hex(canonical_json([asked.kind, url, sha256_hex(asked.body)]))
        return self.folder / f"{key}{ENTRY}"

    def _keep(self, raw: bytes) -> str:
        if not raw:
            return ""
        name = sha256_hex(raw) + _ending(raw)
        write_atomic(self.folder / name, raw)
        return name

    def _file(self, name: str) -> bytes:
        if not name:
            return b""
        digest, _, ending = name.partition(".")
        raw = (self.folder / f"{digest}.{ending}").read_bytes()
        if sha256_hex(raw) != digest:
            raise FormatError("a kept answer was changed")
        return raw


def _ending(raw: bytes) -> str:
    if raw[:1] == b"{":
        return ".json"
    if raw.lstrip()[:1] == b"<":
        return ".xml"
    return ".pem" if raw.lstrip().startswith(b"-----") else ".der"
