"""The SDK of the data owner: answers that were checked before you see them.

    from privacy.client import Client
    with Client("http://127.0.0.1:8400", api_key="pk_…") as client:
        answer = client.infer("breast-cancer", [[17.99, 10.38, …]], mode="fhe")
        print(answer.rows[0].label, answer.checks)

`AsyncClient` has the same methods, awaited. Both keep keys, pins and receipts in a
folder of the data owner's (`$PRIVACY_HOME`, or `~/.privacy`).
"""

from privacy.choose import Choice, Policy
from privacy.client.answer import Answer, Check, Row
from privacy.client.async_client import AsyncClient
from privacy.client.offline import Verdict, verify_saved
from privacy.client.sync_client import Client
from privacy.tls import TlsFiles

__all__ = [
    "Answer",
    "AsyncClient",
    "Check",
    "Choice",
    "Client",
    "Policy",
    "Row",
    "TlsFiles",
    "Verdict",
    "verify_saved",
]
