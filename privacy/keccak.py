"""Keccak-256 as the EVM computes it, for places without the extra `chain`.

The permutation is that of FIPS 202; the padding is Keccak's own, with which Ethereum
began before SHA-3 was a standard.
"""

from collections.abc import Iterator

_RATE = 136
_ROUNDS = 24
_LANE = (1 << 64) - 1


def keccak(raw: bytes) -> bytes:
    """Return the 32 bytes of a Keccak-256; about a millisecond for 136 bytes."""
    padded = bytearray(raw + bytes(_RATE - len(raw) % _RATE))
    padded[len(raw)] ^= 0x01
    padded[-1] ^= 0x80
    lanes = [0] * 25  # lane (x, y) is at x + 5 y
    for start in range(0, len(padded), _RATE):
        for i in range(_RATE // 8):
            at = start + 8 * i
            lanes[i] ^= int.from_bytes(padded[at : at + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _permute(lanes: list[int]) -> list[int]:
    for constant in _CONSTANTS:
        columns = [
            lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
            for x in range(5)
        ]
        mixed = [columns[x - 1] ^ _turn(columns[(x + 1) % 5], 1) for x in range(5)]
        moved = [0] * 25
        for i, lane in enumerate(lanes):
            x, y = i % 5, i // 5
            moved[y + 5 * ((2 * x + 3 * y) % 5)] = _turn(lane ^ mixed[x], _OFFSETS[i])
        lanes = [
            moved[i]
            ^ (~moved[i // 5 * 5 + (i + 1) % 5] & moved[i // 5 * 5 + (i + 2) % 5])
            for i in range(25)
        ]
        lanes[0] ^= constant
    return lanes


def _turn(lane: int, by: int) -> int:
    return (lane << by | lane >> (64 - by)) & _LANE


def _offsets() -> list[int]:
    """Return how far each lane is turned (rho)."""
    offsets, x, y = [0] * 25, 1, 0
    for t in range(24):
        offsets[x + 5 * y] = (t + 1) * (t + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return offsets


def _constants() -> Iterator[int]:
    """Yield each round's constant (iota), from its shift register."""
    register = 1
    for _ in range(_ROUNDS):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << ((1 << j) - 1)
            register = register << 1 ^ (0x171 if register >> 7 else 0)
        yield constant


_OFFSETS = _offsets()
_CONSTANTS = tuple(_constants())
