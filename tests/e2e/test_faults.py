"""A small run of `make faults`, without Ray and with it."""

from types import SimpleNamespace

import pytest

from benchmarks.faults import Tally, _kill_node, campaign, wrong
from benchmarks.postgres import PostgresMissingError


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("node_kills", [0, 1])
def test_killed_gateways_and_nodes_lose_no_job_and_end_each_once(node_kills: int):
    try:
        found = campaign(jobs=12, gateway_kills=3, node_kills=node_kills, lease_s=3)
    except PostgresMissingError as exc:
        pytest.skip(str(exc))
    assert wrong(found) == []
    assert found["ends"] == {"succeeded": 12}
    assert found["gateway_kills"] == 3
    assert found["takeover_s"]["most"] < 60


def test_a_campaign_in_which_anything_went_wrong_says_so():
    fine = {
        "never_taken": 0,
        "lost": [],
        "ends": {"succeeded": 12},
        "duplicates": [],
        "logs": {"wrong": []},
    }
    assert wrong(fine) == []
    assert wrong({**fine, "never_taken": 2}) == ["never taken: 2"]
    ends = {"succeeded": 11, "failed worker-died": 1}
    assert wrong({**fine, "ends": ends}) == ["failed worker-died: 1"]
    assert wrong({**fine, "lost": ["job"]}) == ["lost: 1"]


@pytest.mark.parametrize("begun", [{}, {"job": 1}])
def test_the_death_of_an_idle_node_is_no_delay(begun: dict[str, int]):
    jobs = iter([begun, {}])
    cluster = SimpleNamespace(kill=lambda _: None, restart=lambda _: None)
    site = SimpleNamespace(cluster=cluster, open_jobs=lambda: next(jobs))
    tally = Tally()
    _kill_node(site, tally, 0)
    assert (tally.node_kills, len(tally.node_s)) == (1, len(begun))
