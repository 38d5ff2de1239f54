"""How often may be asked: counted by tenant and class, or by address."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.identity.rates import RateLimits, Rates
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway

FEW = RateLimits(submit=2, upload=3, read=4, unauthenticated=5)


async def taken(rates: Rates, tenant: str, method: str, times: int = 20) -> int:
    found = [await rates.of_tenant(tenant, method, {}) for _ in range(times)]
    return sum(not s.is_over for s in found if s)


def test_each_class_and_tenant_is_counted_alone():
    async def count():
        rates = Rates(FEW)
        methods = ("POST", "PUT", "GET")
        return [await taken(rates, t, m) for t in ("a", "b") for m in methods]

    assert asyncio.run(count()) == [2, 3, 4, 2, 3, 4]


def test_patch_counts_as_put_and_everything_else_as_reading():
    async def count():
        rates = Rates(FEW)
        return [await taken(rates, "a", m, 1) for m in ("PUT", "PATCH", "PUT", "PATCH")]

    assert asyncio.run(count()) == [1, 1, 1, 0]


def test_a_tenants_own_limit_comes_before_the_usual_one():
    async def count():
        rates = Rates(FEW)
        own = {"submit": 1, "read": None}
        first = await rates.of_tenant("a", "POST", own)
        second = await rates.of_tenant("a", "POST", own)
        unlimited = await rates.of_tenant("a", "POST", {"submit": 0})
        return first.is_over, second.is_over, unlimited

    assert asyncio.run(count()) == (False, True, None)


def test_addresses_are_counted_by_themselves_and_ipv6_by_network():
    async def count(*addresses: str) -> int:
        rates = Rates(FEW)
        found = [await rates.of_stranger(a) for a in addresses]
        return sum(not s.is_over for s in found if s)

    assert asyncio.run(count(*["192.0.2.1"] * 9)) == 5
    assert asyncio.run(count(*[f"192.0.2.{n}" for n in range(9)])) == 9
    assert asyncio.run(count(*[f"2001:db8::{n}" for n in range(9)])) == 5
    assert asyncio.run(count(*[f"2001:db8:{n}::1" for n in range(9)])) == 9
    assert asyncio.run(count(*[f"::ffff:192.0.2.{n}" for n in range(9)])) == 9


def test_many_addresses_do_not_slow_down_each_request():
    async def seconds(rates: Rates) -> float:
        began = time.process_time()
        for _ in range(100):
            await rates.of_tenant("a", "GET", {})
            await asyncio.sleep(0)  # what a request leaves to be done is done
        return time.process_time() - began

    async def count() -> tuple[float, float]:
        rates = Rates(FEW)
        alone = await seconds(rates)
        for n in range(4000):
            await rates.of_stranger(f"10.0.{n // 256}.{n % 256}")
        return alone, await seconds(rates)

    alone, among_many = asyncio.run(count())
    assert among_many < 10 * alone + 0.01


def test_counts_of_the_past_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    async def count() -> int:
        rates = Rates(FEW)
        for n in range(50):
            await rates.of_stranger(f"192.0.2.{n}")
        for name in ("time", "monotonic"):
            clock = getattr(time, name)
            monkeypatch.setattr(time, name, lambda clock=clock: clock() + 300)
        await rates.of_stranger("192.0.2.200")
        await asyncio.sleep(0.05)
        return len(rates._limiter.storage.expirations)

    assert asyncio.run(count()) <= 2


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("rates")
    write_bundle(folder / "models")
    limits = {
        "submits_per_minute": 8,
        "uploads_per_minute": 4,
        "reads_per_minute": 6,
        "strangers_per_minute": 10,
    }
    with ThreadGateway.fake(folder, **limits) as gateway:
        yield gateway


def fields(answer) -> tuple[str, int, int, int]:
    name, most = re.fullmatch(
        r'"(\w+)";q=(\d+);w=60', answer.headers["ratelimit-policy"]
    ).groups()
    again, left, reset = re.fullmatch(
        r'"(\w+)";r=(\d+);t=(\d+)', answer.headers["ratelimit"]
    ).groups()
    assert again == name
    return name, int(most), int(left), int(reset)


def test_answers_tell_the_standing_and_one_too_many_is_a_429(slow: ThreadGateway):
    with slow.client(slow.new_key("models:read", tenant="reader")) as reader:
        answers = [reader.get("/v1/models") for _ in range(8)]
    assert [a.status_code for a in answers] == [200] * 6 + [429] * 2
    assert [fields(a)[:3] for a in answers[:2]] == [("read", 6, 5), ("read", 6, 4)]
    refused = answers[-1]
    assert refused.json()["code"] == "rate-limited"
    assert fields(refused)[2] == 0
    assert 1 <= int(refused.headers["retry-after"]) == fields(refused)[3] <= 120


def test_what_is_over_has_no_effect_and_other_classes_go_on(slow: ThreadGateway):
    with slow.client(slow.new_key("jobs:write", "jobs:read", tenant="t")) as user:
        sent = [user.put(f"/v1/blobs/{'0' * 64}", content=b"x") for _ in range(6)]
        assert [a.status_code for a in sent] == [422] * 4 + [429] * 2
        assert user.get("/v1/jobs").status_code == 200


def test_a_trusted_proxy_says_whom_a_request_counts_against(slow: ThreadGateway):
    with slow.client("") as nobody:
        for address in ("203.0.113.7", "203.0.113.8"):
            header = {"X-Forwarded-For": f"198.51.100.1, {address}"}
            assert fields(nobody.get("/v1/modes", headers=header))[2] == 9


def test_strangers_are_counted_by_address_and_keys_that_are_good_are_not(
    slow: ThreadGateway,
):
    with slow.client("pk_wrong") as stranger, slow.client("") as nobody:
        statuses = [stranger.get("/v1/jobs").status_code for _ in range(6)]
        statuses += [nobody.get("/v1/modes").status_code for _ in range(4)]
        assert statuses == [401] * 6 + [200] * 4
        for client in (stranger, nobody):
            refused = client.get("/v1/modes" if client is nobody else "/v1/jobs")
            assert refused.status_code == 429
            assert fields(refused)[0] == "unauthenticated"
        assert nobody.get("/healthz").status_code == 200
        assert nobody.get("/readyz").status_code == 200
    with slow.client(slow.new_key("jobs:read", tenant="good")) as good:
        assert good.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/jobs", "Basic eDp5"),
        ("/v1/jobs", "Bearer"),
        ("/v1/jobs", "x"),
        ("/v1/modes", "Bearer pk_wrong"),
        ("/.well-known/jwks.json", "Bearer pk_wrong"),
        ("/v1/log/head", "Bearer pk_wrong"),
    ],
)
def test_no_header_hides_a_stranger_from_the_count(
    slow: ThreadGateway, path: str, header: str
):
    number = 1 + sum(f"{path} {header}".encode()) % 250  # each an address of its own
    said = {"X-Forwarded-For": f"198.51.100.{number}", "Authorization": header}
    with slow.client("") as stranger:
        answers = [stranger.get(path, headers=said) for _ in range(11)]
    assert 429 not in [a.status_code for a in answers[:10]]
    assert answers[10].status_code == 429
    assert fields(answers[10])[0] == "unauthenticated"
