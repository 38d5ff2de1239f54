"""Inputs that requesters hand over for contracts, until a watcher fetches them.

One file each, private to this user, by tenant, model and commitment:

    TENANT/MODEL-COMMITMENT.json      in the clear, to prove
    TENANT/MODEL-COMMITMENT.sealed    for an enclave
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import LimitError, NotFoundError
from privacy.files import write_atomic

MAX_BYTES = 1 << 20
MAX_BY_TENANT = 10_000
_MODEL_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Name:
    """What an input is asked for by; digests in hex."""

    model_sha256: str
    commitment: str
    is_sealed: bool

    @property
    def file(self) -> str:
        """The file's name."""
        kind = "sealed" if self.is_sealed else "json"
        return f"{self.model_sha256[:_MODEL_DIGITS]}-{self.commitment}.{kind}"


class ContractInputs:
    """The inputs in one folder."""

    def __init__(self, folder: Path, *, ttl_s: float) -> None:
        """Keep inputs in `folder`, each for `ttl_s` seconds."""
        self._folder, self._ttl_s = folder, ttl_s

    def put(self, tenant: str, name: Name, body: bytes) -> bool:
        """Keep an input; return whether it is new. The tenant's own is replaced.

        What replaces another is as old as that: otherwise whoever squats on a
        commitment would come first once the requester hands the input over again.

        Raises:
            LimitError: The tenant has too many.
        """
        folder = self._folder / tenant
        path = folder / name.file
        try:
            since = path.stat().st_mtime_ns
        except FileNotFoundError:
            since = 0
        is_new = not since
        if is_new and folder.is_dir() and len(list(folder.iterdir())) >= MAX_BY_TENANT:
            msg = f"{tenant} has handed over {MAX_BY_TENANT} inputs: delete some"
            raise LimitError(msg, code="too-many-inputs")
        write_atomic(path, body, private=True)
        if since:
            os.utime(path, ns=(since, since))
        return is_new

    def get(self, name: Name, *, tenant: str = "") -> bytes:
        """Return an input: a tenant's own, or the oldest of anybody's.

        Raises:
            NotFoundError: It was not handed over, or too long ago.
        """
        found = list(self._folder.glob(f"{tenant or '*'}/{name.file}"))
        if not found:
            msg = "no input of this commitment was handed over"
            raise NotFoundError(msg, code="unknown-input")
        return min(found, key=lambda p: p.stat().st_mtime).read_bytes()

    def delete(self, tenant: str, name: Name) -> None:
        """Remove a tenant's input; removing it again changes nothing."""
        (self._folder / tenant / name.file).unlink(missing_ok=True)

    def delete_all(self, tenant: str) -> None:
        """Remove every input of a tenant."""
        shutil.rmtree(self._folder / tenant, ignore_errors=True)

    def sweep(self) -> int:
        """Remove what has expired; return how many."""
        limit = time.time() - self._ttl_s
        old = [p for p in self._folder.glob("*/*") if p.stat().st_mtime < limit]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)
