"""Malformed FHE inputs and keys, made from honest ones."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle, open_bundle
from privacy.encoding import pack, unpack
from privacy.fhe import ClientKeys, FheClient
from privacy.fhe.template import Template

_KEYS_SHARE = 1 / 40
"""Of the inputs; each takes as long as dozens of others."""


@dataclass(frozen=True)
class Honest:
    """A published model, a data owner's keys for it, and one input with its answer."""

    bundle: Bundle
    keys: ClientKeys
    evaluation_keys: bytes
    ciphertext: bytes
    outputs: Any
    row: Any

    @property
    def name(self) -> str:
        """The model's name."""
        return self.bundle.manifest.name

    @classmethod
    def of(cls, root: Path, run: Callable[["Honest"], bytes]) -> "Honest":
        """Make keys and an input for a bundle; `run` asks for its first answer."""
        bundle = open_bundle(root)
        keys = FheClient(bundle.path("fhe/client.json").read_bytes()).generate_keys()
        row = np.zeros((1, keys.spec.features))
        (ciphertext,) = unpack(keys.encrypt(row), what="input")
        needed = keys.evaluation_keys() if keys.spec.needs_keys else b""
        first = cls(bundle, keys, needed, ciphertext, None, row)
        outputs = keys.decrypt(run(first), 1)
        return cls(bundle, keys, needed, ciphertext, outputs, row)


@dataclass(frozen=True)
class Case:
    """One malformed input: what was done, and what is sent."""

    kind: str
    honest: Honest
    blob: bytes
    keys: bytes


def cases(
    honest: list[Honest],
    rng: random.Random,
    *,
    keys_share: float = _KEYS_SHARE,
    foreign_keys: bytes = b"",
) -> Iterator[Case]:
    """Yield malformed inputs without end, some of them evaluation keys.

    Args:
        honest: Models with their inputs.
        rng: Decides what is done.
        keys_share: How many are evaluation keys, of 1.
        foreign_keys: Honest keys for larger parameters.
    """
    keyed = [h for h in honest if h.evaluation_keys]
    while True:
        one = rng.choice(honest)
        other = rng.choice([h for h in honest if h is not one])
        if keyed and rng.random() < keys_share:
            one = rng.choice(keyed)
            kind, keys = _bad_keys(one, foreign_keys, rng)
            yield Case(f"keys: {kind}", one, pack([one.ciphertext]), keys)
            continue
        kind, frame = _bad_ciphertext(one, other, rng)
        blob = pack([frame])
        if rng.random() < 1 / 20:
            kind, blob = _bad_packing(one, rng)
        yield Case(kind, one, blob, one.evaluation_keys)


def _bad_ciphertext(
    one: Honest, other: Honest, rng: random.Random
) -> tuple[str, bytes]:
    frame, template = one.ciphertext, one.keys.spec.batches[0].ciphertext
    kinds: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "truncated": lambda: frame[: rng.randrange(1, len(frame))],
        "trailing bytes": lambda: frame + rng.randbytes(rng.choice([1, 8, 64])),
        "oversized": lambda: frame + bytes(1 << 20),
        "random": lambda: rng.randbytes(len(frame)),
        "zeros": lambda: bytes(len(frame)),
        "another model's": lambda: other.ciphertext,
        "another client's": lambda: _fresh(one),
        "spliced": lambda: _spliced(frame, _fresh(one), rng),
        "structure flipped": lambda: flipped(frame, _structural(template, rng), rng),
        "any bit flipped": lambda: flipped(frame, rng.randrange(len(frame)), rng),
        "payload flipped": lambda: flipped(frame, _payload(template, rng), rng),
        "a result": lambda: _result(one, rng),
    }
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]()


def _bad_keys(one: Honest, foreign: bytes, rng: random.Random) -> tuple[str, bytes]:
    keys, template = one.evaluation_keys, one.keys.spec.keys
    kinds: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "truncated": lambda: keys[: rng.randrange(1, len(keys))],
        "trailing bytes": lambda: keys + bytes(8),
        "random": lambda: rng.randbytes(len(keys)),
        "zeros": lambda: bytes(len(keys)),
        "a ciphertext": lambda: one.ciphertext,
        "another model's": lambda: foreign or bytes(64),
        "structure flipped": lambda: flipped(keys, _structural(template, rng), rng),
        "payload flipped": lambda: flipped(keys, rng.randrange(len(keys)), rng),
    }
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]()


def _bad_packing(one: Honest, rng: random.Random) -> tuple[str, bytes]:
    blob = pack([one.ciphertext])
    kinds = {
        "packing: bare": one.ciphertext,
        "packing: flipped": flipped(blob, rng.randrange(16), rng),
        "packing: truncated": blob[: rng.randrange(1, 16)],
        "packing: trailing": blob + b"\0",
        "packing: too many": pack([one.ciphertext] * 257),
        "packing: keys as input": (one.evaluation_keys or b"x")[: 1 << 20],
    }
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]


def flipped(raw: bytes, at: int, rng: random.Random) -> bytes:
    """Return bytes with one bit of one byte flipped."""
    changed = bytearray(raw)
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _structural(template: Template, rng: random.Random) -> int:
    return rng.choice(template.words)[0] * 8 + rng.randrange(8)


def _payload(template: Template, rng: random.Random) -> int:
    fixed = {i for i, _ in template.words}
    while (word := rng.randrange(template.size // 8)) in fixed:
        pass
    return word * 8 + rng.randrange(8)


def _fresh(one: Honest) -> bytes:
    """Return an input for the same model under keys that nobody uploaded."""
    stranger = _strangers.get(one.name)
    if stranger is None:
        raw = one.bundle.path("fhe/client.json").read_bytes()
        stranger = _strangers[one.name] = FheClient(raw).generate_keys()
    (frame,) = unpack(stranger.encrypt(one.row), what="input")
    return frame


_strangers: dict[str, ClientKeys] = {}


def _spliced(a: bytes, b: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8, len(a) - 8)
    return a[:at] + b[at:]


def _result(one: Honest, rng: random.Random) -> bytes:
    """Return bytes of the length and the structure of a result."""
    template = one.keys.spec.batches[0].result
    words = np.frombuffer(rng.randbytes(template.size), dtype="<u8").copy()
    for index, value in template.words:
        words[index] = value
    return words.tobytes()
