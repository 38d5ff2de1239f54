import numpy as np
import pytest

from privacy.activations import ACTIVATIONS, activate, class_count


def test_probabilities_are_safe_at_the_ends():
    two = activate([[0.0], [800.0], [-800.0]], "sigmoid")
    assert np.allclose(two, [[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    three = activate([[1.0, 1.0, 1.0], [1000.0, 0.0, 0.0]], "softmax")
    assert np.allclose(three, [[1 / 3] * 3, [1.0, 0.0, 0.0]])
    rest = activate([[800.0, 800.0], [-800.0, -800.0]], "ovr")
    assert np.allclose(rest, 0.5)


def test_values_pass_and_logarithms_are_undone():
    assert activate([[3.0]], "none").tolist() == [[3.0]]
    assert activate([[0.0], [1.0]], "exp").tolist() == [[1.0], [np.e]]
    assert np.isfinite(activate([[1e9]], "exp")).all()


def test_of_one_margin_the_sign_decides_and_zero_is_the_first_class():
    labels = activate([[-0.1], [0.0], [0.1]], "margin").argmax(axis=1)
    assert labels.tolist() == [0, 0, 1]
    assert activate([[1.0, 3.0, 2.0]], "margin").argmax() == 1


def test_pairs_vote_and_of_equals_the_first_wins():
    raw = [[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]
    votes = activate(raw, "votes")
    assert votes.tolist() == [[2, 1, 0], [1, 2, 0], [1, 1, 1], [0, 1, 2]]
    assert votes.argmax(axis=1).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("activation", "outputs", "classes"),
    [
        ("none", 3, 3),
        ("sigmoid", 1, 2),
        ("sigmoid", 2, 0),
        ("softmax", 4, 4),
        ("ovr", 3, 3),
        ("margin", 1, 2),
        ("margin", 5, 5),
        ("votes", 3, 3),
        ("votes", 6, 4),
        ("votes", 45, 10),
        ("votes", 4, 0),
        ("exp", 1, 0),
    ],
)
def test_outputs_tell_so_many_classes_apart(activation, outputs, classes):
    assert class_count(activation, outputs) == classes
    if classes:
        assert activate(np.zeros((2, outputs)), activation).shape == (2, classes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_keeps_a_row_a_row(activation):
    assert len(activate(np.ones((4, 1)), activation)) == 4
