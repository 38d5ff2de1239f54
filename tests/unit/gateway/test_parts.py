import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.arrival import Room
from gateway.store.parts import Owner, Parts
from privacy.encoding import sha256_file, sha256_hex
from privacy.errors import (
    ConflictError,
    FormatError,
    LimitError,
    PrivacyError,
    UnavailableError,
)

CONTENT = b"ciphertext" * 1000
OWNER = Owner("a", "keys", sha256_hex(CONTENT))
TOO_LARGE = LimitError("too large", code="too-large")
OVER_QUOTA = LimitError("too much", code="quota-exceeded")
ROOMY = Room(1 << 20, TOO_LARGE, 1 << 20, OVER_QUOTA)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "uploads", keep_bytes=1000)


async def _chunks(content: bytes, *, then_break: bool = False) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 999):
        yield content[at : at + 999]
    if then_break:
        raise ConnectionError("gone")


def receive(
    parts: Parts,
    content: bytes,
    *,
    owner: Owner = OWNER,
    room: Room = ROOMY,
    offset: int = 0,
    then_break: bool = False,
) -> Path:
    chunks = _chunks(content, then_break=then_break)
    receiving = parts.receive(chunks, owner=owner, room=room, offset=offset)
    part, size = asyncio.run(receiving)
    assert size == offset + len(content)
    return part


def break_off(parts: Parts, content: bytes, **more: int) -> None:
    with pytest.raises(ConnectionError):
        receive(parts, content, then_break=True, **more)


def files(parts: Parts) -> list[Path]:
    return list(parts._folder.iterdir())


def test_a_whole_upload_is_received(parts: Parts):
    assert receive(parts, CONTENT).read_bytes() == CONTENT


def test_a_broken_upload_is_gone_on_with_where_it_stopped(parts: Parts):
    break_off(parts, CONTENT[:4000])
    assert parts.offset(OWNER) == 4000
    break_off(parts, CONTENT[4000:7000], offset=4000)
    assert parts.offset(OWNER) == 7000
    part = receive(parts, CONTENT[7000:], offset=7000)
    assert part.read_bytes() == CONTENT
    assert parts.offset(OWNER) == 0


def test_however_often_an_upload_breaks_it_is_hashed_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
):
    hashed = []

    def note(path: Path) -> str:
        hashed.append(path.stat().st_size)
        return sha256_file(path)

    monkeypatch.setattr("gateway.store.parts.sha256_file", note)
    for at in range(0, 9000, 1000):
        break_off(parts, CONTENT[at : at + 1000], offset=at)
    assert hashed == []
    receive(parts, CONTENT[9000:], offset=9000)
    assert hashed == [len(CONTENT)]


def test_a_broken_upload_survives_the_gateways_death(parts: Parts, tmp_path: Path):
    under_way = tmp_path / "uploads" / f"{OWNER.name}.0123456789abcdef"
    under_way.write_bytes(CONTENT[:5000])
    again = Parts(tmp_path / "uploads", keep_bytes=1000)
    assert again.offset(OWNER) == 5000
    assert receive(again, CONTENT[5000:], offset=5000).read_bytes() == CONTENT


def test_going_on_elsewhere_than_where_it_stopped_is_refused(parts: Parts):
    break_off(parts, CONTENT[:4000])
    for offset in (3999, 4001):
        with pytest.raises(ConflictError) as refusal:
            receive(parts, CONTENT[offset:], offset=offset)
        assert refusal.value.code == "upload-offset"
        assert parts.offset(OWNER) == 4000
    other = Owner("b", "keys", OWNER.sha256)
    with pytest.raises(ConflictError):
        receive(parts, CONTENT[4000:], owner=other, offset=4000)


def test_two_requests_never_write_to_one_file(parts: Parts):
    break_off(parts, CONTENT[:4000])

    async def both() -> list[object]:
        rest = CONTENT[4000:]
        asked = (
            parts.receive(_chunks(rest), owner=OWNER, room=ROOMY, offset=4000)
            for _ in range(2)
        )
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(both())
    refused = [r for r in results if isinstance(r, ConflictError)]
    (done,) = [r for r in results if isinstance(r, tuple)]
    assert len(refused) == 1
    assert done[0].read_bytes() == CONTENT


