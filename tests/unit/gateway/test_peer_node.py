import asyncio
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.executors.base import Done, NodeLostError, Watch, Work
from gateway.executors.peer import PeerNode
from gateway.executors.scheduler import Scheduler
from gateway.peers import exchange
from gateway.peers.check import Asked, check_receipt
from gateway.peers.exchange import Exchange
from gateway.peers.link import Link, PeerLiedError
from gateway.peers.site import _MOST_TRIES, Tries, offered
from privacy.client.wire import Reply
from privacy.encoding import sha256_hex
from privacy.errors import FormatError, JobFailedError, UnavailableError
from privacy.jws import key_id
from privacy.modes import Mode
from tests.support.fake_node import FakeNode
from tests.support.hand_made_bundle import write_bundle
from tests.support.lying_peer import EVIDENCE, LIES, OUTPUT, SLOW, TROUBLES, LyingPeer

INPUT, KEYS = b"a ciphertext", b"evaluation keys"


def _response(status, **more):
    return httpx.Response(status, stream=httpx.ByteStream(b""), **more)


class Spare(FakeNode):
    """A node of our own that runs at once what it gets."""

    async def run(self, work, watch):
        self.ran.append(work.job_id)
        return Done(work.input, None, "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture
def work(bundle, tmp_path):
    def make(mode=Mode.FHE, job_id="job_ours", **more):
        folder = tmp_path / job_id
        folder.mkdir()
        for name, content in (("input", INPUT), ("keys", KEYS)):
            (folder / name).write_bytes(content)
        has_keys = mode is Mode.FHE
        return Work(
            job_id=job_id,
            mode=mode,
            bundle=bundle,
            input=folder / "input",
            keys=folder / "keys" if has_keys else None,
            folder=folder,
            input_sha256=sha256_hex(INPUT),
            keys_sha256=sha256_hex(KEYS) if has_keys else "",
            **more,
        )

    return make


@pytest.fixture
def told():
    return []


@pytest.fixture
def watch(told):
    return Watch(started=lambda: told.append("started"), progress=told.append)


@asynccontextmanager
async def node_of(peer, *, transport=None, limit_s=20.0, **more):
    known = peer.known(**more)
    lies = []
    node = PeerNode(
        known,
        Link(known, transport=transport or httpx.ASGITransport(peer)),
        gateway="our-key-id",
        time_limit_s=lambda _: limit_s,
        max_answer_bytes=1 << 16,
        simulated=False,
        lied=lambda exc, said: lies.append((exc.code, said)),
    )
    node.lies = lies
    await node.refresh()
    try:
        yield node
    finally:
        await node.close()


def test_a_job_goes_to_a_peer_and_its_checked_answer_comes_back(
    bundle, work, watch, told
):
    peer = LyingPeer(bundle)
    peer.hold = 1

    async def go():
        async with node_of(peer) as node:
            return await node.run(work(Mode.ZKML), watch)

    done = asyncio.run(go())
    assert done.output.read_bytes() == OUTPUT
    assert done.evidence.read_bytes() == EVIDENCE
    assert (done.evidence_kind, done.node) == ("proof", "peer:acme")
    assert json.loads(done.peer_receipt)["receipt"]["node"] == "theirs"
    assert told[0] == "started"
    assert {"stage": "run at peer acme", "done": 1, "total": 2} in told


def test_the_peer_learns_the_way_the_job_came_and_no_more_of_us(bundle, work, watch):
    peer = LyingPeer(bundle)

    async def go():
        async with node_of(peer) as node:
            await node.run(work(options={"note": 1}), watch)

    asyncio.run(go())
    order = peer.jobs["job_0"]["order"]
    way = [{"gateway": "our-key-id", "job": "job_ours"}]
    assert order["options"] == {"note": 1, "via": way}
    assert peer.blobs == {sha256_hex(KEYS): KEYS}  # the input was deleted again
    assert peer.jobs["job_0"]["gone"]


def test_what_expired_there_meanwhile_is_uploaded_again(bundle, work, watch):
    peer = LyingPeer(bundle)
    peer.forgets = 2

    async def go():
        async with node_of(peer) as node:
            return await node.run(work(), watch)

    assert asyncio.run(go()).output.read_bytes() == OUTPUT


def test_keys_are_sent_once(bundle, work, watch):
    peer = LyingPeer(bundle)

    async def go():
        async with node_of(peer) as node:
            assert node.warmth(Mode.FHE, bundle.sha256, sha256_hex(KEYS)) == 0
            await node.run(work(job_id="job_1"), watch)
            await node.run(work(job_id="job_2"), watch)
            assert node.warmth(Mode.FHE, bundle.sha256, sha256_hex(KEYS)) == 1

    asyncio.run(go())
    assert sum(call.startswith("PUT /v1/keys") for call in peer.asked) == 1


def test_an_answer_that_an_earlier_life_fetched_is_computed_anew(bundle, work, watch):
    peer, order = LyingPeer(bundle), work()

    async def live():
        async with node_of(peer) as node:
            with suppress(NodeLostError):
                return await node.run(order, watch)
            assert not node.distrusted
            return await node.run(order, watch)

    for _ in range(2):
        assert asyncio.run(live()).output.read_bytes() == OUTPUT
    assert [j["again"] for j in peer.jobs.values()] == ["job_ours", "job_ours.1"]


@pytest.mark.parametrize(("lie", "code"), LIES.items())
def test_a_lie_is_found_kept_and_the_job_goes_on_elsewhere(
    bundle, work, watch, lie, code
):
    peer, spare = LyingPeer(bundle, lie=lie), Spare("own")

    async def go():
        async with node_of(peer) as node:
            scheduler = Scheduler()
            scheduler.add(node)
            scheduler.add(spare)
            asked = work(Mode.FHE if lie == "other-keys" else Mode.ZKML)
            done = await scheduler.run(asked, watch)
            assert done.node == "own"
            assert not done.peer_receipt
            assert [c for c, _ in node.lies] == [code]
            assert code in node.distrusted
            assert node.describe()["state"] == "distrusted"
            why = node.refusal(Mode.ZKML, bundle)
            assert "distrusted" in why.message
            return node.lies[0][1]

    said = asyncio.run(go())
    assert spare.ran == ["job_ours"]
    assert said["job"] == "job_ours"
    if code in {"peer-receipt", "peer-output"}:  # what a dispute needs
        assert said["receipt"]


@pytest.mark.parametrize("how", SLOW)
def test_a_job_that_takes_too_long_goes_on_elsewhere(
    bundle, work, watch, how, monkeypatch
):
    monkeypatch.setattr(exchange, "_CANCEL_S", 0.1)
    peer, spare = LyingPeer(bundle, lie=how), Spare("own")

    async def go():
        async with node_of(peer, limit_s=0.3) as node:
            scheduler = Scheduler()
            scheduler.add(node)
            scheduler.add(spare)
            assert (await scheduler.run(work(), watch)).node == "own"
            assert [code for code, _ in node.lies] == ["peer-too-slow"]
            assert not node.distrusted  # any user can send such a job
            refused = node.refusal(Mode.FHE, bundle)
            assert "refused a job of demo a moment ago" in refused.message

    asyncio.run(go())
    assert spare.ran == ["job_ours"]


def test_a_job_that_fails_there_costs_the_peer_no_other_job(bundle, work, watch):
    peer = LyingPeer(bundle, lie="job-fails")

    async def go():
        async with node_of(peer) as node:
            scheduler = Scheduler(node_wait_s=60)
            scheduler.add(node)
            with pytest.raises(UnavailableError, match="failed at peer acme") as caught:
                await scheduler.run(work(job_id="job_bad"), watch)
            assert caught.value.code == "peer-job-failed"
            peer.lie = ""
            assert scheduler.describe()[0]["state"] == "ready"
            assert (await scheduler.run(work(), watch)).node == "peer:acme"

    asyncio.run(go())


@pytest.mark.parametrize(("trouble", "code"), TROUBLES.items())
def test_a_peer_in_trouble_loses_the_job_but_not_our_trust(
    bundle, work, watch, trouble, code
):
    async def go():
        async with node_of(LyingPeer(bundle, lie=trouble)) as node:
            with pytest.raises(NodeLostError) as caught:
                await node.run(work(), watch)
            assert caught.value.code == code
            assert not node.distrusted
            assert not node.lies
            refused = node.refusal(Mode.FHE, bundle)
            assert bool(refused) == (trouble in {"unknown-model", "proxy-error"})

    asyncio.run(go())


def test_a_failed_job_is_tried_anew_when_the_peer_gets_it_again(bundle, work, watch):
    peer = LyingPeer(bundle, lie="job-fails")

    async def go():
        async with node_of(peer) as node:
            order = work()
            with pytest.raises(NodeLostError):
                await node.run(order, watch)
            peer.lie = ""
            return await node.run(order, watch)

    assert asyncio.run(go()).output.read_bytes() == OUTPUT
    assert [j["again"] for j in peer.jobs.values()] == ["job_ours", "job_ours.1"]


def test_an_input_that_a_peer_refuses_is_refused_for_good(bundle, work, watch):
    peer = LyingPeer(bundle, lie="job-fails")
    peer.problem = ("FormatError", "fhe-keys-mismatch")

    async def go():
        async with node_of(peer) as node:
            with pytest.raises(FormatError, match="peer acme: it failed") as caught:
                await node.run(work(), watch)
            assert caught.value.code == "fhe-keys-mismatch"

    asyncio.run(go())
    assert peer.blobs == {sha256_hex(KEYS): KEYS}


def test_text_of_a_peer_is_cut_and_cannot_break_what_keeps_it(bundle, work, watch):
    peer = LyingPeer(bundle, lie="job-fails")
    peer.problem, peer.detail = ("FormatError", "odd"), "\ud800\x00\x1b[31m" * 1000

    async def go():
        async with node_of(peer) as node:
            with pytest.raises(FormatError) as caught:
                await node.run(work(), watch)
            return caught.value.message

    message = asyncio.run(go())
    assert message.isprintable()
    assert len(message) <= 300
    assert PeerLiedError("\x00\ud800").message == "??"


def test_cancelling_ends_the_job_there_too(bundle, work, watch):
    peer = LyingPeer(bundle)
    peer.hold = 1000

    async def go():
        async with node_of(peer) as node:
            run = asyncio.create_task(node.run(work(), watch))
            await peer.started.wait()
            await asyncio.sleep(0.05)  # until we know its name there
            assert node.busy()[Mode.FHE] == 1
            node.cancel("job_ours")
            with pytest.raises(JobFailedError) as caught:
                await run
            assert caught.value.code == "cancelled"
            assert node.busy()[Mode.FHE] == 0

    asyncio.run(go())
    assert peer.jobs["job_0"]["status"] == "cancelled"
    assert peer.blobs == {sha256_hex(KEYS): KEYS}  # its input is there no more


def test_an_input_that_was_sent_for_a_job_that_was_not_is_deleted_there(
    bundle, work, watch
):
    peer, is_sent = LyingPeer(bundle), asyncio.Event()

    class Stuck(httpx.ASGITransport):
        """Takes the input, and then no keys."""

        async def handle_async_request(self, request):
            if "/keys/" in request.url.path:
                is_sent.set()
                await asyncio.sleep(60)
            return await super().handle_async_request(request)

    async def go():
        async with node_of(peer, transport=Stuck(peer)) as node:
            run = asyncio.create_task(node.run(work(), watch))
            await is_sent.wait()
            assert peer.blobs
            node.cancel("job_ours")
            with pytest.raises(JobFailedError):
                await run

    asyncio.run(go())
    assert not peer.jobs
    assert not peer.blobs


class Unheard(httpx.ASGITransport):
    """Does what it is asked, but answers no POST; or nothing at all, if it is down."""

    is_deaf, is_down = True, False

    async def handle_async_request(self, request):
        if self.is_down:
            raise httpx.ConnectError("refused")
        reply = await super().handle_async_request(request)
        if request.method == "POST" and self.is_deaf:
            await asyncio.sleep(60)
        return reply


@pytest.mark.parametrize("goes_down", [False, True])
def test_a_job_whose_name_there_we_were_not_told_is_cancelled_there(
    bundle, work, watch, goes_down
):
    peer = LyingPeer(bundle)
    peer.hold, transport = 1000, Unheard(peer)

    async def go():
        async with node_of(peer, transport=transport) as node:
            run = asyncio.create_task(node.run(work(), watch))
            await peer.started.wait()
            transport.is_deaf, transport.is_down = False, goes_down
            node.cancel("job_ours")
            with pytest.raises(JobFailedError):
                await run
            await asyncio.gather(*node._parting)
            transport.is_down = False
            await node.refresh()

    asyncio.run(go())
    assert [j["status"] for j in peer.jobs.values()] == ["cancelled"]
    assert peer.blobs == {sha256_hex(KEYS): KEYS}


def test_jobs_that_never_succeeded_are_not_remembered_for_ever():
    tries = Tries()
    for number in range(_MOST_TRIES + 5):
        tries.again(f"job_{number}")
    tries.again("job_9")
    assert tries.key("job_9") == "job_9.2"
    assert [tries.key(f"job_{n}") for n in (4, 5)] == ["job_4", "job_5.1"]


def test_closing_leaves_the_job_there_for_the_next_life(bundle, work, watch):
    peer = LyingPeer(bundle)
    peer.hold = 1000
    order = work()

    async def die():
        async with node_of(peer) as node:
            run = asyncio.create_task(node.run(order, watch))
            await peer.started.wait()
            await asyncio.sleep(0.05)  # until we know its name there
            await node.close()
            with pytest.raises(asyncio.CancelledError):
                await run

    async def live_again():
        async with node_of(peer) as node:
            return await node.run(order, watch)

    asyncio.run(die())
    assert peer.jobs["job_0"]["status"] == "succeeded"
    peer.hold = 0
    assert asyncio.run(live_again()).output.read_bytes() == OUTPUT
    assert len(peer.jobs) == 1


def test_a_peer_that_is_down_gets_no_job_until_it_is_back(bundle, work, watch):
    peer = LyingPeer(bundle)
    is_down = True

    class Flaky(httpx.ASGITransport):
        async def handle_async_request(self, request):
            if is_down:
                raise httpx.ConnectError("refused")
            return await super().handle_async_request(request)

    async def go():
        nonlocal is_down
        async with node_of(peer, transport=Flaky(peer)) as node:
            refused = node.refusal(Mode.FHE, bundle)
            assert "cannot be reached" in refused.message
            assert node.describe()["state"] == "unreachable"
            is_down = False
            await node.refresh()
            assert node.refusal(Mode.FHE, bundle) is None
            is_down = True
            with pytest.raises(NodeLostError, match="cannot be reached"):
                await node.run(work(), watch)

    asyncio.run(go())


def test_a_peer_may_restart_in_the_middle_of_a_job(bundle, work, watch):
    peer, away = LyingPeer(bundle), [httpx.ConnectError("refused")] * 2
    peer.hold = 2

    class Restarting(httpx.ASGITransport):
        async def handle_async_request(self, request):
            if request.method == "GET" and "/jobs/job_0" in request.url.path and away:
                raise away.pop()
            return await super().handle_async_request(request)

    async def go():
        async with node_of(peer, transport=Restarting(peer)) as node:
            return await node.run(work(), watch)

    assert asyncio.run(go()).output.read_bytes() == OUTPUT
    assert not away


def test_a_broken_upload_goes_on_where_it_stopped(bundle, work, watch):
    peer, sent = LyingPeer(bundle), []

    class Breaking(httpx.ASGITransport):
        async def handle_async_request(self, request):
            if request.method == "PUT" and "/blobs/" in request.url.path:
                raise httpx.WriteError("broken")
            if request.method == "HEAD" and "/blobs/" in request.url.path and not sent:
                return _response(204, headers={"Upload-Offset": "4"})
            if request.method == "PATCH":
                sent.append(b"".join([part async for part in request.stream]))
                peer.blobs[sha256_hex(INPUT)] = INPUT
                assert request.headers["upload-offset"] == "4"
                return _response(201)
            return await super().handle_async_request(request)

    async def go():
        async with node_of(peer, transport=Breaking(peer)) as node:
            await node.run(work(), watch)

    asyncio.run(go())
    assert sent == [INPUT[4:]]


def test_an_upload_that_always_breaks_off_ends(bundle, work, watch):
    class Broken(httpx.ASGITransport):
        async def handle_async_request(self, request):
            if request.method == "PUT":
                raise httpx.WriteError("broken")
            return await super().handle_async_request(request)

    async def go():
        peer = LyingPeer(bundle)
        async with node_of(peer, transport=Broken(peer)) as node:
            with pytest.raises(NodeLostError, match="again and again"):
                await node.run(work(), watch)

    asyncio.run(go())


def test_a_peer_that_may_pass_jobs_on_is_believed_that_it_did(bundle, work, watch):
    async def go():
        peer = LyingPeer(bundle, lie="passed-on")
        async with node_of(peer, allow_forwarding=True) as node:
            return await node.run(work(), watch)

    assert asyncio.run(go()).peer_receipt


def test_only_named_modes_and_models_go_to_a_peer(bundle):
    async def refusals(**more):
        async with node_of(LyingPeer(bundle), **more) as node:
            modes = (Mode.FHE, Mode.ZKML, Mode.TEE)
            return [node.refusal(mode, bundle) is None for mode in modes]

    assert asyncio.run(refusals()) == [True, True, False]
    assert asyncio.run(refusals(modes=(Mode.FHE,))) == [True, False, False]
    assert asyncio.run(refusals(models=("other",))) == [False, False, False]
    assert asyncio.run(refusals(models=("demo",))) == [True, True, False]


def test_another_model_of_the_same_name_gets_no_job(bundle, tmp_path):
    other = write_bundle(tmp_path, published_at="2026-02-01T00:00:00.000Z")

    async def go():
        async with node_of(LyingPeer(other)) as node:
            refused = node.refusal(Mode.FHE, bundle)
            assert isinstance(refused, UnavailableError)
            assert "does not offer this demo" in refused.message

    asyncio.run(go())


def test_evidence_of_a_peers_enclave_is_passed_through(bundle):
    async def go():
        async with node_of(LyingPeer(bundle), modes=(Mode.TEE,)) as node:
            return await node.evidence(Mode.TEE, bundle, bytes(32))

    assert asyncio.run(go()) == b"evidence of the peer"


def _no_work(bundle):
    none = Path("none")
    return Work(
        job_id="job", mode=Mode.FHE, bundle=bundle, input=none, keys=None, folder=none
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "status", "progress", "problem", "models", "modes"]),
            below,
        )
    ),
    max_leaves=12,
)


