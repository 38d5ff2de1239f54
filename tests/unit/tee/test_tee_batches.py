"""Rows are told as they are done; quick models run all at once."""

import pytest

from privacy.tee.batches import Batches

ROWS = [[float(i)] for i in range(10)]


class Timed:
    """A model that takes so long a row, on a clock of its own."""

    def __init__(self, row_s):
        self.now, self.row_s, self.sizes = 0.0, row_s, []

    def clock(self):
        return self.now

    def run(self, rows):
        self.now += self.row_s * len(rows)
        self.sizes.append(len(rows))
        return [[2 * x for x in row] for row in rows]


def ran(model, rows=ROWS, batches=None):
    told = []
    batches = batches or Batches(model.run, model.clock)
    assert batches.run(rows, told.append) == [[2 * x for x in row] for row in rows]
    return told


def test_a_slow_model_tells_of_every_row():
    model = Timed(2.0)
    told = ran(model)
    assert model.sizes == [1] * 10
    assert [event["done"] for event in told] == list(range(1, 10))
    assert all(set(event) == {"stage", "done", "total"} for event in told)
    assert {event["total"] for event in told} == {10}


def test_a_quick_model_runs_all_at_once_when_its_speed_is_known():
    model = Timed(0.001)
    batches = Batches(model.run, model.clock)
    assert [event["done"] for event in ran(model, batches=batches)] == [1]
    assert ran(model, batches=batches) == []
    assert model.sizes == [1, 9, 10]


def test_a_model_too_quick_for_the_clock_runs_all_at_once():
    model = Timed(0.0)
    batches = Batches(model.run, model.clock)
    ran(model, batches=batches)
    assert ran(model, batches=batches) == []


def test_a_model_in_between_runs_in_batches_of_half_a_second():
    model = Timed(0.1)
    ran(model)
    assert model.sizes == [1, 5, 4]


def test_one_row_tells_nothing():
    assert ran(Timed(60.0), ROWS[:1]) == []


def test_who_hears_can_stop_it():
    model = Timed(2.0)

    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Batches(model.run, model.clock).run(ROWS, stop)
    assert model.sizes == [1]