def test_a_rest_that_does_not_make_the_whole_is_refused_and_all_of_it_goes(
    parts: Parts,
):
    break_off(parts, CONTENT[:4000])
    with pytest.raises(FormatError) as refusal:
        receive(parts, b"x" * 6000, offset=4000)
    assert refusal.value.code == "digest-mismatch"
    assert files(parts) == []


def test_the_longest_part_is_kept(parts: Parts):
    break_off(parts, CONTENT[:4000])
    break_off(parts, CONTENT[:2000])
    assert parts.offset(OWNER) == 4000
    break_off(parts, CONTENT[:6000])
    assert parts.offset(OWNER) == 6000
    assert len(files(parts)) == 1


def test_a_short_part_is_not_kept(parts: Parts):
    break_off(parts, CONTENT[:999])
    assert files(parts) == []


@pytest.mark.parametrize(
    ("content", "room", "family", "code"),
    [
        (b"other", ROOMY, FormatError, "digest-mismatch"),
        (b"", ROOMY, FormatError, "empty-upload"),
        (CONTENT, Room(9999, TOO_LARGE, 1 << 20, OVER_QUOTA), LimitError, "too-large"),
        (
            CONTENT,
            Room(1 << 20, TOO_LARGE, 9999, OVER_QUOTA),
            LimitError,
            "quota-exceeded",
        ),
    ],
)
def test_a_refused_upload_leaves_nothing_behind(
    parts: Parts, content: bytes, room: Room, family: type[PrivacyError], code: str
):
    with pytest.raises(family) as refusal:
        receive(parts, content, room=room)
    assert refusal.value.code == code
    assert files(parts) == []


def test_uploads_at_once_share_what_the_quota_leaves(parts: Parts):
    contents = [bytes([i]) * 9000 for i in range(5)]
    room = Room(1 << 20, TOO_LARGE, 20_000, OVER_QUOTA)
    most = 0

    async def slow(content: bytes) -> AsyncIterator[bytes]:
        nonlocal most
        async for chunk in _chunks(content):
            yield chunk
            await asyncio.sleep(0)
            most = max(most, parts.bytes_of("a"))

    async def at_once() -> list[object]:
        asked = (
            parts.receive(slow(c), owner=Owner("a", "blob", sha256_hex(c)), room=room)
            for c in contents
        )
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(at_once())
    done = [r for r in results if isinstance(r, tuple)]
    assert 1 <= len(done) <= 2
    assert all(r is OVER_QUOTA for r in results if not isinstance(r, tuple))
    assert most <= 20_000
    assert len(files(parts)) == len(done)


def test_another_tenants_uploads_take_no_room(parts: Parts):
    room = Room(1 << 20, TOO_LARGE, len(CONTENT), OVER_QUOTA)
    asked = (
        parts.receive(_chunks(CONTENT), owner=Owner(t, "keys", OWNER.sha256), room=room)
        for t in ("a", "b")
    )

    async def at_once() -> list[tuple[Path, int]]:
        return await asyncio.gather(*asked)

    assert [size for _, size in asyncio.run(at_once())] == [len(CONTENT)] * 2


def test_a_refused_upload_takes_no_room_from_others(parts: Parts):
    room = Room(1 << 20, TOO_LARGE, len(CONTENT), OVER_QUOTA)

    async def both() -> tuple[Path, int]:
        begun = asyncio.Event()

        async def waiting() -> AsyncIterator[bytes]:
            yield CONTENT[:10]
            begun.set()
            await asyncio.sleep(0.1)
            yield CONTENT[10:]

        task = asyncio.create_task(parts.receive(waiting(), owner=OWNER, room=room))
        await begun.wait()
        with pytest.raises(FormatError):
            await parts.receive(_chunks(b"x" * 5000), owner=OWNER, room=room)
        return await task

    assert asyncio.run(both())[1] == len(CONTENT)


