"""Metrics, read as Prometheus reads them."""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families as parse

from gateway import metrics
from gateway.store.away import StoreAwayError, passing_errors
from privacy.modes import Mode
from tests.support.live_gateway import Api, ThreadGateway, wait_until

ECHO = {"do": "echo"}
KNOWN = {
    *("method", "route", "status", "mode", "model"),
    *("where", "state", "result", "le"),
}


class Scraper:
    """A key that may read metrics, and nothing else."""

    def __init__(self, gateway: ThreadGateway) -> None:
        self.api = gateway.client(gateway.new_key("metrics:read", tenant="operator"))

    def text(self) -> str:
        return self.api.get("/metrics").raise_for_status().text

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in parse(self.text())
            for s in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples().get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture(scope="module")
def scraper(gateway: ThreadGateway):
    found = Scraper(gateway)
    yield found
    found.api.close()


def test_a_finished_job_is_counted_by_mode_model_and_status(api: Api, scraper: Scraper):
    ended = {"mode": "zkml", "model": "demo", "status": "succeeded"}
    before = scraper.samples()
    api.order(ECHO, wait=20)
    after = scraper.samples()

    def grew(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert grew("privacy_jobs_total", **ended) == 1
    assert grew("privacy_job_wait_seconds_count", mode="zkml") == 1
    assert grew("privacy_job_run_seconds_count", mode="zkml") == 1


def test_jobs_that_wait_and_run_are_seen_while_they_do(api: Api, scraper: Scraper):
    ids = [
        api.order({"do": "sleep", "seconds": 30}, wait=0).json()["id"] for _ in range(3)
    ]
    found = {}
    for _ in range(100):
        found = {
            s: scraper.value("privacy_jobs_open", mode="zkml", status=s)
            for s in ("queued", "running")
        }
        if found == {"queued": 1, "running": 2}:  # there are two workers
            break
    assert found == {"queued": 1, "running": 2}
    assert scraper.value("privacy_workers_busy", mode="zkml") == 2
    assert scraper.value("privacy_workers", mode="zkml") == 2
    for job_id in ids:
        api.delete(f"/v1/jobs/{job_id}")


def test_requests_are_counted_by_the_template_of_their_route(
    api: Api, scraper: Scraper
):
    route = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "404"}
    before = scraper.value("privacy_http_requests_total", **route)
    for n in range(3):
        api.get(f"/v1/jobs/job_{n}")
    assert scraper.value("privacy_http_requests_total", **route) == before + 3


def test_bytes_of_uploads_are_counted(api: Api, scraper: Scraper):
    name, route = "privacy_http_received_bytes_total", "/v1/blobs/{sha256}"
    before = scraper.value(name, route=route)
    api.upload(b"x" * 4321)
    assert scraper.value(name, route=route) == before + 4321


def test_paths_that_nobody_serves_share_one_label(api: Api, scraper: Scraper):
    for n in range(5):
        api.get(f"/patient-{n}")
        api.request("BREW", f"/tea-{n}")
    text = scraper.text()
    assert "patient" not in text
    assert "tea-" not in text
    assert "BREW" not in text
    assert scraper.value(
        "privacy_http_requests_total", method="GET", route="none", status="404"
    )


def test_no_metric_names_a_tenant_a_key_a_job_or_a_digest(
    gateway: ThreadGateway, scraper: Scraper
):
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="acme-corp")
    with gateway.client(key) as api:
        job: dict[str, Any] = api.order(ECHO, wait=20).json()
    text = scraper.text()
    for secret in ("acme-corp", job["id"], job["model_sha256"], job["input_sha256"]):
        assert secret not in text
    labels = {n for f in parse(text) for s in f.samples for n in s.labels}
    assert labels <= KNOWN


def test_metrics_need_a_scope_of_their_own(gateway: ThreadGateway, scraper: Scraper):
    with gateway.client("") as nobody:
        assert nobody.get("/metrics").status_code == 401
    with gateway.client(gateway.new_key("jobs:read")) as reader:
        assert reader.get("/metrics").status_code == 403
    answer: httpx.Response = scraper.api.get("/v1/jobs")
    assert answer.status_code == 403


def test_the_gauges_cover_every_mode(scraper: Scraper):
    for mode in Mode:
        assert ("privacy_workers", (("mode", str(mode)),)) in scraper.samples()
    assert scraper.value("privacy_ready") == 1
    assert scraper.value("privacy_nodes", state="ready") == 1
    assert scraper.value("privacy_disk_free_bytes") > 0


def test_a_database_that_is_away_is_counted(scraper: Scraper):
    before = scraper.value("privacy_database_errors_total")
    away = sa.exc.OperationalError("SELECT 1", {}, Exception("connection refused"))
    with pytest.raises(StoreAwayError), passing_errors():
        raise away
    assert scraper.value("privacy_database_errors_total") == before + 1


def test_receipts_that_wait_for_the_log_are_counted(
    gateway: ThreadGateway, scraper: Scraper, monkeypatch
):
    log = gateway.app.state.gateway.receipt_log
    monkeypatch.setattr(log, "integrate", lambda **_: 0)  # the log's keeper is away
    with gateway.client() as api:
        api.order(ECHO, wait=20)
    assert scraper.value("privacy_receipts_unlogged") >= 1
    monkeypatch.undo()
    wait_until(lambda: log.behind() == 0, seconds=20)


def test_more_models_than_a_hundred_share_a_label(monkeypatch):
    monkeypatch.setattr(metrics, "_models", {f"m{n}" for n in range(100)})
    assert metrics._bounded("one-more") == "other"
    assert metrics._bounded("m7") == "m7"


def test_a_clock_that_was_set_back_counts_as_no_time():
    late, early = "2026-01-02T00:00:00.000Z", "2026-01-01T00:00:00.000Z"
    assert metrics._seconds(late, early) == 0
    assert metrics._seconds(early, late) == 86400
