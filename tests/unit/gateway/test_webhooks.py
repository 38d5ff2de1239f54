"""Messages to webhooks: signed, at least once, tried again, and to whom they may go."""

import asyncio
import ipaddress
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from standardwebhooks import WebhookVerificationError

from gateway.store import webhooks as webhook_store
from gateway.store.database import Database
from gateway.store.jobs import Job, Jobs, NewJob, Outcome
from gateway.store.log_tables import audit_pending
from gateway.store.webhooks import Webhook, Webhooks
from gateway.webhooks.secrets import WebhookSecrets, load_webhook_secrets
from gateway.webhooks.sender import BACK_OFF_S, Sender
from gateway.webhooks.targets import Rules, check_url, is_public, resolve
from privacy.clock import later, now
from privacy.errors import (
    FormatError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)
from tests.support.live_gateway import free_port
from tests.support.postgres import migrated
from tests.support.uploaded import uploaded
from tests.support.webhook_receiver import Receiver

ON_PREMISES = Rules(allow_http=True, allow_private=True)
ALL = ["job.succeeded", "job.failed", "job.cancelled"]


class Bench:
    """A database with jobs and webhooks, and one gateway's sender."""

    def __init__(self, path: Path | str, key: bytes = b"k" * 32) -> None:
        self.database = Database(path)
        self.jobs = Jobs(self.database)
        self.secrets = WebhookSecrets(key)
        self.webhooks = Webhooks(self.database, key_id=self.secrets.key_id)
        self.sender = Sender(
            webhooks=self.webhooks, secrets=self.secrets, rules=ON_PREMISES
        )

    def add(self, url: str, events: list[str] = ALL) -> Webhook:
        return self.webhooks.add("acme", url, events)

    def end_job(
        self, name: str, status: str = "succeeded", *, tenant: str = "acme"
    ) -> Job:
        new = NewJob(
            id=name,
            tenant=tenant,
            idempotency_key=None,
            request_sha256="",
            model="m",
            version="1",
            model_sha256="11",
            mode="fhe",
            simulated=False,
            input_sha256="22",
            keys_sha256="",
            options={"note": "canary"},
        )
        uploaded(self.database, new.input_sha256, tenant=tenant)
        self.jobs.accept(new, max_queued=100, max_queued_by_tenant=100)
        problem = {"code": "worker-died", "detail": "canary"}
        outcome = Outcome(status, problem if status == "failed" else None, "33")
        return self.jobs.finish(name, outcome, lambda *_: b"receipt")[0]

    async def deliver(self) -> None:
        """Do what the sender does each second, and wait for it."""
        self.webhooks.collect()
        await self.sender._begin_due()
        await asyncio.gather(*self.sender._tasks)

    def all_due(self) -> None:
        """Let every message's time come."""
        with self.database.write() as c:
            c.exec_driver_sql("UPDATE webhook_deliveries SET next_at = created_at")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with empty tables, to be copied."""
    path = tmp_path_factory.mktemp("tables") / "db.sqlite"
    Database(path).close()
    return path


@pytest.fixture
def bench(tmp_path: Path, tables: Path) -> Iterator[Bench]:
    shutil.copy(tables, tmp_path)
    found = Bench(tmp_path / "db.sqlite")
    yield found
    found.database.close()


def test_the_end_of_a_job_is_told_signed_and_once(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            webhook = bench.add(receiver.url)
            job = bench.end_job("job_1")
            for _ in range(3):
                await bench.deliver()
            [message] = receiver.got
            payload = message.check(bench.secrets.text(webhook.id, 1))
            assert payload["type"] == "job.succeeded"
            assert payload["timestamp"] == job.finished_at
            assert payload["data"]["id"] == "job_1"
            assert payload["data"]["output_sha256"] == "33"
            assert message.path == "/hooks?a=1"
            assert message.headers["host"] == f"127.0.0.1:{receiver.port}"

    asyncio.run(run())


def test_a_message_holds_ids_and_digests_only(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            bench.add(receiver.url)
            bench.end_job("job_1", "failed")
            await bench.deliver()
            assert "canary" not in receiver.got[0].body
            assert json.loads(receiver.got[0].body)["data"]["problem"] == "worker-died"

    asyncio.run(run())


def test_only_the_tenants_own_jobs_of_the_chosen_events_are_told(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            bench.end_job("job_before")
            await asyncio.sleep(0.002)
            bench.add(receiver.url, ["job.failed"])
            bench.end_job("job_1")
            bench.end_job("job_2", "failed", tenant="other")
            bench.end_job("job_3", "failed")
            await bench.deliver()
            told = [json.loads(m.body)["data"]["id"] for m in receiver.got]
            assert told == ["job_3"]

    asyncio.run(run())


def test_ends_that_fell_into_a_crash_are_told_by_the_next_gateway(
    bench: Bench, tmp_path: Path
):
    async def run() -> None:
        async with Receiver() as receiver:
            bench.add(receiver.url)
            bench.end_job("job_1")  # and nobody collects
            bench.database.close()
            next_life = Bench(tmp_path / "db.sqlite")
            await next_life.deliver()
            next_life.database.close()
            assert len(receiver.got) == 1

    asyncio.run(run())


def test_a_message_whose_sender_died_is_sent_again_with_the_same_id(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            bench.add(receiver.url)
            bench.end_job("job_1")
            bench.webhooks.collect()
            [(due, tenant)] = bench.webhooks.due()
            assert tenant == "acme"
            assert bench.webhooks.claim(due)
            assert bench.webhooks.claim(due) is None, "two gateways took it"
            assert not bench.webhooks.due(), "it is under way"
            bench.all_due()
            await bench.deliver()
            assert [m.headers["webhook-id"] for m in receiver.got] == [due.id]

    asyncio.run(run())


def test_what_fails_is_tried_again_later_each_time_for_a_day(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            receiver.answers = ["500 Oops"] * 20
            webhook = bench.add(receiver.url)
            bench.end_job("job_1")
            waits = []
            while True:
                await bench.deliver()
                [sent] = bench.webhooks.deliveries(webhook.id, tenant="acme", limit=5)
                if sent.status != "pending":
                    break
                waits.append(sent.next_at)
                bench.all_due()
            assert (sent.status, sent.answer) == ("failed", "500")
            assert len(receiver.got) == sent.attempts == 1 + len(BACK_OFF_S)
            assert waits[:7] == sorted(waits[:7])
            assert waits[-1] > later(now(), BACK_OFF_S[-1] - 60)
            assert sum(BACK_OFF_S) > 0.9 * 86400
            assert len({m.headers["webhook-id"] for m in receiver.got}) == 1

    asyncio.run(run())


def test_a_success_ends_a_row_of_failures(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            receiver.answers = ["503 Busy"]
            webhook = bench.add(receiver.url)
            bench.end_job("job_1")
            await bench.deliver()
            assert bench.webhooks.get(webhook.id, tenant="acme").failing_since
            bench.all_due()
            await bench.deliver()
            assert not bench.webhooks.get(webhook.id, tenant="acme").failing_since

    asyncio.run(run())


@pytest.mark.parametrize(("answer", "days"), [("410 Gone", 0), ("500 Oops", 6)])
def test_a_webhook_that_is_gone_or_fails_for_days_is_disabled(
    bench: Bench, answer: str, days: int
):
    async def run() -> None:
        async with Receiver() as receiver:
            webhook = bench.add(receiver.url)
            if days:
                since = now(plus_s=-days * 86400)
                bench.webhooks.change(webhook.id, tenant="acme", failing_since=since)
            receiver.answers = [answer]
            bench.end_job("job_1")
            await bench.deliver()
            assert bench.webhooks.get(webhook.id, tenant="acme").disabled_at
            bench.all_due()
            await bench.deliver()
            assert len(receiver.got) == 1, "nothing is sent while it is disabled"
            bench.end_job("job_2")
            bench.webhooks.change(webhook.id, tenant="acme", disabled_at="")
            await bench.deliver()
            assert len(receiver.got) == 3, "enabled again, what is pending is sent"

    asyncio.run(run())


def test_a_receiver_that_does_not_answer_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhook_store, "_DUE", webhook_store._DUE.limit(8))

    async def run(silent: socket.socket) -> None:
        port = silent.getsockname()[1]
        async with Receiver() as receiver:
            for _ in range(9):
                bench.add(f"http://127.0.0.1:{port}/", ["job.succeeded"])
            bench.webhooks.add("other", receiver.url, ALL)
            for n in range(6):
                bench.end_job(f"job_{n}")
            bench.end_job("job_other", tenant="other")
            bench.webhooks.collect()
            for _ in range(3):
                await bench.sender._begin_due()
            under_way = list(bench.sender._under_way.values())
            assert sum(tenant == "acme" for _, tenant in under_way) == 8
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait(bench.sender._tasks, timeout=9, return_when=first)
            assert len(receiver.got) == 1
            for task in bench.sender._tasks:
                task.cancel()
            await asyncio.gather(*bench.sender._tasks, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts nobody
        asyncio.run(run(silent))


@pytest.mark.slow
def test_two_gateways_on_postgresql_tell_each_end_once():
    async def run(one: Bench, two: Bench) -> None:
        async with Receiver() as receiver:
            webhook = one.add(receiver.url)
            for n in range(30):
                (one, two)[n % 2].end_job(f"job_{n}")
            for _ in range(20):
                await asyncio.gather(one.deliver(), two.deliver())
            told = [json.loads(m.body)["data"]["id"] for m in receiver.got]
            assert sorted(told) == sorted(f"job_{n}" for n in range(30))
            two.webhooks.rotate(webhook.id, tenant="acme", both_for_s=60)
            one.webhooks.sweep()
            one.webhooks.remove(webhook.id, tenant="acme")
            assert two.webhooks.of("acme") == []

    url = migrated()
    one, two = Bench(url), Bench(url)
    asyncio.run(run(one, two))
    one.database.close()
    two.database.close()


def test_test_messages_cannot_be_piled_up(bench: Bench):
    webhook = bench.add("https://example.com/")
    for _ in range(5):
        bench.webhooks.test(webhook.id, tenant="acme")
    with pytest.raises(LimitError, match="still to be delivered"):
        bench.webhooks.test(webhook.id, tenant="acme")


def test_a_redirect_is_not_followed(bench: Bench):
    async def run() -> None:
        async with Receiver() as other, Receiver() as receiver:
            receiver.answers = [f"302 Found\r\nLocation: {other.url}"]
            webhook = bench.add(receiver.url)
            bench.end_job("job_1")
            await bench.deliver()
            [sent] = bench.webhooks.deliveries(webhook.id, tenant="acme", limit=5)
            assert (sent.status, sent.answer) == ("pending", "302")
            assert not other.got

    asyncio.run(run())


def test_after_a_rotation_both_secrets_sign_for_a_while(bench: Bench):
    async def run() -> None:
        async with Receiver() as receiver:
            webhook = bench.add(receiver.url)
            bench.webhooks.rotate(webhook.id, tenant="acme", both_for_s=60)
            bench.end_job("job_1")
            await bench.deliver()
            old, new = (bench.secrets.text(webhook.id, n) for n in (1, 2))
            assert old != new
            assert receiver.got[0].check(old) == receiver.got[0].check(new)
            bench.webhooks.change(webhook.id, tenant="acme", old_secret_until=now())
            bench.end_job("job_2")
            await bench.deliver()
            receiver.got[1].check(new)
            with pytest.raises(WebhookVerificationError):
                receiver.got[1].check(old)

    asyncio.run(run())


def test_a_rotation_under_another_key_promises_no_signature_by_the_old_secret(
    bench: Bench, tmp_path: Path
):
    webhook = bench.add("https://example.com/")
    other = Bench(tmp_path / "db.sqlite", key=b"o" * 32)
    rotated = other.webhooks.rotate(webhook.id, tenant="acme", both_for_s=60)
    assert rotated.old_secret_until == ""
    again = other.webhooks.rotate(webhook.id, tenant="acme", both_for_s=60)
    assert again.old_secret_until > now()
    other.database.close()


def test_a_gateway_with_another_key_leaves_webhooks_alone(bench: Bench, tmp_path: Path):
    async def run() -> None:
        other = Bench(tmp_path / "db.sqlite", key=b"o" * 32)
        async with Receiver() as receiver:
            bench.add(receiver.url)
            bench.end_job("job_1")
            await other.deliver()
            assert not receiver.got
            await bench.deliver()
            assert len(receiver.got) == 1
        other.database.close()

    asyncio.run(run())


def test_no_secret_is_in_the_database(bench: Bench, tmp_path: Path):
    webhook = bench.add("https://example.com/")
    secret = bench.secrets.text(webhook.id, 1)
    bench.database.close()
    stored = b"".join(p.read_bytes() for p in tmp_path.glob("db.sqlite*"))
    assert webhook.id.encode() in stored
    assert secret.removeprefix("whsec_")[:20].encode() not in stored
    assert bench.secrets._secret(webhook.id, 1) not in stored


def test_the_key_of_the_secrets_is_made_once_and_private(tmp_path: Path):
    path = tmp_path / "new" / "webhooks.key"
    first = load_webhook_secrets(path)
    assert load_webhook_secrets(path).text("wh", 1) == first.text("wh", 1)
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"short")
    with pytest.raises(FormatError, match="expected 32"):
        load_webhook_secrets(path)


def test_the_audit_log_says_where_messages_go_and_no_more(bench: Bench):
    webhook = bench.add("https://example.com:8443/hooks/secret-token?key=secret")
    bench.webhooks.change(webhook.id, tenant="acme", url="https://example.org/secret")
    bench.webhooks.rotate(webhook.id, tenant="acme", both_for_s=1)
    bench.webhooks.remove(webhook.id, tenant="acme")
    with bench.database.read() as c:
        noted = [row.act for row in c.execute(sa.select(audit_pending.c.act))]
    ours = [act for act in noted if act["target"] == webhook.id]
    assert [(act["action"], act["details"].get("host")) for act in ours] == [
        ("webhook-made", "example.com:8443"),
        ("webhook-changed", "example.org"),
        ("webhook-rotated", None),
        ("webhook-removed", None),
    ]
    assert "secret" not in json.dumps(ours)


def test_a_tenant_has_ten_webhooks_at_most_and_sees_no_other_tenants(bench: Bench):
    for n in range(10):
        webhook = bench.add(f"https://example.com/{n}")
    with pytest.raises(LimitError, match="at most 10"):
        bench.add("https://example.com/")
    bench.webhooks.add("other", "https://example.com/", ALL)
    for use in (
        bench.webhooks.get,
        bench.webhooks.remove,
        bench.webhooks.test,
        bench.webhooks.change,
    ):
        with pytest.raises(NotFoundError):
            use(webhook.id, tenant="other")


def test_a_name_is_resolved_once_and_called_where_it_was_looked_at(bench: Bench):
    """DNS rebinding: the second answer would lead to another machine."""
    names = [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]]

    async def run() -> None:
        port, asked = free_port(), []

        def lookup(host: str, port: int) -> list[str]:
            asked.append((host, port))
            return names.pop(0)

        async with Receiver("127.0.0.2", port) as meant, Receiver(port=port) as inside:
            bench.sender.lookup = lookup
            bench.add(f"http://hooks.example:{port}/")
            bench.end_job("job_1")
            await bench.deliver()
            assert asked == [("hooks.example", port)]
            assert len(meant.got) == 1
            assert meant.got[0].headers["host"] == f"hooks.example:{port}"
            assert not inside.got

    asyncio.run(run())


@pytest.mark.parametrize("found", [["127.0.0.1"], ["93.184.215.14", "10.0.0.7"], []])
def test_a_name_with_an_address_that_is_not_public_is_not_called(bench: Bench, found):
    async def run() -> None:
        async with Receiver() as receiver:
            bench.sender.rules = Rules(allow_http=True)
            bench.sender.lookup = lambda _host, _port: found
            webhook = bench.add(f"http://hooks.example:{receiver.port}/")
            bench.end_job("job_1")
            await bench.deliver()
            [sent] = bench.webhooks.deliveries(webhook.id, tenant="acme", limit=5)
            expected = "webhook-not-public" if found else "webhook-unresolved"
            assert sent.answer == expected
            assert not receiver.got

    asyncio.run(run())


PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:1::1",
    "2001:db8::1",
    "3fff::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "100::1",
    "5f00::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_of_the_internet_are_public(text: str):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_special_addresses_are_not_public(text: str):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("spelling", ["0x7f.1", "2130706433", "127.1", "017700000001"])
def test_odd_spellings_of_loopback_are_seen_through(spelling: str):
    with pytest.raises(PrivacyError):
        asyncio.run(resolve(check_url(f"https://{spelling}/", Rules()), Rules()))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com:70/",
        "https://",
        "https:///path",
        "//example.com/",
        "example.com",
        "https://user:password@example.com/",
        "https://user@example.com/",
        "https://example.com/#fragment",
        "https://example.com:22/",
        "https://example.com:25/",
        "https://example.com:99999/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data",
        "https://exa mple.com/",
        "https://example.com/\r\nX: 1",
        "https://example.com/" + "a" * 2000,
        "https://[example.com/",
    ],
)
def test_a_url_that_may_not_be_a_webhooks_is_refused(url: str):
    with pytest.raises(FormatError) as refusal:
        check_url(url, Rules())
    assert refusal.value.code == "webhook-url"
    assert "password" not in refusal.value.message


def test_urls_of_the_public_internet_are_taken():
    for url in (
        "https://example.com/",
        "https://example.com:8443/a?b=c",
        "https://[2606:2800:21f:cb07::1]/",
        "https://bücher.example/",
    ):
        check_url(url, Rules())
    with pytest.raises(FormatError):
        check_url("http://localhost:9/", ON_PREMISES)
    check_url("http://127.0.0.1:9000/", ON_PREMISES)


def test_a_name_that_nobody_has_is_reported_as_such():
    with pytest.raises(UnavailableError) as refusal:
        asyncio.run(resolve(check_url("https://name.invalid/", Rules()), Rules()))
    assert refusal.value.code == "webhook-unresolved"


def test_a_name_whose_server_never_answers_holds_up_nothing_else():
    answered = threading.Event()

    def never(_host: str, _port: int) -> list[str]:
        answered.wait(30)
        return []

    async def run() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        url = check_url("https://name.example/", Rules())
        waits = [
            asyncio.create_task(resolve(url, Rules(), lookup=never)) for _ in range(8)
        ]
        await asyncio.sleep(0)  # they have begun
        try:
            async with asyncio.timeout(5):
                return await asyncio.to_thread(lambda: 42)
        finally:
            answered.set()
            await asyncio.gather(*waits, return_exceptions=True)

    assert asyncio.run(run()) == 42
