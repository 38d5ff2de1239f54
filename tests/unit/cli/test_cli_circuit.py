"""An FHE circuit in words."""

import pytest

from privacy.cli.circuit import circuit_lines, show_circuit

TREES = {
    "look_ups": 50,
    "trees": 20,
    "keyset": "trees-1",
    "splits": "hidden",
    "answer": "sums",
    "binned": {"rows": 90, "max_error": 0.125, "label_agreement": 0.978},
}


def test_a_tree_circuit_says_what_it_takes_shows_and_loses():
    size, splits, answer, binned = circuit_lines(TREES)
    assert size.startswith("50 look-ups a row for 20 trees; keys of the set trees-1")
    assert "quantiles of the calibration rows" in splits
    assert "one encrypted sum" in answer
    assert binned.endswith("labels agree on 97.8%, max error 0.12")


def test_revealed_splits_and_leaves_say_what_clients_get():
    said = circuit_lines({**TREES, "splits": "revealed", "answer": "leaves"})
    assert said[1:] == [
        "splits revealed: clients get every threshold of the trees",
        "answer: the number of each tree's leaf; clients get what they hold",
    ]


def test_a_regression_has_no_labels_to_speak_of():
    *_, binned = circuit_lines({**TREES, "binned": {"max_error": 12}})
    assert binned == "hiding the splits alone: max error 12"


def test_a_model_that_fell_back_says_why(capsys):
    show_circuit({"circuit": "concrete-ml", "not_fhe_native": "too deep\x1b[2J"})
    shown = capsys.readouterr().out
    assert "ours will not do: too deep" in shown
    assert "\x1b[2J" not in shown


def test_a_network_has_look_ups_and_keys_of_its_own():
    (size,) = circuit_lines({"look_ups": 12, "layers": 2, "keyset": "own"})
    assert size == "12 look-ups a row; keys of its own"
    assert circuit_lines({"look_ups": 12}) == ["12 look-ups a row"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"splits": ["hidden"], "answer": 3},
        {**TREES, "binned": None},
        {**TREES, "binned": {"max_error": "x", "label_agreement": []}},
        {"look_ups": None, "keyset": {}},
    ],
)
def test_what_a_manifest_says_otherwise_is_no_error(params):
    show_circuit(params)
