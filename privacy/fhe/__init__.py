"""Fully homomorphic encryption: the node computes on what it cannot read.

    from privacy.fhe import FheClient

    client = FheClient(Path("client.json").read_bytes())
    keys = client.generate_keys()
    upload(keys.evaluation_keys())
    output = run_job(keys.encrypt(rows))
    print(keys.decrypt(output, len(rows)))

The engine is loaded by the first call that needs it.
"""

from privacy.fhe.client import ClientKeys, FheClient

__all__ = ["ClientKeys", "FheClient"]
