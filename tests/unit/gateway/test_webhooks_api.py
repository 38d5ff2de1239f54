"""Webhooks over HTTP and from the command line, with a gateway that delivers."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from privacy.cli.app import run
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ThreadGateway, wait_until
from tests.support.webhook_receiver import Receiver

ECHO = {"do": "echo"}


@pytest.fixture(scope="module")
def on_premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("webhooks")
    write_bundle(folder / "models")
    with ThreadGateway.fake(
        folder, allow_http_webhooks=True, allow_private_webhooks=True
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver in a thread of its own."""
    loop, found = asyncio.new_event_loop(), Receiver()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(found.__aenter__(), loop).result(10)
    yield found
    asyncio.run_coroutine_threadsafe(found.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_a_job_that_ends_is_told_to_who_asked(on_premises, receiver):
    with on_premises.client() as api:
        made = api.post("/v1/webhooks", json={"url": receiver.url})
        assert made.status_code == 201
        webhook = made.json()
        job = api.order(ECHO, wait=20).json()
        message = wait_until(
            lambda: [m for m in receiver.got if job["id"] in m.body], seconds=20
        )[0]
        payload = message.check(webhook["secret"])
        for name in ("id", "status", "model_sha256", "output_sha256"):
            assert payload["data"][name] == job[name]
        here = f"/v1/webhooks/{webhook['id']}"
        [sent] = wait_until(
            lambda: [
                d
                for d in api.get(f"{here}/deliveries").json()["deliveries"]
                if d["status"] == "delivered"
            ]
        )
        assert (sent["answer"], sent["attempts"]) == ("204", 1)
        assert sent["payload"] == payload
        api.delete(here).raise_for_status()
        assert api.get(here).status_code == 404


def test_the_secret_is_shown_when_it_is_made_and_never_again(on_premises, receiver):
    with on_premises.client() as api:
        made = api.post("/v1/webhooks", json={"url": receiver.url}).json()
        here = f"/v1/webhooks/{made['id']}"
        assert made["secret"].startswith("whsec_")
        for path in (here, "/v1/webhooks", f"{here}/deliveries"):
            assert "whsec_" not in api.get(path).text
        rotated = api.post(f"{here}/rotate").json()
        assert rotated["secret"] not in {"", made["secret"]}
        assert rotated["old_secret_until"] > rotated["created_at"]
        api.delete(here)


def test_a_webhook_can_be_changed_and_disabled(on_premises, receiver):
    with on_premises.client() as api:
        made = api.post("/v1/webhooks", json={"url": receiver.url}).json()
        here = f"/v1/webhooks/{made['id']}"
        change = {"events": ["job.failed"], "enabled": False}
        changed = api.patch(here, json=change).json()
        assert (changed["events"], changed["enabled"]) == (["job.failed"], False)
        assert api.patch(here, json={"enabled": True}).json()["enabled"]
        assert api.patch(here, json={}).status_code == 422
        assert api.patch(here, json={"url": "nonsense"}).status_code == 422
        api.delete(here)


def test_the_commands_add_try_list_rotate_and_remove(
    on_premises, receiver, capsys, tmp_path
):
    there = ["--gateway", on_premises.base_url, "--api-key", on_premises.admin_key]
    there += ["--home", str(tmp_path), "--json"]

    def privacy(*words: str, code: int = 0) -> dict:
        with structlog.testing.capture_logs():  # the gateway's, in this process
            assert run(["webhooks", *words, *there]) == code
        return json.loads(capsys.readouterr().out)

    made = privacy("add", receiver.url, "--event", "job.failed")
    assert made["events"] == ["job.failed"]
    sent = privacy("test", made["id"])
    assert sent["status"] == "delivered"
    message = next(m for m in receiver.got if m.headers["webhook-id"] == sent["id"])
    assert message.check(made["secret"])["type"] == "webhook.test"
    assert privacy("rotate", made["id"])["secret"] != made["secret"]
    assert privacy("list")["webhooks"][0]["id"] == made["id"]
    assert privacy("deliveries", made["id"])["deliveries"][0]["id"] == sent["id"]
    assert privacy("enable", made["id"])["enabled"]
    receiver.answers = ["500 Oops"]
    assert privacy("test", made["id"], code=5)["error"]["code"] == "webhook-failed"
    assert privacy("remove", made["id"]) == {"removed": made["id"]}
    assert privacy("remove", made["id"], code=4)["error"]["code"] == "unknown-webhook"


@pytest.mark.parametrize(
    "body",
    [
        {"url": "ftp://example.com/"},
        {"url": "https://user:password@example.com/"},
        {"url": "https://example.com/", "events": []},
        {"url": "https://example.com/", "events": ["job.all"]},
        {"url": "https://example.com/", "secret": "mine"},
        {"url": 5},
        {},
    ],
)
def test_a_webhook_that_may_not_be_is_refused(on_premises, body):
    with on_premises.client() as api:
        answer = api.post("/v1/webhooks", json=body)
    assert answer.status_code == 422
    assert "password" not in answer.text


def test_a_webhook_of_another_tenant_does_not_exist(on_premises):
    key = on_premises.new_key("jobs:read", "jobs:write", tenant="other")
    with on_premises.client() as api, on_premises.client(key) as stranger:
        _try_all(api, stranger)


def _try_all(api: Api, stranger: Api) -> None:
    made = api.post("/v1/webhooks", json={"url": "https://example.com/"}).json()
    here = f"/v1/webhooks/{made['id']}"
    for answer in (
        stranger.get(here),
        stranger.patch(here, json={"enabled": False}),
        stranger.post(f"{here}/rotate"),
        stranger.post(f"{here}/test"),
        stranger.get(f"{here}/deliveries"),
        stranger.delete(here),
    ):
        assert answer.status_code == 404
        assert answer.json()["code"] == "unknown-webhook"
    assert stranger.get("/v1/webhooks").json() == {"webhooks": []}
    api.delete(here).raise_for_status()
