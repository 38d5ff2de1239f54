"""A hundred requests while the gateway itself is killed: each answered once."""

import pytest

from benchmarks.chain_campaign import measure


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_request_is_answered_once_whatever_becomes_of_the_gateway():
    found = measure(quick=False)
    assert found["gateway_kills"] == 20
    assert found["reorganisations"] == 5
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["fulfilled"] == 100
    assert found["paid_wei"] == found["owed_wei"]
    assert found["most_jobs_a_request"] == 1
