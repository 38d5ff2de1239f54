"""What follows from a data owner's report."""

import random

import pytest

from gateway.quality.service import draw
from gateway.quality.verdicts import Report, judge
from privacy.errors import FormatError

TWO = {"a": "one", "b": "two"}
THREE = {**TWO, "c": "three"}
DIGEST = "0" * 64


def report(*groups, rows=8, differing=1, digests=None):
    named = [job for group in groups for job in group]
    return Report(
        groups=tuple(tuple(group) for group in groups),
        digests=dict.fromkeys(named, DIGEST) if digests is None else digests,
        rows=rows,
        differing_rows=differing,
    )


def test_runs_that_agree_accuse_nobody():
    assert judge(report("ab", differing=0), TWO).agreed
    assert judge(report("abc"), THREE).agreed


def test_two_runs_that_differ_make_both_suspects_and_want_a_third():
    found = judge(report("a", "b"), TWO)
    assert (found.suspects, found.wants_third) == (("one", "two"), True)
    assert (found.agreed, found.at_fault) == (False, "")


@pytest.mark.parametrize(
    ("groups", "node"),
    [(("a", "bc"), "one"), (("ac", "b"), "two"), (("ab", "c"), "three")],
)
def test_who_is_alone_against_two_is_at_fault(groups, node):
    found = judge(report(*groups), THREE)
    assert (found.at_fault, found.suspects, found.wants_third) == (node, (), False)


def test_three_that_all_differ_decide_nothing():
    found = judge(report("a", "b", "c"), THREE)
    assert (found.at_fault, found.wants_third) == ("", False)
    assert found.suspects == ("one", "two", "three")


@pytest.mark.parametrize(
    "wrong",
    [
        report("a"),
        report("ab", "b"),
        report("abx"),
        report("ab", digests={"a": DIGEST}),
        report("a", "b", differing=0),
        report("a", "b", rows=3, differing=4),
    ],
)
def test_a_report_that_is_not_about_these_runs_is_refused(wrong):
    with pytest.raises(FormatError):
        wrong.check(["a", "b"])


def test_a_node_that_lies_now_and_then_is_found_as_often_as_is_said():
    """The share and the draw are the gateway's own; the lies are a coin's."""
    share, lies, jobs, trials = 0.3, 0.2, 20, 600
    coin = random.Random(5)
    found = 0
    for _ in range(trials):
        looks = [draw("sampled", share=share) for _ in range(jobs)]
        reports = [
            report("a", "b") if coin.random() < lies else report("ab", differing=0)
            for look in looks
            if look
        ]
        found += any(judge(told, TWO).suspects for told in reports)
    expected = 1 - (1 - share * lies) ** jobs
    assert abs(found / trials - expected) < 0.1
