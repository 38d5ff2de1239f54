"""Results travel without what is always the same, rounded to what decryption needs."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.fhe.results import pack_result, packed_bytes, unpack_result, word_bytes
from privacy.fhe.template import Template

HEAD, TAIL = 3, 1
WORD = st.integers(0, (1 << 64) - 1)


def template(free):
    places = [*range(HEAD), HEAD + free]
    words = tuple((at, 7 + at) for at in places)
    return Template((HEAD + free + TAIL) * 8, words)


def message(free):
    words = [7, 8, 9, *free, 7 + HEAD + len(free)]
    return np.array(words, dtype="<u8").tobytes()


def circuit(*, width=8, dimension=2048, rows=1):
    shape = {"dimensions": [rows, 1, dimension + 1]}
    kind = {
        "concreteShape": shape,
        "compression": "none",
        "encoding": {"integer": {"mode": {"native": {}}, "width": width}},
        "encryption": {
            "lweDimension": dimension,
            "modulus": {"modulus": {"native": {}}},
        },
    }
    return {"outputs": [{"typeInfo": {"lweCiphertext": kind}}]}


@given(st.lists(WORD, min_size=1, max_size=9), st.integers(1, 8))
def test_every_word_comes_back_to_the_nearest_that_its_bytes_say(free, each):
    packed = pack_result(message(free), template(len(free)), each)
    assert len(packed) == packed_bytes(template(len(free)), each) == each * len(free)
    back = unpack_result(packed, template(len(free)), each, hint="")
    words = np.frombuffer(back, dtype="<u8").tolist()
    assert words[:HEAD] == [7, 8, 9]
    assert words[-1] == 7 + HEAD + len(free)
    most = 0 if each == 8 else 1 << (63 - 8 * each)
    for was, now in zip(free, words[HEAD:-1], strict=True):
        assert min((was - now) % (1 << 64), (now - was) % (1 << 64)) <= most


@pytest.mark.parametrize("size", [0, 19, 21, 40])
def test_a_result_of_another_length_is_refused(size):
    with pytest.raises(FormatError, match="expected 20: ask again") as caught:
        unpack_result(bytes(size), template(5), 4, hint="ask again")
    assert caught.value.code == "fhe-result-mismatch"


@pytest.mark.parametrize(
    ("width", "dimension", "bytes_"),
    [
        (8, 2048, 4),
        (6, 1024, 4),
        (5, 900, 4),
        (2, 900, 3),
        (17, 2048, 5),
        (36, 2354, 8),
    ],
)
def test_wider_messages_keep_more_bytes(width, dimension, bytes_):
    made = circuit(width=width, dimension=dimension)
    assert word_bytes(made, template(dimension + 1)) == bytes_


@pytest.mark.parametrize("width", [2, 6, 8, 17, 24, 36])
@pytest.mark.parametrize("dimension", [450, 1024, 2048, 4096])
def test_rounding_takes_a_thousandth_of_half_a_step_whatever_the_key(width, dimension):
    each = word_bytes(
        circuit(width=width, dimension=dimension), template(dimension + 1)
    )
    if each < 8:
        worst = (dimension + 1) * 2 ** (63 - 8 * each)
        assert worst <= 2 ** (62 - width) / 1024


def test_what_the_engine_says_of_another_kind_of_result_keeps_every_byte():
    usual = circuit()
    changes = [
        lambda kind: kind["encoding"]["integer"].update(mode={"crt": {}}),
        lambda kind: kind.update(compression="seed"),
        lambda kind: kind["encryption"].update(modulus={"modulus": {"other": {}}}),
        lambda kind: kind["concreteShape"].update(dimensions=[1, 2, 2049]),
        lambda kind: kind.pop("encoding"),
    ]
    for change in changes:
        made = copy.deepcopy(usual)
        change(made["outputs"][0]["typeInfo"]["lweCiphertext"])
        assert word_bytes(made, template(2049)) == 8
    assert word_bytes({"outputs": usual["outputs"] * 2}, template(2049)) == 8
    assert word_bytes(usual, template(2049)) == 4
    assert word_bytes(circuit(rows=8), template(8 * 2049)) == 4


def test_rounding_moves_what_is_decrypted_by_far_less_than_the_noise_there_is():
    """Learning with errors itself, on 200 ciphertexts of random keys."""
    rng, dimension, each = np.random.default_rng(0), 2048, 4
    half = 2.0**54  # of a step, for 8 bits
    moved = []
    for _ in range(200):
        words = rng.integers(0, 1 << 64, dimension + 1, dtype=np.uint64)
        key = rng.integers(0, 2, dimension, dtype=np.uint64)
        like = template(dimension + 1)
        packed = pack_result(message(words.tolist()), like, each)
        back = np.frombuffer(unpack_result(packed, like, each, hint=""), dtype="<u8")
        change = (back[HEAD:-TAIL] - words).astype(np.int64)
        moved.append(change[-1] - (change[:-1] * key.astype(np.int64)).sum())
    spread = float(np.std(np.array(moved, dtype=np.float64)))
    assert 2**-20 < spread / half < 2**-18
