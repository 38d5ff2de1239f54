"""The log entry beside a receipt, checked offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from privacy.client.home import Home
from privacy.client.log import verified_entry
from privacy.client.log_heads import LogHeads, check_known
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.key_history import ReceiptKey, keys_beside, public_keys, united
from privacy.receipt import parse_receipt
from privacy.transparency.inclusion import SUFFIX
from privacy.transparency.tree_head import TreeHead

_MAX_BYTES = 1 << 16
_ALONE = (
    "no head of this log was seen here before, so whether others are shown another log "
    "was not checked"
)


class LogEntry:
    """What lies beside a receipt as `receipt.tlog-proof`.

    Attributes:
        index: Of the receipt in the log, once `included` has shown it.
    """

    def __init__(
        self,
        receipt: Path,
        home: Home,
        key_sets: Sequence[Mapping[str, ReceiptKey]],
    ) -> None:
        """Describe the entry of a receipt; nothing is read yet.

        Args:
            receipt: Its file.
            home: Where heads of logs are kept.
            key_sets: Receipt keys of each gateway, by key id. Only those of the gateway
                that signed the receipt may sign the head: in another's log it says
                nothing.
        """
        self._path, self._home = receipt.with_suffix(SUFFIX), home
        self._key_sets = key_sets
        self.index: int | None = None
        self._head: TreeHead | None = None

    def included(self, receipt: bytes) -> str:
        """Check that the log has the receipt; say where.

        Raises:
            VerificationError: It does not.
            CannotVerifyError: The entry is missing, or its signer is not known.
        """
        if not self._path.is_file():
            msg = (
                f"{self._path.name} does not lie beside the receipt: get it with "
                "`privacy log fetch`"
            )
            raise CannotVerifyError(msg, code="missing-file")
        with self._path.open("rb") as file:
            raw = file.read(_MAX_BYTES)
        self.index, head = verified_entry(receipt, raw, self._signers(receipt))
        self._head = head
        return f"entry {self.index} of {head.size} in {head.origin}, at {head.time}"

    def consistent(self, caveats: list[str]) -> str:
        """Check that the entry's tree head agrees with those seen of the log.

        Raises:
            VerificationError: Two heads contradict each other.
            CannotVerifyError: There is no entry, or nothing ties its head to others.
        """
        if self._head is None:
            raise CannotVerifyError("there is no log entry to compare with others")
        head = self._head
        for folder in self._home.log_folders():
            links = LogHeads(folder).all()
            if links and links[-1].head.origin == head.origin:
                keys = public_keys(united(self._key_sets))
                return check_known(head, links, keys)
        caveats.append(_ALONE)
        return "no other head of this log is known here"

    def _signers(self, receipt: bytes) -> dict[str, ReceiptKey]:
        try:
            _, signer = parse_receipt(receipt)
        except FormatError as exc:
            raise VerificationError(exc.message, code="receipt-changed") from exc
        return keys_beside(signer, self._key_sets)
