"""Latency is one worker on all cores, throughput a worker on each."""

import pytest

from gateway import settings as module
from gateway.settings import Settings
from privacy.modes import Mode


@pytest.mark.parametrize(
    ("chosen", "workers", "threads"),
    [
        ({}, 1, "8"),
        ({"fhe_execution": "throughput"}, 8, "1"),
        ({"fhe_execution": "throughput", "fhe_workers": 3}, 3, "2"),
        ({"fhe_workers": 20}, 20, "1"),
    ],
)
def test_workers_share_the_cores_out(monkeypatch, chosen, workers, threads):
    monkeypatch.setattr(module, "_cores", lambda: 8)
    settings = Settings(**chosen)
    assert settings.workers(Mode.FHE) == workers
    assert settings.worker_env(Mode.FHE)["OMP_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in settings.worker_env(Mode.ZKML)


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="latency"):
        Settings(fhe_execution="fast")
