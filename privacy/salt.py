"""What a salted circuit commits to beside the row: 128 bits of the job's salt."""

import hashlib

ELEMENTS = 8
_BITS = 16
LARGEST = (1 << _BITS) - 1
_DOMAIN = b"privacy-compute/zkml/salt/1"


def elements(salt: bytes, index: int) -> list[int]:
    """Return what follows row `index` of a job (from 0) in a salted circuit's input."""
    made = hashlib.sha256(_DOMAIN + salt + index.to_bytes(4, "big")).digest()
    size = _BITS // 8
    return [
        int.from_bytes(made[i * size : (i + 1) * size], "big") for i in range(ELEMENTS)
    ]
