"""A process beside the enclave that asks the kernel for reports, and nothing else.

The enclave needs a fresh report for every nonce, and opens no file once it is
hardened. So it starts this process before, and speaks with it over a pair of sockets.
This process learns 64 bytes of report data, which are public, and has none of the
enclave's secrets. Nor is it trusted: the enclave checks that a report is over its own
report data.

It ends when the enclave does.
"""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from privacy.child import child_environment
from privacy.errors import BackendError, FormatError, PrivacyError, UnavailableError
from privacy.tee.configfs_tsm import REPORT_DATA_BYTES, ROOT, ConfigfsTsm, KernelFiles
from privacy.tee.harden import Limits, Sandbox, harden
from privacy.tee.origin import format_of, names_simulated, report_data_of
from privacy.tee.parse import Measurements
from privacy.tee.wire import (
    describe_error,
    raise_described,
    receive_message,
    send_message,
)

_COMMAND = (sys.executable, "-S", "-P", "-m", "privacy.tee.quoter")
_PATIENCE_S = 40.0


class TsmAttester:
    """Evidence of the hardware below a TDX or SEV-SNP guest.

    Attributes:
        format: As the first report was.
        simulated: The report was an emulator's.
    """

    def __init__(self, root: Path = ROOT) -> None:
        """Start the process, and get a first report, so that failures show early.

        Args:
            root: Where configfs-tsm keeps its entries.

        Raises:
            UnavailableError: Nothing makes reports here, or not now.
            BackendError: The kernel, the hardware or the host refused or failed.
        """
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [*_COMMAND, str(theirs.fileno()), str(root)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**child_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._socket.settimeout(_PATIENCE_S)
        try:
            first = self._report(os.urandom(REPORT_DATA_BYTES))
            self.format, self.simulated = format_of(first), names_simulated(first)
        except PrivacyError:
            self.close()
            raise

    def quote(self, report_data: bytes, measurements: Measurements) -> bytes:  # noqa: ARG002
        """Return a report over 64 bytes; the hardware has measured for itself."""
        return self._report(report_data)

    def close(self) -> None:
        """End the process; without that it ends with this one."""
        self._socket.close()
        self._process.wait()

    def _report(self, report_data: bytes) -> bytes:
        with self._lock:
            try:
                send_message(self._socket, {"op": "report"}, report_data)
                answer, bodies = receive_message(self._socket)
            except (OSError, EOFError) as exc:
                self._socket.close()  # an answer that comes late would be another's
                msg = (
                    "the process that asks the kernel for reports is gone "
                    "or hangs: ask for new evidence and seal the input again"
                )
                raise UnavailableError(msg, code="enclave-gone") from exc
        raise_described(answer)
        (evidence,) = bodies
        if report_data_of(evidence) != report_data:
            msg = "a report came back that is over other data"
            raise BackendError(msg, code="tsm-wrong-report")
        return evidence


def serve(connection: socket.socket, tsm: ConfigfsTsm) -> None:
    """Answer requests for reports until the other side is gone."""
    while True:
        try:
            _, bodies = receive_message(connection)
        except (EOFError, OSError, FormatError):
            return
        try:
            (report_data,) = bodies
            answer, results = {}, [tsm.report(report_data).evidence]
        except PrivacyError as exc:
            answer, results = describe_error(exc), []
        send_message(connection, answer, *results)


def main(argv: list[str]) -> None:
    """Run the process: a connected socket's descriptor, and configfs-tsm's folder."""
    descriptor, root = int(argv[0]), Path(argv[1])
    if root.is_dir():  # else every answer will say that it is not
        sandbox = Sandbox(write={"tsm": root}, file_bytes=1 << 12, keeps_user=True)
        harden(sandbox, Limits(allow_weaker_sandbox=True))  # nobody relies on it
    with socket.socket(fileno=descriptor) as connection:
        serve(connection, ConfigfsTsm(KernelFiles(root)))


if __name__ == "__main__":
    main(sys.argv[1:])