def test_what_is_announced_too_large_is_refused_before_a_byte_is_read(parts: Parts):
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    for offset, announced in ((0, (1 << 20) + 1), (1 << 19, (1 << 19) + 1)):
        receiving = parts.receive(
            unread(), owner=OWNER, room=ROOMY, offset=offset, announced_bytes=announced
        )
        with pytest.raises(LimitError):
            asyncio.run(receiving)


def test_an_owner_is_named_by_a_digest():
    with pytest.raises(FormatError) as refusal:
        Owner("a", "keys", "../../etc/passwd")
    assert refusal.value.code == "bad-digest"


@pytest.mark.parametrize("keep_bytes", [1, 1000])
def test_an_upload_that_trickles_is_ended_and_may_go_on(tmp_path: Path, keep_bytes):
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    parts = Parts(tmp_path / "uploads", patience_s=0.3, keep_bytes=keep_bytes)
    with pytest.raises(LimitError) as refusal:
        asyncio.run(parts.receive(trickle(), owner=OWNER, room=ROOMY))
    assert refusal.value.code == "upload-too-slow"
    assert bool(parts.offset(OWNER)) == (keep_bytes == 1)
    assert len(files(parts)) == (keep_bytes == 1)


def test_uploads_leave_room_on_the_disk(tmp_path: Path):
    parts = Parts(tmp_path / "uploads", reserve_bytes=1 << 62, keep_bytes=1)
    with pytest.raises(UnavailableError) as refusal:
        receive(parts, CONTENT)
    assert refusal.value.code == "storage-full"
    assert files(parts) == []


def test_who_asks_how_much_came_makes_a_dead_request_end(parts: Parts):
    async def stall() -> AsyncIterator[bytes]:
        yield CONTENT[:4000]
        await asyncio.sleep(60)

    async def ask() -> object:
        dead = parts.receive(stall(), owner=OWNER, room=ROOMY)
        task = asyncio.create_task(dead)
        await asyncio.sleep(0)
        await parts.settle(Owner("b", "keys", OWNER.sha256))  # not theirs to wait for
        assert not task.done()
        await parts.settle(OWNER)
        return (await asyncio.gather(task, return_exceptions=True))[0]

    ended = asyncio.run(ask())
    assert isinstance(ended, LimitError)
    assert parts.offset(OWNER) == 4000


def test_who_asks_leaves_a_live_request_alone(parts: Parts):
    async def live() -> AsyncIterator[bytes]:
        for at in range(0, len(CONTENT), 500):
            yield CONTENT[at : at + 500]
            await asyncio.sleep(0.2)

    async def ask() -> tuple[Path, int]:
        task = asyncio.create_task(parts.receive(live(), owner=OWNER, room=ROOMY))
        await asyncio.sleep(0)
        await parts.settle(OWNER)
        assert not task.done()
        return await task

    part, _ = asyncio.run(ask())
    assert part.read_bytes() == CONTENT


def test_what_nobody_goes_on_with_is_swept(parts: Parts):
    break_off(parts, CONTENT[:4000])
    assert parts.sweep() == 0
    (left,) = files(parts)
    yesterday = time.time() - 90000
    os.utime(left, (yesterday, yesterday))
    assert parts.sweep() == 1
    assert parts.offset(OWNER) == 0


def test_an_upload_that_vanishes_meanwhile_does_not_stop_the_sweep(parts: Parts):
    break_off(parts, CONTENT[:4000])
    (old,) = files(parts)
    os.utime(old, (0, 0))
    (parts._folder / "gone.part").symlink_to("renamed meanwhile")
    assert parts.sweep() == 1
    assert parts.offset(OWNER) == 0


def test_the_bytes_under_way_of_one_tenant_are_counted(parts: Parts):
    break_off(parts, CONTENT[:4000])
    assert parts.bytes_of("a") == 4000
    assert parts.bytes_of("b") == 0
