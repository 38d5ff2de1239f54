"""The gateway's receipt key: Ed25519, made once, readable by its owner only."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.publisher import load_private_key


def load_signing_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the receipt key in `data_dir`, made on first use.

    Raises:
        FormatError: The file is not a key of 32 bytes.
    """
    return load_private_key(data_dir / "receipt.key")
