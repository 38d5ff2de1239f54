"""What every honest message of one kind has in common, to refuse others unread.

Concrete's deserialisers crash on malformed bytes. All honest key sets of one circuit,
all its ciphertexts and all its results have one length each and share every structural
word (lengths, pointers, parameters); only the random words differ. A template learned
from a few samples holds those words. Bytes that match it have been seen to decrypt
wrongly at worst, never to crash the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.encoding import Json
from privacy.errors import FormatError

_WORD = 8
_MAX_WORDS = 1 << 16
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Template:
    """A length and the 64-bit words that never change.

    Attributes:
        size: Length in bytes.
        words: Pairs of word index and value, by index.
    """

    size: int
    words: tuple[tuple[int, int], ...]

    def check(self, raw: bytes, *, what: str, code: str, hint: str) -> None:
        """Compare bytes with the template.

        Args:
            raw: The bytes, from anyone.
            what: What they should be, to begin the message.
            code: The error's code.
            hint: What to do next.

        Raises:
            FormatError: Another length, or another structure.
        """
        if len(raw) != self.size:
            msg = f"{what} have {len(raw)} bytes, expected {self.size}: {hint}"
            raise FormatError(msg, code=code)
        found = np.frombuffer(raw, dtype="<u8")
        index = np.array([i for i, _ in self.words], dtype=np.int64)
        value = np.array([v for _, v in self.words], dtype="<u8")
        wrong = np.flatnonzero(found[index] != value)
        if len(wrong):
            msg = (
                f"{what} differ from this circuit's structure at byte "
                f"{int(index[wrong[0]]) * _WORD}: {hint}"
            )
            raise FormatError(msg, code=code)

    def constant(self) -> bytes | None:
        """Return the only bytes that match, if nothing in them is free."""
        if len(self.words) * _WORD != self.size:
            return None
        return np.array([v for _, v in self.words], dtype="<u8").tobytes()

    @property
    def free(self) -> Any:
        """The places of the words that differ from message to message, ascending."""
        free = np.ones(self.size // _WORD, dtype=bool)
        free[[i for i, _ in self.words]] = False
        return np.flatnonzero(free)

    def filled(self, free: Words) -> bytes:
        """Return the message that has these words in the free places."""
        message: Words = np.empty(self.size // _WORD, dtype="<u8")
        message[[i for i, _ in self.words]] = [v for _, v in self.words]
        message[self.free] = free
        return message.tobytes()

    def to_json(self) -> Json:
        """Return the template as JSON; values in hex, since they exceed 2**53."""
        return {
            "size": self.size,
            "at": [i for i, _ in self.words],
            "words": [f"{v:x}" for _, v in self.words],
        }


def learn_template(samples: Sequence[bytes]) -> Template:
    """Return what samples have in common; give at least two, of different keys.

    Raises:
        FormatError: Lengths differ, or the common words are too many to keep.
    """
    first = np.frombuffer(samples[0], dtype="<u8")
    same = np.ones(len(first), dtype=bool)
    for sample in samples[1:]:
        if len(sample) != len(samples[0]):
            msg = f"samples have {len(samples[0])} and {len(sample)} bytes, not one"
            raise FormatError(msg, code="fhe-no-template")
        same &= first == np.frombuffer(sample, dtype="<u8")
    index = np.flatnonzero(same)
    if len(index) > _MAX_WORDS:
        msg = f"samples share {len(index)} words, at most {_MAX_WORDS} were expected"
        raise FormatError(msg, code="fhe-no-template")
    words = tuple((int(i), int(first[i])) for i in index)
    return Template(size=len(samples[0]), words=words)


def parse_template(value: Json, *, what: str) -> Template:
    """Return the template that `to_json` described.

    Raises:
        FormatError: It is not one.
    """
    try:
        size, at, words = value["size"], value["at"], value["words"]
        values = [int(w, 16) for w in words]
        pairs = tuple(zip(at, values, strict=True))
        ordered = all(a < b for a, b in pairwise(at))
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError(f"{what} is not a template") from exc
    whole = all(type(i) is int for i in (size, *at)) and size % _WORD == 0
    inside = bool(at) and at[0] >= 0 and at[-1] * _WORD < size
    fits = all(0 <= v < 1 << 64 for v in values)
    if len(value) != 3 or not (whole and ordered and inside and fits):  # noqa: PLR2004
        raise FormatError(f"{what} is not a template")
    return Template(size=size, words=pairs)
