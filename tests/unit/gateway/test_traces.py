"""Traces: from the client's span through the job to the worker, to a real collector."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway import traces
from gateway.executors.base import Watch
from privacy.client.drive import _traceparent
from tests.support.live_gateway import Api, ThreadGateway, wait_until
from tests.support.otlp_collector import Collector, facts

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENTS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def collector(monkeypatch) -> Iterator[Collector]:
    with Collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        traces.start_traces()
        yield found
        traces.stop_traces()


def _wait_for(collector: Collector, *names: str) -> None:
    """Wait for spans that may end just after the answer was sent."""

    def came() -> bool:
        traces._provider.force_flush()
        return all(collector.named(name) for name in names)

    wait_until(came, seconds=20)


def test_one_trace_leads_from_the_client_to_the_worker(
    gateway: ThreadGateway, api: Api, collector: Collector
):
    job = api.order(
        {"do": "echo", "patient": "canary-4711"},
        wait=20,
        headers=CLIENTS,
        options={"note": "canary-4712"},
    ).json()
    _wait_for(collector, "job", "POST /v1/jobs")
    [request] = collector.named("POST /v1/jobs")
    [accept] = collector.named("job.accept")
    [whole] = collector.named("job")
    [wait] = collector.named("job.wait")
    [run] = collector.named("job.run")
    [compute] = collector.named("worker.compute")
    [receipt] = collector.named("job.receipt")
    assert {s.trace_id.hex() for s in (request, accept, whole, compute)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert {accept.parent_span_id, whole.parent_span_id} == {request.span_id}
    below = {s.parent_span_id for s in (wait, run, receipt)}
    assert below == {whole.span_id}
    assert compute.parent_span_id == run.span_id
    assert whole.start_time_unix_nano <= wait.start_time_unix_nano
    assert wait.end_time_unix_nano == run.start_time_unix_nano
    assert run.end_time_unix_nano <= receipt.start_time_unix_nano
    assert facts(whole) == {
        "privacy.job.id": job["id"],
        "privacy.mode": "zkml",
        "privacy.model": job["model_sha256"],
        "privacy.status": "succeeded",
        "privacy.node": "local",
    }
    assert facts(request)["http.route"] == "/v1/jobs"
    assert facts(request)["http.response.status_code"] == 200
    assert collector.service == "privacy-gateway"
    secrets = ("canary", gateway.admin_key, gateway.admin_key[3:20], "default")
    for secret in secrets:
        assert secret.encode() not in collector.raw


def test_a_defect_leaves_no_message_in_a_span(api: Api, collector: Collector):
    api.order({"do": "fail"}, wait=20)
    api.get("/patient-4711")
    _wait_for(collector, "job", "GET ")
    [whole] = collector.named("job")
    assert facts(whole)["privacy.status"] == "failed"
    assert b"quotes a secret" not in collector.raw
    assert b"patient" not in collector.raw


def test_what_breaks_a_span_off_is_told_by_its_type(collector: Collector):
    with pytest.raises(ValueError, match="canary"), traces.span("job.accept"):
        raise ValueError("canary-4711")
    traces.stop_traces()
    [broken] = collector.named("job.accept")
    assert (broken.status.code, broken.status.message) == (2, "ValueError")
    assert b"canary" not in collector.raw


def test_loading_and_each_attempt_have_spans_of_their_own(collector: Collector):
    spans, heard = traces.JobSpans(), []
    watch = spans.around(Watch(lambda: heard.append("started"), heard.append))
    with traces.span("job"):
        watch.started()
        watch.progress({"stage": "load"})
        watch.started()
        watch.progress({"stage": "load"})
        watch.progress({"stage": "loaded"})
        watch.progress({"stage": "prove"})
        spans.end()
    traces.stop_traces()
    assert len(heard) == 6, "the watch hears everything"
    runs = collector.named("job.run")
    assert [facts(r)["privacy.attempt"] for r in runs] == [1, 2]
    assert runs[0].end_time_unix_nano == runs[1].start_time_unix_nano
    loads = collector.named("worker.load")
    assert [s.parent_span_id for s in loads] == [r.span_id for r in runs]
    assert loads[1].end_time_unix_nano <= runs[1].end_time_unix_nano


def test_the_client_names_the_trace_of_the_program_it_is_used_in(collector: Collector):
    assert _traceparent() == {}
    with traces.span("mine") as mine:
        sent = _traceparent()["traceparent"]
    assert traces.trace_id_of(sent) == f"{mine.get_span_context().trace_id:032x}"
    assert int(sent[-2:], 16) & 1, "it is sampled"


def test_without_a_collector_no_exporter_is_loaded():
    code = (
        "import sys, gateway.logs, gateway.traces, privacy.client.drive as d\n"
        "gateway.traces.start_traces(); d._traceparent()\n"
        "assert gateway.traces._tracer is None\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry.sdk')]"
    )
    env = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_the_standard_variables_turn_traces_off(monkeypatch, variables):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    traces.start_traces()
    assert traces._tracer is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
    ],
)
def test_a_header_of_another_form_names_no_trace(header):
    assert traces.trace_id_of(header) == ""
