"""What lets a machine into a Ray cluster: a token, and a certificate for TLS both ways.

token        the cluster's, the same on every machine: who has it runs code there
tls.crt      this machine's certificate (`privacy certs issue NAME --kind node`)
tls.key      its private key
trust.pem    the authorities that sign the cluster's certificates
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.certs import Certificates
from privacy.errors import NotFoundError
from privacy.files import make_folder, write_atomic

_TLS = ("tls.crt", "tls.key", "trust.pem")
_TOKEN = "token"  # noqa: S105 - a file's name
_DAYS = 365.0
"""Ray reads certificates when a node starts, and does not look again."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A folder with the four files."""

    folder: Path

    def check(self) -> None:
        """Look whether every file is here.

        Raises:
            NotFoundError: One is missing; the message says where it comes from.
        """
        for name in (*_TLS, _TOKEN):
            if not (self.folder / name).is_file():
                msg = (
                    f"{self.folder / name} is missing: copy `token` from the head's "
                    "folder, and tls.crt, tls.key and trust.pem from where "
                    "`privacy certs issue NAME --kind node --host ADDRESS` put them"
                )
                raise NotFoundError(msg, code="cluster-credentials")

    def make(self, authority: Certificates, *, name: str, hosts: Sequence[str]) -> None:
        """Make what a head lacks: the token, and a certificate of an authority.

        Args:
            authority: Made too, if there is none.
            name: Whose certificate.
            hosts: Addresses it serves under.
        """
        make_folder(self.folder, private=True)
        if not (self.folder / _TOKEN).exists():
            token = secrets.token_hex(32).encode()
            write_atomic(self.folder / _TOKEN, token, private=True)
        if all((self.folder / file).exists() for file in _TLS):
            return
        if not authority.trust.exists():
            authority.init("privacy-cluster")
        authority.issue(name, kind="node", hosts=hosts, days=_DAYS)
        for file in _TLS:
            folder = authority.folder if file == "trust.pem" else authority.files(name)
            content = (folder / file).read_bytes()
            write_atomic(self.folder / file, content, private=file == "tls.key")

    def environment(self) -> dict[str, str]:
        """Return the variables that Ray's processes read, these and no others.

        Raises:
            NotFoundError: A file is missing.
        """
        self.check()
        folder = self.folder.absolute()
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / _TOKEN),
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(folder / "tls.crt"),
            "RAY_TLS_SERVER_KEY": str(folder / "tls.key"),
            "RAY_TLS_CA_CERT": str(folder / "trust.pem"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A dead node is found out within 5 s; Ray's own default is 18 s.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            # Actors are all we run: no idle Python processes are kept for tasks.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
        }
