"""One name, one job: what an enclave remembers so that no job name is used twice.

The same sealed bytes may be answered again, since a gateway repeats a job after a crash
and gets the same outputs, sealed to the same reply key. Other bytes under a name that
was used are refused. What is remembered is bounded and lives as long as the keys do.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from privacy.errors import FormatError
from privacy.tee.seal import SealedInput

MOST_JOBS = 1 << 15
"""So many names are remembered; beyond, the oldest is forgotten."""


class UsedJobs:
    """Names of jobs that were answered; safe for several threads."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._content: OrderedDict[bytes, bytes] = OrderedDict()

    @contextmanager
    def taken(self, sealed: SealedInput) -> Iterator[None]:
        """Take the input's name for it; if the body fails, the name is free again.

        The order of a contract is not part of the input: it is the node's.

        Raises:
            FormatError: Another input has the name ("job-reused").
        """
        parts = sealed.key_id, sealed.nonce, sealed.job, sealed.ciphertext
        content = hashlib.sha256(b"".join(parts)).digest()
        with self._lock:
            known = self._content.get(sealed.job)
            if known is None:
                self._content[sealed.job] = content
                if len(self._content) > MOST_JOBS:
                    self._content.popitem(last=False)
        if known not in (None, content):
            msg = (
                "the name of this job was used for another input: seal again, which "
                "makes a new name"
            )
            raise FormatError(msg, code="job-reused")
        try:
            yield
        except BaseException:
            if known is None:
                with self._lock:
                    self._content.pop(sealed.job, None)
            raise
