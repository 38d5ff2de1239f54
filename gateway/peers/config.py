"""Peers as the operator names them, in a TOML file.

    [[peer]]
    name = "acme"
    url = "https://gateway.acme.example:8400"
    api_key_file = "acme.key"          # or api_key_env = "ACME_KEY"
    receipt_keys = ["…"]               # key ids, as the peer's operator told them
    modes = ["fhe", "zkml"]
    allow_clear_inputs = true          # zkml: its provers read inputs
    tls_ca = "acme/trust.pem"          # and tls_cert, tls_key for mutual TLS

Paths are relative to the file. What is not known here is refused.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from privacy.bundle import Bundle, check_name
from privacy.errors import AuthError, FormatError, NotFoundError
from privacy.modes import Mode, parse_mode
from privacy.tls import NO_TLS, TlsFiles

_MAX_BYTES = 1 << 20
_MAX_KEY_BYTES = 4096
_KEY_ID_LENGTH = 43
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another operator's gateway.

    Attributes:
        name: As receipts and lists call it.
        url: Its address.
        api_key: What it knows us by.
        receipt_keys: Ids of the keys that its receipts may be signed with.
        modes: In which it gets jobs.
        models: Names of those it gets jobs of; all if empty.
        max_jobs: How many jobs of a mode it gets at once.
        time_limit_s: How long a job may stay there; 0 for our own limit of its mode.
        allow_clear_inputs: It may get inputs in the clear (mode zkml).
        allow_forwarding: It may have jobs run by peers of its own.
        tls: Files for TLS.
    """

    name: str
    url: str
    api_key: str = field(repr=False)
    receipt_keys: tuple[str, ...]
    modes: tuple[Mode, ...] = (Mode.FHE,)
    models: tuple[str, ...] = ()
    max_jobs: int = 4
    time_limit_s: float = 0.0
    allow_clear_inputs: bool = False
    allow_forwarding: bool = False
    tls: TlsFiles = NO_TLS

    def takes(self, bundle: Bundle) -> bool:
        """Whether it gets jobs of a model."""
        return not self.models or bundle.manifest.name in self.models


def read_peers(path: Path) -> tuple[Peer, ...]:
    """Return the peers in a file.

    Raises:
        NotFoundError: It, or a file that it names, is not there.
        FormatError: It is not such a file.
        AuthError: An API key is missing.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    try:
        value = tomllib.loads(raw[:_MAX_BYTES].decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        msg = f"{path} is not TOML: {exc}"
        raise FormatError(msg, code="peers-file") from exc
    entries = value.pop("peer", [])
    if value or len(raw) > _MAX_BYTES or not isinstance(entries, list):
        raise _odd(path, "it holds [[peer]] tables and nothing else")
    peers = tuple(_peer(path, entry) for entry in entries)
    names = [p.name for p in peers]
    if len(set(names)) != len(names):
        raise _odd(path, "two peers have one name")
    return peers


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "url": str,
    "api_key_file": str,
    "api_key_env": str,
    "receipt_keys": list,
    "modes": list,
    "models": list,
    "max_jobs": int,
    "time_limit_s": (int, float),
    "allow_clear_inputs": bool,
    "allow_forwarding": bool,
    "allow_plain_http": bool,
    "tls_ca": str,
    "tls_cert": str,
    "tls_key": str,
}
_KEPT = ("max_jobs", "time_limit_s", "allow_clear_inputs", "allow_forwarding")


def _peer(path: Path, entry: Any) -> Peer:
    _check_types(path, entry)
    name = check_name(entry.get("name", ""))
    modes = tuple(parse_mode(str(m)) for m in entry.get("modes", ["fhe"]))
    if Mode.ZKML in modes and not entry.get("allow_clear_inputs"):
        msg = (
            f"peer {name} has mode zkml, whose provers read inputs in the clear: "
            "set allow_clear_inputs = true if its operator may"
        )
        raise FormatError(msg, code="clear-inputs")
    keys = tuple(entry.get("receipt_keys", ()))
    if not keys or not all(
        isinstance(k, str) and len(k) == _KEY_ID_LENGTH for k in keys
    ):
        msg = f"{name}: receipt_keys are the `kid`s of its /.well-known/jwks.json"
        raise _odd(path, msg)
    kept = {word: entry[word] for word in _KEPT if word in entry}
    if kept.get("max_jobs", 1) < 1 or kept.get("time_limit_s", 0) < 0:
        raise _odd(path, f"{name}: max_jobs is at least 1, time_limit_s above 0")
    models = tuple(check_name(str(m)) for m in entry.get("models", ()))
    return Peer(
        name=name,
        url=_url(path, entry),
        api_key=_api_key(path, entry, name),
        receipt_keys=keys,
        modes=modes,
        models=models,
        tls=_tls(path, entry),
        **kept,
    )


def _check_types(path: Path, entry: Any) -> None:
    if not isinstance(entry, dict):
        raise _odd(path, "a peer is a table")
    for word, value in entry.items():
        wanted = _TYPES.get(word)
        is_odd_bool = isinstance(value, bool) and wanted is not bool
        if wanted is None or is_odd_bool or not isinstance(value, wanted):
            raise _odd(path, f"{word[:40]!r} is not known, or not of its type")


def _url(path: Path, entry: dict[str, Any]) -> str:
    text = str(entry.get("url", "")).rstrip("/")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query:
        raise _odd(path, f"url {text[:80]!r} is no address of a gateway")
    if (
        url.scheme == "http"
        and url.host not in _LOOPBACK
        and not entry.get("allow_plain_http")
    ):
        msg = f"{text}: API key and inputs would cross the network in the clear: https"
        raise AuthError(msg, code="plain-http")
    return text


def _api_key(path: Path, entry: dict[str, Any], name: str) -> str:
    text: str
    file, variable = entry.get("api_key_file"), entry.get("api_key_env")
    if bool(file) == bool(variable):
        raise _odd(path, f"{name}: give one of api_key_file and api_key_env")
    if file:
        where = path.parent / file
        if not where.is_file():
            raise NotFoundError(f"there is no file {where}", code="no-such-file")
        with where.open("rb") as opened:
            text = opened.read(_MAX_KEY_BYTES).decode("ascii", "replace").strip()
    else:
        text = os.environ.get(str(variable), "")
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        msg = f"peer {name}: {file or '$' + str(variable)} holds no API key"
        raise AuthError(msg, code="api-key-missing")
    return text


def _tls(path: Path, entry: dict[str, Any]) -> TlsFiles:
    words = {"trust": "tls_ca", "certificate": "tls_cert", "key": "tls_key"}
    return TlsFiles(
        **{part: path.parent / entry[w] for part, w in words.items() if w in entry}
    )


def _odd(path: Path, why: str) -> FormatError:
    return FormatError(f"{path}: {why}", code="peers-file")
