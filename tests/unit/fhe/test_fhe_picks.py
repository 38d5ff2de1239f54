"""The bits that a circuit reads, picked from a client's message."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privacy.encoding import canonical_json, pack, unpack
from privacy.errors import BackendError, FormatError, NotFoundError
from privacy.fhe.picks import PICKS, Picks, parse_picks
from privacy.fhe.runner import Runner
from privacy.fhe.template import Template


def template(fixed, free):
    """Return a template that begins with fixed words and goes on with free ones."""
    return Template(size=8 * (len(fixed) + free), words=tuple(enumerate(fixed)))


OUTER, INNER = template((7, 8), 2 * 5 * 3), template((9,), 2 * 2 * 3)
PICK = Picks(bits=5, used=(1, 4), inner={"rows_2": INNER})


def message(head, *words):
    return np.array([*head, *words], dtype="<u8").tobytes()


def pick(picks, raw, outer=OUTER):
    return picks.pick(raw, function="rows_2", rows=2, template=outer)


def test_the_words_of_the_bits_that_are_read_move_to_the_smaller_message():
    found = pick(PICK, message((7, 8), *range(100, 130)))
    assert found == message(
        (9,), 103, 104, 105, 112, 113, 114, 118, 119, 120, 127, 128, 129
    )


def test_messages_that_do_not_hold_as_many_words_for_every_bit_are_refused():
    for picks in (replace(PICK, bits=4), replace(PICK, used=(1,))):
        with pytest.raises(BackendError, match="as many words"):
            pick(picks, message((7, 8), *range(30)))


def test_picks_survive_being_written_and_read():
    assert parse_picks(PICK.to_bytes()) == PICK


def test_picks_of_another_format_are_refused():
    value = json.loads(PICK.to_bytes()) | {"format": "privacy-compute/fhe-picks/0"}
    with pytest.raises(FormatError, match="publish the model again"):
        parse_picks(canonical_json(value))


def test_what_a_hidden_model_reads_is_the_nodes_and_not_the_clients(forest):
    picks = parse_picks((forest.bundle.root / "fhe" / PICKS).read_bytes())
    assert 0 < len(picks.used) < picks.bits == forest.result.params["input_bits"]
    assert PICKS not in forest.result.public
    assert not forest.bundle.manifest.files[f"fhe/{PICKS}"].public
    spec = json.loads(forest.client_json)
    circuits = json.loads(spec["program"])["circuits"]
    shapes = [c["inputs"][0]["rawInfo"]["shape"]["dimensions"] for c in circuits]
    assert [s[:2] for s in shapes] == [[1, picks.bits], [8, picks.bits]]


def test_bits_that_the_trees_do_not_read_do_not_change_the_answer(
    forest, forest_keys, tmp_path
):
    """What the node drops may be anything at all."""
    picks = parse_picks((forest.bundle.root / "fhe" / PICKS).read_bytes())
    path = tmp_path / "keys"
    path.write_bytes(forest_keys.evaluation_keys())
    (frame,) = unpack(forest_keys.encrypt(forest.held[:1]), what="input")
    outer = forest_keys.spec.batches[0].ciphertext
    words, fixed = np.frombuffer(frame, dtype="<u8").copy(), dict(outer.words)
    free = np.array([i for i in range(len(words)) if i not in fixed])
    unread = np.ones(picks.bits, dtype=bool)
    unread[list(picks.used)] = False
    words[free.reshape(picks.bits, -1)[unread].ravel()] = 0
    runner = Runner(forest.bundle)
    found = [
        forest_keys.decrypt(runner.run(pack([f]), path, lambda _: None).output, 1)
        for f in (frame, words.tobytes())
    ]
    assert np.array_equal(*found)


def test_a_model_that_reads_all_it_is_sent_has_no_picks(linear):
    with pytest.raises(NotFoundError):
        linear.bundle.path(f"fhe/{PICKS}")
