"""What keeps both logs up, on every tick: chain acts, log receipts, sign their head.

Each step finds in the tables what is still to do, so a gateway that dies anywhere
leaves nothing out: it, or another on the same database, goes on.
"""

from pathlib import Path
from threading import Lock

import structlog

from gateway.logs import error_id_of
from gateway.signing import ReceiptKeys
from gateway.store.audit import MOST_ENTRIES, Act, Audit, Who
from gateway.store.receipt_log import ReceiptLog
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import UnavailableError
from privacy.files import write_atomic
from privacy.transparency.audit_chain import follow

_log = structlog.get_logger()
_MOST_ADDRESSES = 16


class Refusals:
    """Requests refused for who sent them, counted: an entry for each could flood."""

    def __init__(self) -> None:
        """Have none."""
        self._lock = Lock()
        self._counts: dict[str, int] = {}
        self._addresses: dict[str, int] = {}

    def add(self, status: int, address: str) -> None:
        """Count one; of addresses only the first ones are told apart."""
        with self._lock:
            self._add({str(status): 1}, {address: 1})

    def take(self) -> Json | None:
        """Return what was counted since the last call, None if nothing."""
        with self._lock:
            counts, self._counts = self._counts, {}
            addresses, self._addresses = self._addresses, {}
        if not counts:
            return None
        return {"count": sum(counts.values()), "status": counts, "from": addresses}

    def give_back(self, taken: Json) -> None:
        """Count again what was taken and could not be noted."""
        with self._lock:
            self._add(taken["status"], taken["from"])

    def _add(self, counts: dict[str, int], addresses: dict[str, int]) -> None:
        for status, count in counts.items():
            self._counts[status] = self._counts.get(status, 0) + count
        for address, count in addresses.items():
            if address in self._addresses or len(self._addresses) < _MOST_ADDRESSES:
                self._addresses[address] = self._addresses.get(address, 0) + count


class LogKeeper:
    """The background work on both logs of one gateway."""

    def __init__(
        self,
        keys: ReceiptKeys,
        log: ReceiptLog,
        audit: Audit,
        refusals: Refusals,
        *,
        archive: Path,
        most_age_s: float,
        keep_s: float,
    ) -> None:
        """Do nothing yet.

        Args:
            keys: What signs.
            log: Of receipts.
            audit: Of acts.
            refusals: Noted whenever `note_refusals` is called.
            archive: Folder for old audit entries.
            most_age_s: Sign a tree head at least so often.
            keep_s: How long audit entries stay in the database.
        """
        self._keys, self._log, self._audit = keys, log, audit
        self._refusals, self._archive = refusals, archive
        self._most_age_s, self._keep_s = most_age_s, keep_s
        self._turn = Lock()
        self._closed = self._stalled = False

    def tick(self) -> None:
        """Bring both logs up to date, and sign if anything changed.

        What stands in the way (a database that is away, a receipt key that was rotated
        elsewhere) is logged once, and tried again at the next tick.
        """
        with self._turn:
            if self._closed:
                return
            try:
                self._tick()
            except UnavailableError as exc:
                if not self._stalled:
                    _log.error("logs-stalled", code=exc.code, why=exc.message)
                self._stalled = True
            else:
                self._stalled = False

    def close(self) -> None:
        """Do it all once more, and then nothing any more."""
        with self._turn:
            self._closed = True
            try:
                self.note_refusals()
                self._tick()
            except Exception as exc:  # noqa: BLE001 - the next life goes on from here
                error_id_of(exc, task="log")

    def _tick(self) -> None:
        self._keys.refresh()
        if not self._keys.is_current:
            msg = "receipt.key is not the key of the day: copy it from another gateway"
            raise UnavailableError(msg, code="receipt-key-mismatch")
        self._audit.chain()
        self._log.integrate(most_age_s=self._most_age_s, sign=self._keys.sign_head)

    def note_refusals(self) -> None:
        """Note how many requests were refused for who sent them."""
        if details := self._refusals.take():
            try:
                who = Who()
                self._audit.record(Act(action="refused", who=who, details=details))
            except BaseException:
                self._refusals.give_back(details)
                raise

    def archive(self) -> None:
        """Move old audit entries to files, from where the chain goes on.

        Each file is an export, `FIRST-LAST.jsonl`: it is checked and on disk before a
        row goes.
        """
        with self._turn:
            if not self._closed:
                self._archive_old()

    def _archive_old(self) -> None:
        while lines := self._audit.before(
            now(plus_s=-self._keep_s), limit=MOST_ENTRIES
        ):
            _, start = self._audit.end()
            raw = [line.encode() for line in lines]
            end = follow(raw, start=start)
            path = self._archive / f"{start.size + 1:012}-{end.size:012}.jsonl"
            write_atomic(path, b"".join(line + b"\n" for line in raw), private=True)
            self._audit.forget(end)
            _log.info("audit-archived", file=path.name, entries=len(lines))
