"""A job's name is used for one input, which may be answered again."""

from dataclasses import replace

import pytest

from privacy.errors import FormatError
from privacy.tee import replay
from privacy.tee.replay import UsedJobs
from privacy.tee.seal import SealedInput

INPUT = SealedInput(bytes(32), bytes(32), b"\1" * 32, b"ciphertext", "00" * 32)
OTHER = replace(INPUT, ciphertext=b"another")


def take(jobs, sealed):
    with jobs.taken(sealed):
        pass


def refuse(jobs, sealed):
    with pytest.raises(FormatError) as caught:
        take(jobs, sealed)
    assert caught.value.code == "job-reused"


def test_the_same_input_may_be_answered_again_and_another_not():
    jobs = UsedJobs()
    take(jobs, INPUT)
    take(jobs, INPUT)
    take(jobs, replace(INPUT, order=b"a contract's question", sha256="11" * 32))
    for change in ({"ciphertext": b""}, {"nonce": b"\2" * 32}, {"key_id": b"\2" * 32}):
        refuse(jobs, replace(INPUT, **change))
    take(jobs, replace(OTHER, job=b"\2" * 32))


def test_the_name_is_taken_while_the_job_runs():
    jobs = UsedJobs()
    with jobs.taken(INPUT):
        refuse(jobs, OTHER)


def test_an_input_that_did_not_open_takes_no_name():
    jobs = UsedJobs()
    with pytest.raises(ZeroDivisionError), jobs.taken(OTHER):
        raise ZeroDivisionError
    take(jobs, INPUT)
    with pytest.raises(ZeroDivisionError), jobs.taken(INPUT):
        raise ZeroDivisionError
    refuse(jobs, OTHER)


def test_memory_is_bounded_and_the_oldest_name_forgotten(monkeypatch):
    monkeypatch.setattr(replay, "MOST_JOBS", 2)
    jobs = UsedJobs()
    for name in (b"\1", b"\2", b"\3"):
        take(jobs, replace(INPUT, job=name * 32))
    assert len(jobs._content) == 2
    take(jobs, OTHER)
    refuse(jobs, replace(OTHER, job=b"\3" * 32))
