"""What a cluster's node keeps of what it is sent."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.executors.ray.cache import Cache
from privacy.bundle import MANIFEST, Bundle
from privacy.encoding import sha256_hex
from privacy.errors import FormatError, LimitError
from privacy.modes import Mode
from tests.support.hand_made_bundle import write_bundle


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", limit_bytes=10_000)


def send(cache: Cache, content: bytes, *, pieces: int = 1, as_: str = "") -> str:
    sha256, send_id = as_ or sha256_hex(content), secrets.token_hex(32)
    size = -(-len(content) // pieces)
    for i in range(pieces):
        piece = memoryview(content)[i * size : (i + 1) * size]
        cache.write(sha256, send_id, i * size, piece, last=i == pieces - 1)
    return sha256


def test_a_blob_is_here_once_its_last_piece_is(cache: Cache):
    content = secrets.token_bytes(1000)
    sha256 = sha256_hex(content)
    once = secrets.token_hex(32)
    cache.write(sha256, once, 0, memoryview(content)[:400], last=False)
    assert cache.missing([sha256]) == [sha256]
    cache.write(sha256, once, 400, memoryview(content)[400:], last=True)
    assert cache.missing([sha256]) == []
    assert cache.blob(sha256).read_bytes() == content


def test_bytes_of_another_digest_or_out_of_order_are_refused(cache: Cache):
    with pytest.raises(FormatError) as refusal:
        send(cache, b"other bytes", as_=sha256_hex(b"these"))
    assert refusal.value.code == "wrong-digest"
    once = secrets.token_hex(32)
    with pytest.raises(FormatError) as refusal:
        cache.write("a" * 64, once, 5, memoryview(b"x"), last=False)
    assert refusal.value.code == "blob-pieces"
    for name in ("../" * 3 + "x", "A" * 64, ""):
        with pytest.raises(FormatError):
            cache.write(name, once, 0, memoryview(b"x"), last=True)


def test_what_was_used_longest_ago_goes_unless_a_job_uses_it(cache: Cache):
    a, b = (send(cache, secrets.token_bytes(4000)) for _ in "ab")
    with cache.using(cache.blob(a)):
        c = send(cache, secrets.token_bytes(4000))
        assert cache.missing([a, b, c]) == [b]
    d = send(cache, secrets.token_bytes(4000))
    assert cache.missing([a, c, d]) == [a]
    with cache.using(cache.blob(c), cache.blob(d)):
        with pytest.raises(LimitError) as refusal:
            send(cache, secrets.token_bytes(4000))
        assert refusal.value.code == "node-cache-full"


def test_pieces_whose_sender_went_silent_are_removed(cache: Cache, tmp_path: Path):
    for once in ("a" * 64, "b" * 64):
        cache.write("c" * 64, once, 0, memoryview(b"piece"), last=False)
    old, young = sorted((tmp_path / "cache" / "parts").iterdir())
    os.utime(old, (0, 0))
    cache.remove_broken()
    assert (old.exists(), young.exists()) == (False, True)


def _send_missing(cache: Cache, bundle: Bundle, mode: Mode) -> int:
    by_digest = {bundle.sha256: bundle.root / MANIFEST} | {
        entry.sha256: bundle.root / name
        for name, entry in bundle.manifest.files.items()
    }
    sent = 0
    while missing := cache.missing_of_model(bundle.sha256, mode):
        for sha256 in missing:
            send(cache, by_digest[sha256].read_bytes())
            sent += 1
    return sent


def test_a_model_is_sent_once_and_only_the_parts_of_the_mode(tmp_path: Path):
    cache = Cache(tmp_path / "cache", limit_bytes=1 << 20)
    bundle = write_bundle(tmp_path / "models")
    assert _send_missing(cache, bundle, Mode.FHE) == 3
    made = cache.model(bundle.sha256, Mode.FHE, signature="a.b.c")
    assert made.manifest == bundle.manifest
    made.check_files(["fhe/client.json", "fhe/server.zip"])
    assert (made.root / "manifest.jws").read_text() == "a.b.c"
    assert not (made.root / "zkml").exists()
    assert cache.missing_of_model(bundle.sha256, Mode.FHE) == []
    assert _send_missing(cache, bundle, Mode.ZKML) == 1
    both = cache.model(bundle.sha256, Mode.ZKML, signature="a.b.c")
    both.check_files(["fhe/server.zip", "zkml/vk.key"])


def test_many_may_send_and_use_the_same_blobs_at_once(tmp_path: Path):
    cache = Cache(tmp_path / "cache", limit_bytes=20_000)
    bundle = write_bundle(tmp_path / "models")
    noise = [secrets.token_bytes(3000) for _ in range(8)]

    def use(number: int) -> bytes:
        send(cache, noise[number % len(noise)], pieces=3)
        for _ in range(100):
            with cache.lock:
                if not cache.missing_of_model(bundle.sha256, Mode.FHE):
                    made = cache.model(bundle.sha256, Mode.FHE, signature="")
                    return made.path("fhe/server.zip").read_bytes()
            _send_missing(cache, bundle, Mode.FHE)
        return b""

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(use, range(48)))
    assert answers == {b"not for clients"}


def test_a_restarted_node_begins_empty(tmp_path: Path):
    sha256 = send(Cache(tmp_path / "cache", limit_bytes=1000), b"left over")
    again = Cache(tmp_path / "cache", limit_bytes=1000)
    assert again.missing([sha256]) == [sha256]
    assert not again.blob(sha256).exists()
