"""What messages are signed with: derived from one key, so that no secret is stored.

Several gateways on one database need the same key file; a webhook knows by `key_id`
which key it was made under, and a gateway with another one leaves it alone.
"""

import base64
import hmac
from datetime import datetime
from pathlib import Path

from standardwebhooks import Webhook as Signer

from privacy.encoding import sha256_hex
from privacy.files import secret_of_file

PREFIX = "whsec_"


class WebhookSecrets:
    """The signing secrets of every webhook."""

    def __init__(self, key: bytes) -> None:
        """Derive them from `key`."""
        self._key = key
        self.key_id = sha256_hex(b"privacy-compute webhooks key id\0" + key)[:16]

    def text(self, webhook_id: str, number: int) -> str:
        """Return a webhook's secret as its owner gets it."""
        return PREFIX + base64.b64encode(self._secret(webhook_id, number)).decode()

    def sign(
        self,
        body: str,
        *,
        webhook_id: str,
        numbers: list[int],
        msg_id: str,
        at: datetime,
    ) -> dict[str, str]:
        """Return the headers of a message, with a signature by each secret."""
        signatures = [
            Signer(self._secret(webhook_id, n)).sign(msg_id, at, body) for n in numbers
        ]
        return {
            "webhook-id": msg_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    def _secret(self, webhook_id: str, number: int) -> bytes:
        label = f"privacy-compute webhook secret\0{webhook_id}\0{number}"
        return hmac.digest(self._key, label.encode(), "sha256")


def load_webhook_secrets(path: Path) -> WebhookSecrets:
    """Return the secrets under the key in a file, made on first use with mode 0600.

    Raises:
        FormatError: The file is not a key of 32 bytes.
    """
    return WebhookSecrets(secret_of_file(path, code="webhook-key"))
