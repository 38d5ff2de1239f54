"""When the answers of two runs, already opened, count as different."""

from pathlib import Path

import numpy as np
import pytest

from privacy.client.answer import Answer, Row
from privacy.client.home import Home
from privacy.client.infer import Meter
from privacy.client.second_run import Run, SecondRuns, infer_compared
from privacy.client.wire import On
from privacy.errors import VerificationError
from privacy.fhe.agreement import Agreement
from privacy.modes import Mode, who_sees_what

ROWS = [[0.0], [1.0]]
EXACT, ROUNDS = Agreement(0, 1e-9), Agreement(2, 1e-9)


class Asker:
    """A client whose jobs, one after the other, give these integers."""

    driver = None

    def __init__(self, folder, rule, *runs):
        self.home, self.gateway = Home(folder), "http://gateway"
        self.rule, self.runs, self.at = rule, runs, -1

    def asked(self, model, rows, mode, meter, *, keep_input, extras=None):
        yield from ()
        self.at += 1
        return Answer(
            job_id=f"job_{self.at}",
            model="m/1",
            model_sha256="0" * 64,
            mode=Mode.FHE,
            rows=tuple(Row("", (), (float(n),)) for n in self.runs[self.at]),
            checks=(),
            caveats=(),
            who_sees_what=who_sees_what(Mode.FHE, simulated=False),
            simulated=False,
            seconds={},
            bytes_up=0,
            bytes_down=0,
            gateway=self.gateway,
            node="n",
            receipt=Path(f"{self.at}") / "receipt.json",
        )

    def opened(self, answer):
        yield from ()
        numbers = [[int(row.outputs[0])] for row in answer.rows]
        return Run(np.array(numbers), self.rule)


def compared(asker, *, tolerance=None):
    wanted = SecondRuns(runs=1, share=1.0, tolerance=tolerance, askers=(asker,))
    return drained(infer_compared(asker, "m", ROWS, "fhe", Meter(), wanted))


def drained(flow):
    """Return what a flow gives, none of whose steps leave this process."""
    given = None
    try:
        while True:
            step = flow.send(given)
            assert isinstance(step, On)
            given = drained(step.flow)
    except StopIteration as end:
        return end.value


def test_honest_nodes_that_round_approximately_are_not_accused(tmp_path):
    answer = compared(Asker(tmp_path, ROUNDS, [10, 20], [12, 18]))
    (check,) = answer.checks
    assert "2 of 2 rows, encrypted anew, answered alike" in check.detail


@pytest.mark.parametrize("rule", [EXACT, ROUNDS])
def test_answers_further_apart_than_honest_ones_are_refused(tmp_path, rule):
    with pytest.raises(VerificationError, match="row 2 was answered") as caught:
        compared(Asker(tmp_path, rule, [10, 20], [10, 20 + rule.apart + 1]))
    assert caught.value.code == "second-run-differs"


def test_a_tolerance_replaces_what_the_manifest_says(tmp_path):
    with pytest.raises(VerificationError):
        compared(Asker(tmp_path, ROUNDS, [10, 20], [11, 20]), tolerance=0.0)
    assert compared(Asker(tmp_path, EXACT, [10, 20], [15, 20]), tolerance=5.0).checks


def test_rows_that_a_look_up_may_have_spoilt_are_told_and_accuse_nobody(tmp_path):
    rule = Agreement(0, 0.1)
    answer = compared(Asker(tmp_path, rule, [10, 20], [10, 90]))
    assert "but 1, as look-ups that err by chance" in answer.checks[0].detail
