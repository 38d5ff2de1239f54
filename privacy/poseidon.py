"""The Poseidon hash of EZKL's circuits, in plain integers.

A sponge over BN254's field: width 2, rate 1, x^5, 8 full and 56 partial rounds, the
capacity 2**64 of messages of any length. Round constants and matrix come out of the
Grain register as the Poseidon paper says (eprint 2019/458, appendix E).
"""

import functools
import itertools
from collections.abc import Iterable, Iterator

from privacy.fixed_point import MODULUS

_WIDTH, _FULL, _PARTIAL, _FIELD_BITS = 2, 8, 56, 254
_ROUNDS = _FULL + _PARTIAL
_CAPACITY = 1 << 64
_TAPS = (62, 51, 38, 23, 13, 0)
_WARM_UP = 160

State = list[int]


def poseidon(elements: Iterable[int]) -> int:
    """Return the hash of integers, taken modulo the field's order.

    The hash of a quantised input is the first instance of a proof that commits to it.
    It takes 0.6 ms an element, and the time says how many there are and nothing else
    that a caller relies on: these are inputs to be published in hashed form.
    """
    state = [0, _CAPACITY]
    for element in elements:
        state = _permute([(state[0] + element) % MODULUS, state[1]])
    return state[0]


def _permute(state: State) -> State:
    constants, matrix = _parameters()
    for number, added in enumerate(constants):
        state = [(s + a) % MODULUS for s, a in zip(state, added, strict=True)]
        is_full = not _FULL // 2 <= number < _FULL // 2 + _PARTIAL
        state = [
            pow(s, 5, MODULUS) if is_full or i == 0 else s for i, s in enumerate(state)
        ]
        state = [
            sum(m * s for m, s in zip(row, state, strict=True)) % MODULUS
            for row in matrix
        ]
    return state


@functools.cache
def _parameters() -> tuple[list[State], list[State]]:
    """Return the constants of each round, and the matrix."""
    bits = _grain()
    numbers = (_number(bits) for _ in itertools.count())
    fitting = (n for n in numbers if n < MODULUS)
    constants = [[next(fitting) for _ in range(_WIDTH)] for _ in range(_ROUNDS)]
    xs, ys = ([next(numbers) % MODULUS for _ in range(_WIDTH)] for _ in range(2))
    matrix = [[pow(x + y, -1, MODULUS) for y in ys] for x in xs]  # a Cauchy matrix
    return constants, matrix


def _grain() -> Iterator[int]:
    """Yield bits of the self-shrinking Grain register."""
    register = []
    facts = [(1, 2), (0, 4), (_FIELD_BITS, 12), (_WIDTH, 12), (_FULL, 10)]
    for value, width in [*facts, (_PARTIAL, 10), ((1 << 30) - 1, 30)]:
        register += [value >> (width - 1 - i) & 1 for i in range(width)]

    def step() -> int:
        register.append(functools.reduce(int.__xor__, (register[i] for i in _TAPS)))
        del register[0]
        return register[-1]

    for _ in range(_WARM_UP):
        step()
    while True:
        kept, bit = step(), step()
        if kept:
            yield bit


def _number(bits: Iterator[int]) -> int:
    value = 0
    for bit in itertools.islice(bits, _FIELD_BITS):
        value = value << 1 | bit
    return value
