"""Characters that PostgreSQL, or UTF-8, cannot hold, wherever a request has a text.

The places are those of the OpenAPI document: every parameter of a path, of a query and
in a header, and every text in a JSON body. None may end in a 5xx, and in a path none
leads anywhere.
"""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway
from tests.support.postgres import migrated

pytestmark = pytest.mark.slow

NOT_LIMITED = {
    f"{name}_per_minute": 0 for name in ("submits", "uploads", "reads", "strangers")
}
IN_URL = ("%00", "a%00b", "a%0ab", "%7f", "%c2%80", "%e2%80%ae", "%ed%a0%80", "%ff")
STORABLE = "\ufffe"  # no character, but PostgreSQL keeps it
IN_JSON = ("\x00", "a\x00b", "\x01", "\x7f", "\ud800", STORABLE)
DIGEST = "0" * 64
SAMPLES = {
    "model": "demo",
    "name": "demo",
    "version": "1",
    "path": "fhe/client.json",
    "mode": "zkml",
    "modes": "zkml",
    "id": "a-new-tenant",
    "tenant": "default",
    "tenant_id": "nobody",
    "scopes": "jobs:read",
    "url": "https://example.com/hook",
    "events": "job.failed",
    "nonce": "A" * 43,
    "status": "queued",
    "verify": "never",
}
"""A good value of what has to be one for the rest to be looked at."""

Send = Callable[..., int]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("characters")
    write_bundle(folder / "models")
    settings = {"database_url": migrated(), "oip": True, **NOT_LIMITED}
    with ThreadGateway.fake(folder, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def send(served: ThreadGateway) -> Iterator[Send]:
    """Return a function that sends a request as it is; it gives the status."""
    port = served.settings.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(
        method: str, target: str, *, body: Any = None, headers: dict[str, str]
    ) -> int:
        sent = {"Authorization": f"Bearer {served.admin_key}", **headers}
        raw = None
        if body is not None:
            raw = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection.request(method, target, body=raw, headers=sent)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    yield send
    connection.close()


@pytest.fixture(scope="module")
def spec(served: ThreadGateway) -> dict[str, Any]:
    with served.client() as api:
        found: dict[str, Any] = api.get("/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def samples(served: ThreadGateway) -> dict[str, str]:
    with served.client() as api:
        uploaded = api.upload(b'{"do":"echo"}')
        job = api.order({"do": "echo"}, wait=20).json()
        hook = {"url": SAMPLES["url"], "events": ["job.failed"]}
        webhook = api.post("/v1/webhooks", json=hook).raise_for_status().json()
    own = {"input": uploaded, "job_id": job["id"], "webhook_id": webhook["id"]}
    return {**SAMPLES, **own}


def _operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _resolved(spec: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema itself: what it refers to, and of several the first of use."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _resolved(spec, spec["components"]["schemas"][name])
    if "anyOf" in schema:
        return _resolved(spec, schema["anyOf"][0])
    return schema


def _sample(
    spec: dict[str, Any], schema: dict[str, Any], name: str, samples: dict[str, str]
) -> Any:
    """Return a value that fits a schema well enough."""
    found = _resolved(spec, schema)
    kind = found.get("type")
    if kind == "object":
        return {
            member: _sample(spec, of, member, samples)
            for member, of in found.get("properties", {}).items()
            if member in found.get("required", ())
        }
    if kind == "array":
        return [_sample(spec, found["items"], name, samples)]
    if kind in {"integer", "number"}:
        return 1
    if kind == "boolean":
        return True
    return samples.get(name) or (DIGEST if "{64}" in found.get("pattern", "") else "a")


def _with(value: Any, name: str, new: Any) -> Any:
    return {**value, name: new}


def _tricked(
    spec: dict[str, Any],
    schema: dict[str, Any],
    name: str,
    samples: dict[str, str],
    trick: str,
) -> Iterator[Any]:
    """Yield values that would fit a schema but for one text in them."""
    found = _resolved(spec, schema)
    kind = found.get("type")
    if kind == "object":
        whole = _sample(spec, found, name, samples)
        for member, of in found.get("properties", {}).items():
            for bad in _tricked(spec, of, member, samples, trick):
                yield _with(whole, member, bad)
        if found.get("additionalProperties"):
            yield from (_with(whole, "a", trick), _with(whole, trick, 1))
            yield _with(whole, "a", [{trick: [trick]}])
    elif kind == "array":
        for bad in _tricked(spec, found["items"], name, samples, trick):
            yield [bad]
    elif kind in {"string", None}:
        yield trick


def _target(path: str, operation: dict[str, Any], samples: dict[str, str]) -> str:
    """Return the address of a route, with all that it needs."""
    filled = re.sub(r"{(\w+)}", lambda m: samples.get(m[1], DIGEST), path)
    query = {
        p["name"]: samples.get(p["name"], "1")
        for p in operation.get("parameters", ())
        if p["in"] == "query" and p.get("required")
    }
    return f"{filled}?{urlencode(query)}"


def test_in_a_path_they_lead_nowhere(
    spec: dict[str, Any], send: Send, samples: dict[str, str]
):
    asked = 0
    for method, path, operation in _operations(spec):
        for name in re.findall(r"{(\w+)}", path):
            for trick in IN_URL:
                url = _target(path, operation, {**samples, name: trick})
                status = send(method, url, headers={"Upload-Offset": "0"})
                assert 400 <= status < 500, (method, url)
                asked += 1
    assert asked > 300


def test_in_a_query_or_a_header_they_are_no_defect(
    spec: dict[str, Any], send: Send, samples: dict[str, str]
):
    asked = 0
    for method, path, operation in _operations(spec):
        url = _target(path, operation, samples)
        for parameter in operation.get("parameters", ()):
            name, where = parameter["name"], parameter["in"]
            if where == "query":
                for trick in IN_URL:
                    bad = f"{url}&{name}={trick}"
                    assert send(method, bad, headers={}) < 500, (method, bad)
                    asked += 1
            elif where == "header":
                for value in ("a\x01b", "a\x7fb", "a\x80b", "\xff"):
                    status = send(method, url, headers={name: value})
                    assert status < 500, (method, url, name, value)
                    asked += 1
    assert asked > 100


def test_in_a_body_they_are_no_defect(
    spec: dict[str, Any], send: Send, samples: dict[str, str]
):
    asked, taken = 0, set()
    for method, path, operation in _operations(spec):
        content = operation.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if not schema:
            continue
        for trick in IN_JSON:
            for body in _tricked(spec, schema, "", samples, trick):
                url = _target(path, operation, samples)
                status = send(method, url, body=body, headers={})
                assert status < 500, (method, url, body)
                asked += 1
                if status < 400 and trick != STORABLE:
                    taken.add((method, path))
    assert asked > 150
    assert taken == {("POST", "/v1/jobs")}  # its options are anything that is JSON
