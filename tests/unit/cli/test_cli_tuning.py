"""The flags of `privacy publish` that tune FHE, and what it shows."""

import pytest

from privacy.cli import tuning
from privacy.cli.tuning import show_tuning, with_tuning
from privacy.errors import FormatError
from privacy.fhe.options import FAST_P_ERROR
from privacy.modes import Mode


def test_flags_become_options_of_fhe_beside_those_given():
    given = {Mode.FHE: {"splits": "revealed"}, Mode.ZKML: {"srs": "x"}}
    found = with_tuning(given, tune="speed", max_loss=0.5, fast=True)
    assert found[Mode.FHE] == {
        "splits": "revealed",
        "tune": "speed",
        "max_loss": 0.5,
        "p_error": FAST_P_ERROR,
    }
    assert found[Mode.ZKML] == {"srs": "x"}
    assert with_tuning(given, tune="", max_loss=None, fast=False) == given


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"tune": "", "max_loss": 1.0, "fast": False}, "--max-loss"),
        ({"tune": "", "max_loss": None, "fast": True}, "p_error"),
        ({"tune": "speed", "max_loss": None, "fast": False}, "tune"),
    ],
)
def test_flags_that_contradict_are_refused(flags, named):
    given = {Mode.FHE: {"p_error": 0.01, "tune": "accuracy"}}
    with pytest.raises(FormatError, match=named):
        with_tuning(given, **flags)


def test_the_front_and_both_caveats_are_shown(monkeypatch, capsys):
    monkeypatch.setattr(tuning.out, "width", 160)
    point = {"loss": 3.0, "worst_loss": 4.0, "complexity": 7e8}
    report = {
        "goal": "speed",
        "measures": "accuracy",
        "chosen": "four bits",
        "front": [
            {"name": "four bits", "latency_s": 0.1, "keys_bytes": 25e6, **point},
            {"name": "nine bits", **point},
        ],
        "candidates": 18,
        "loss": 3.0,
        "max_loss": 2.0,
        "within": False,
    }
    show_tuning({"tuned": report, "p_error": FAST_P_ERROR})
    shown = capsys.readouterr()
    assert "→" in shown.out
    assert "four bits" in shown.out
    assert "nine bits" in shown.out
    assert "100 ms" in shown.out
    assert "loses least" in shown.err
    assert "IND-CPA-D" in shown.err
    show_tuning({})
    assert capsys.readouterr() == ("", "")