@hypothesis.given(value=_JSON)
@hypothesis.settings(max_examples=30)
def test_whatever_a_peer_answers_is_a_job_or_a_lie(bundle, value):
    known = LyingPeer(bundle).known()
    node = PeerNode(
        known,
        Link(known, transport=httpx.MockTransport(lambda _: httpx.Response(200))),
        gateway="us",
        time_limit_s=lambda _: 1.0,
        max_answer_bytes=1,
        simulated=False,
        lied=lambda *_: None,
    )
    reply = Reply(200, {}, json.dumps(value).encode())
    for read in (
        Exchange(node._site, _no_work(bundle))._job,
        lambda reply: offered(node._link, reply),
    ):
        with suppress(PeerLiedError):  # and nothing else
            read(reply)


@hypothesis.given(raw=st.binary(max_size=200))
@hypothesis.settings(max_examples=60)
def test_whatever_a_peer_calls_a_receipt_is_one_or_a_lie(raw):
    asked = Asked(
        job_id="j",
        model="m",
        version="1",
        model_sha256="",
        mode="fhe",
        input_sha256="",
        keys_sha256="",
        options={},
    )
    with pytest.raises(PeerLiedError):
        check_receipt(raw, asked, status="succeeded", keys={}, allow_forwarding=False)


def test_the_api_key_is_in_no_description(bundle):
    peer = LyingPeer(bundle).known()
    assert "pk_peer" not in repr(peer)
    assert key_id(LyingPeer(bundle).key.public_key()) not in peer.receipt_keys
