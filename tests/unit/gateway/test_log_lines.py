"""What the gateway logs: enough to follow a request, nothing it was entrusted with."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from privacy.encoding import b64url
from tests.support.live_gateway import Api, ThreadGateway, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    ids = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[ids]) as found:
        yield found


def _of(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    found = [line for line in lines if line["event"] == event]
    return found[-1] if found else {}


def test_a_requests_own_id_is_logged_and_sent_back(api: Api, lines):
    answer = api.get("/v1/models", headers={"X-Request-Id": "order-17.a_b"})
    assert answer.headers["X-Request-Id"] == "order-17.a_b"
    assert wait_until(lambda: _of(lines, "request"))["request_id"] == "order-17.a_b"


@pytest.mark.parametrize("given", ["", "a b", "-x", "x" * 65, 'a"b', "ä".encode()])
def test_an_id_of_another_form_is_replaced(api: Api, lines, given):
    answer = api.get("/v1/models", headers={"X-Request-Id": given})
    assert len(answer.headers["X-Request-Id"]) == 16
    assert int(answer.headers["X-Request-Id"], 16)


def test_what_a_job_logs_names_its_request_and_its_trace(api: Api, lines):
    headers = {
        "X-Request-Id": "mine",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    api.order({"do": "refuse"}, wait=20, headers=headers)
    failed = _of(lines, "job-failed")
    assert (failed["request_id"], failed["trace_id"]) == ("mine", TRACE)
    api.get("/v1/models", headers={"traceparent": f"00-{'0' * 32}-{'1' * 16}-01"})
    last = wait_until(
        lambda: (found := _of(lines, "request"))["path"] == "/v1/models" and found
    )
    assert "trace_id" not in last


def test_nothing_entrusted_reaches_the_log(gateway: ThreadGateway, api: Api, lines):
    canary = "canary-4711"
    api.order({"do": "echo", "patient": canary}, wait=20)
    for do in ("refuse", "fail", "segfault"):
        api.order({"do": do, "patient": canary}, wait=20)
    api.order({"do": "echo", "patient": canary}, mode="tee", wait=20)
    api.post("/v1/jobs", json={"model": canary, "mode": canary})
    api.post("/v1/jobs", content=canary.encode())
    api.get(f"/{canary}")
    api.get("/v1/models", params={"canary": canary})
    api.put(f"/v1/blobs/{'0' * 64}", content=canary.encode())
    api.get("/v1/models", headers={"Cookie": canary, "X-Request-Id": f"<{canary}>"})
    with gateway.client(f"pk_{b64url(canary.encode())}") as wrong:
        wrong.get("/v1/models")
    secret = gateway.new_key("jobs:read")
    wait_until(lambda: sum(line["event"] == "request" for line in lines) > 15)
    text = json.dumps(lines)
    for entrusted in (canary, b64url(canary.encode()), secret, gateway.admin_key):
        assert entrusted not in text
