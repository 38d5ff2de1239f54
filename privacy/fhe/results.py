"""Results as they travel: the words that are free, and of those only the top bytes.

A result is LWE ciphertexts: words of 64 bits, of which decryption adds up the mask's
(those where the secret key has a one), subtracts them from the last, and rounds to the
nearest step of the message. All other words are the same in every result of a circuit,
and the client has them in its template. So the node sends the free words alone, rounded
to as many bytes as the message needs; the client fills up with zeros.

How many: rounding each of n + 1 words to its top k bits moves the decrypted number by
at most (n + 1)·2^(63-k), whatever the key. That is kept below a thousandth of what may
be lost, half a step of the message. The moves add up like random ones, so they are far
smaller than that: for 8 bits, n = 2048 and k = 32 their standard deviation is 2^-19 of
half a step, where noise that errs with probability 2^-40 has 2^-2.8. Adding the squares
raises that probability by less than a millionth part of itself.
"""

import math

import numpy as np

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.template import Template

WORD_BYTES = 8
_SHARE = 10
"""Rounding may take 2**-10 of half a step."""


def word_bytes(circuit: Json, result: Template) -> int:
    """Return how many bytes of each free word of a result must travel, 1 to 8.

    Args:
        circuit: What the engine's program says of the circuit.
        result: Template of its results.
    """
    try:
        (gate,) = circuit["outputs"]
        kind = gate["typeInfo"]["lweCiphertext"]
        encoding, dimension = kind["encoding"]["integer"], kind["encryption"]
        usual = (
            encoding["mode"] == {"native": {}}
            and dimension["modulus"] == {"modulus": {"native": {}}}
            and kind["compression"] == "none"
            and len(result.free) == math.prod(kind["concreteShape"]["dimensions"])
        )
        words, width = dimension["lweDimension"] + 1, encoding["width"]
    except (KeyError, TypeError, ValueError):
        return WORD_BYTES
    if not usual:
        return WORD_BYTES
    # (n + 1)·2**(63 - k) <= 2**(62 - width) · 2**-10; one bit is padding.
    bits: float = _SHARE + 1 + width + math.log2(words)
    return min(WORD_BYTES, math.ceil(bits / 8))


def packed_bytes(result: Template, each: int) -> int:
    """Return the size of a result that travels with `each` bytes of a word."""
    return len(result.free) * each


def pack_result(raw: bytes, result: Template, each: int) -> bytes:
    """Return a result as it travels.

    Args:
        raw: The engine's.
        result: Its template.
        each: Bytes of each free word, see `word_bytes`.
    """
    words = np.frombuffer(raw, dtype="<u8")[result.free]
    if each < WORD_BYTES:  # to the nearest; past the greatest comes 0, as on a clock
        words = words + np.uint64(1 << (8 * (WORD_BYTES - each) - 1))
    parts = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return parts.reshape(-1, WORD_BYTES)[:, WORD_BYTES - each :].tobytes()


def unpack_result(packed: bytes, result: Template, each: int, *, hint: str) -> bytes:
    """Return a result as the engine takes it.

    Args:
        packed: What came, from anyone.
        result: Template of the engine's results.
        each: As for `pack_result`.
        hint: What may have happened, to end the message.

    Raises:
        FormatError: It has another length.
    """
    expected = packed_bytes(result, each)
    if len(packed) != expected:
        msg = f"results have {len(packed)} bytes, expected {expected}: {hint}"
        raise FormatError(msg, code="fhe-result-mismatch")
    parts = np.zeros((len(result.free), WORD_BYTES), dtype=np.uint8)
    parts[:, WORD_BYTES - each :] = np.frombuffer(packed, np.uint8).reshape(-1, each)
    return result.filled(parts.view("<u8")[:, 0])
