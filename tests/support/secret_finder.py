"""Finds parts of FHE secret keys and passphrases in what is sent.

Concrete writes a secret key as one 64-bit word a bit, so 16 bytes of it are two bits
and tell nothing alone; but no honest message holds two such words in a row, save zeros.
"""

import base64
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx
import numpy as np

_WORD = 8


class Finder:
    """Knows one key set and a passphrase."""

    def __init__(self, everything: bytes, evaluation_keys: bytes, passphrase: str):
        """Take what is in `everything`, and not in the evaluation keys, for secret."""
        pairs = _pairs(everything)
        private = np.flatnonzero(~np.isin(pairs, _pairs(evaluation_keys)))
        found = {everything[_WORD * i : _WORD * (i + 2)] for i in private}
        self.windows = found - {bytes(2 * _WORD)}
        # Counts of 32 bits look like a secret word or two if read from their middle.
        self._shifted = self.windows - set(_held(evaluation_keys, self.windows))
        self._texts = _spellings(passphrase)
        self._packed = _packed(everything)

    def find(self, message: bytes) -> str:
        """Return what a message gives away, "" if nothing."""
        for text in self._texts:
            if text in message:
                return "the passphrase"
        for packed in self._packed:
            if packed in message:
                return "the secret key, a bit a bit"
        if _held(message, self.windows, shifts=1) or _held(message, self._shifted):
            return "the secret key"
        return ""


def _held(message: bytes, windows: set[bytes], *, shifts: int = _WORD) -> list[bytes]:
    """Return the windows that a message holds, from multiples of 8 or anywhere."""
    first = sorted({int.from_bytes(w[:_WORD], "little") for w in windows})
    found = []
    for shift in range(shifts):
        size = (len(message) - shift) // _WORD * _WORD
        words = np.frombuffer(message[shift : shift + size], dtype="<u8")
        for i in np.flatnonzero(np.isin(words[:-1], np.array(first, dtype="<u8"))):
            window = message[shift + _WORD * i : shift + _WORD * (i + 2)]
            found += [window] if window in windows else []
    return found


def _pairs(raw: bytes) -> np.ndarray:
    """Return a number for every 16 bytes that begin at a multiple of 8."""
    words = np.frombuffer(raw[: len(raw) // _WORD * _WORD], dtype="<u8")
    return words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]


def _spellings(text: str) -> list[bytes]:
    raw = text.encode()
    return [raw, quote(text).encode(), base64.b64encode(raw)[:-4]]


def secret_bits(everything: bytes) -> list[np.ndarray]:
    """Return the secret keys in a whole key set: long runs of words that are 0 or 1."""
    size = len(everything) // _WORD * _WORD
    small = np.frombuffer(everything[:size], dtype="<u8") <= 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], small.view("i1"), [0]])))
    words = np.frombuffer(everything[:size], dtype="<u8")
    runs = [words[a:b] for a, b in edges.reshape(-1, 2)]
    return [run.astype(np.uint8) for run in runs if len(run) >= 256]


def _packed(everything: bytes) -> list[bytes]:
    """Return 16 bytes out of each secret key if eight bits were put into a byte."""
    return [
        np.packbits(bits[128:256], bitorder=order).tobytes()
        for bits in secret_bits(everything)
        for order in ("big", "little")
    ]


@dataclass
class Recorder(httpx.BaseTransport):
    """Keeps every request, and passes it on."""

    sent: list[tuple[str, bytes, bytes]] = field(default_factory=list)

    def __post_init__(self):
        self._real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        head = b"\n".join(
            [str(request.url).encode(), *(b"%s: %s" % h for h in request.headers.raw)]
        )
        self.sent.append((f"{request.method} {request.url.path}", head, body))
        return self._real.handle_request(request)

    def close(self):
        self._real.close()
