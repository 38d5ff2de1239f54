"""The form of EZKL's proving keys, at which the engine itself does not look.

    proving key   the verifying key, to the byte; 3 polynomials over the extended
                  domain; 6 lists: the fixed columns' values, their coefficients, and
                  both over the extended domain; the same of the permutation
    list          u32 count; u32 length of each polynomial; the polynomials
    polynomial    u32 length; elements, 32 bytes each, little-endian, below the modulus

Counts and lengths are big-endian. Given a key that is cut short, or of another circuit,
the engine may wait for ever: its threads log through Python while the thread that
called holds the GIL. So a look-up of a value outside its table, as with keys of another
compilation of the same circuit, whose tables stand in another order, does not fail: the
thread that would say so waits, and only the job's time limit ends the proof.
"""

from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.zkml.field import MODULUS
from privacy.zkml.system import CircuitFiles

_ELEMENT, _LIMB = 32, 8
_MOST_EXTENDED = 5
_TOP = MODULUS >> 192


class _OtherError(Exception):
    """The bytes are not of this form; says why."""


def check_proving_key(files: CircuitFiles, *, logrows: int) -> None:
    """Refuse a proving key that is none, or that belongs to another verifying key.

    A key of the right form whose elements were changed passes; its proofs do not
    verify.

    Args:
        files: The circuit and its keys.
        logrows: 2**logrows rows in the circuit.

    Raises:
        BackendError: It is not one of this circuit; code `bad-proving-key`.
    """
    try:
        key: Any = np.memmap(files.proving_key, np.uint8, "r")
        _check(key, files.verifying_key.read_bytes(), 1 << logrows)
    except (_OtherError, ValueError) as exc:  # there is no map of an empty file
        why = exc if isinstance(exc, _OtherError) else "it is empty"
        msg = (
            f"the proving key cannot prove for this circuit: {why}. "
            "Its publisher must publish the model again"
        )
        raise BackendError(msg, code="bad-proving-key") from exc


def _check(key: Any, verifying_key: bytes, rows: int) -> None:
    start = len(verifying_key)
    if key[:start].tobytes() != verifying_key:
        raise _OtherError("it is of another verifying key")
    extended = _word(key, start)
    if extended not in {rows << more for more in range(1, _MOST_EXTENDED + 1)}:
        raise _OtherError("it is of another number of rows")
    at = start
    for _ in range(3):
        at = _skip(key, at, extended)
    counts = []
    for length in (rows, rows, extended) * 2:
        count, at = _list(key, at, length)
        counts.append(count)
    if counts != [counts[0]] * 3 + [counts[-1]] * 3 or at != len(key):
        raise _OtherError("columns are missing, or there is more after the last")


def _list(key: Any, at: int, length: int) -> tuple[int, int]:
    """Return how many polynomials of a length there are, and where they end."""
    count = _word(key, at)
    at += 4
    if at + 4 * count > len(key):
        raise _OtherError("it is cut short")
    if (np.frombuffer(key[at : at + 4 * count].tobytes(), ">u4") != length).any():
        raise _OtherError("a polynomial has another length")
    at += 4 * count
    for _ in range(count):
        at = _skip(key, at, length)
    return count, at


def _word(key: Any, at: int) -> int:
    if at + 4 > len(key):
        raise _OtherError("it is cut short")
    return int.from_bytes(key[at : at + 4].tobytes(), "big")


def _skip(key: Any, at: int, length: int) -> int:
    """Return where a polynomial ends."""
    if _word(key, at) != length:
        raise _OtherError("a polynomial has another length")
    end = at + 4 + length * _ELEMENT
    if end > len(key):
        raise _OtherError("it is cut short")
    elements = key[at + 4 : end]
    tops = np.frombuffer(elements, "<u8")[3 :: _ELEMENT // _LIMB]
    for i in np.flatnonzero(tops >= _TOP):
        element = elements[_ELEMENT * i : _ELEMENT * (i + 1)].tobytes()
        if int.from_bytes(element, "little") >= MODULUS:
            raise _OtherError("an element is not one of the field")
    return end
