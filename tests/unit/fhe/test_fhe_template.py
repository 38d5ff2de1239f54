"""Templates: what is fixed must match, what is random may be anything."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError
from privacy.fhe.template import Template, learn_template, parse_template

HEAD, TAIL = [7, 2**63 + 1], [5]


def message(seed):
    rng = random.Random(seed)
    words = [*HEAD, *(rng.getrandbits(64) for _ in range(4)), *TAIL]
    return np.array(words, dtype="<u8").tobytes()


@pytest.fixture
def template():
    return learn_template([message(1), message(2)])


def check(template, raw):
    template.check(raw, what="messages", code="some-code", hint="make new ones")


def test_learning_keeps_only_the_words_that_never_change(template):
    assert template.words == ((0, 7), (1, 2**63 + 1), (6, 5))
    assert template.size == 56


def test_check_passes_a_message_it_has_not_seen(template):
    check(template, message(3))


@pytest.mark.parametrize("word", [0, 1, 6])
@pytest.mark.parametrize("bit", [0, 31, 63])
def test_check_refuses_one_flipped_bit_in_a_structural_word(template, word, bit):
    raw = bytearray(message(3))
    raw[word * 8 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError, match=f"byte {word * 8}: make new ones") as caught:
        check(template, bytes(raw))
    assert caught.value.code == "some-code"


@pytest.mark.parametrize("raw", [b"", message(3)[:-8], message(3) + bytes(8), b"x"])
def test_check_refuses_another_length(template, raw):
    with pytest.raises(FormatError, match="expected 56"):
        check(template, raw)


def test_learning_refuses_samples_of_two_lengths():
    with pytest.raises(FormatError, match="56 and 48 bytes"):
        learn_template([message(1), message(2)[:-8]])


def test_constant_is_the_message_when_nothing_is_free(template):
    assert template.constant() is None
    assert learn_template([message(1), message(1)]).constant() == message(1)


def test_a_template_survives_json(template):
    assert parse_template(template.to_json(), what="t") == template


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
)


@given(size=json_values, at=json_values, words=json_values)
def test_parsing_gives_a_template_or_a_format_error(size, at, words):
    try:
        found = parse_template({"size": size, "at": at, "words": words}, what="t")
    except FormatError:
        return
    assert isinstance(found, Template)


@pytest.mark.parametrize(
    "change",
    [
        {"at": [6, 1, 0]},
        {"at": [0, 1, 7]},
        {"at": [-1, 1, 6]},
        {"words": ["7", "8"]},
        {"words": ["7", "8", "10000000000000000"]},
        {"words": ["7", "8", "-1"]},
        {"size": 55},
        {"size": True},
        {"more": 1},
    ],
)
def test_parsing_refuses_a_changed_template(template, change):
    with pytest.raises(FormatError):
        parse_template({**template.to_json(), **change}, what="t")
