"""The gateway's receipt key: Ed25519, made once, readable by its owner only."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import FormatError
from privacy.files import write_atomic

_KEY_BYTES = 32


def load_signing_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the receipt key in `data_dir`, made on first use.

    Raises:
        FormatError: The file is not a key of 32 bytes.
    """
    path = data_dir / "receipt.key"
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_atomic(path, key.private_bytes_raw(), private=True)
    raw = path.read_bytes()
    if len(raw) != _KEY_BYTES:
        msg = f"{path} has {len(raw)} bytes, expected {_KEY_BYTES}: restore it"
        raise FormatError(msg, code="receipt-key")
    return Ed25519PrivateKey.from_private_bytes(raw)
