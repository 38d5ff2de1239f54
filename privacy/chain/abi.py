"""Calls, answers, errors and events of contracts, by their ABI."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from privacy.encoding import Json
from privacy.errors import BackendError, FormatError
from privacy.zkml.evm.calldata import chain_missing, keccak

_SELECTOR = 4


@dataclass(frozen=True, slots=True)
class Event:
    """A log of a contract, decoded: its name, and its arguments by name."""

    name: str
    values: Json


class Reverted(BackendError):  # noqa: N818 - it says what happened
    """A contract refused a call.

    Attributes:
        error: The name of its error, such as `RequestEnded`; empty if it gave none.
        values: The error's arguments by name.
    """

    default_code = "reverted"

    def __init__(self, error: str, values: Json) -> None:
        """Say which error it was."""
        given = ", ".join(f"{k} {_brief(v)}" for k, v in values.items())
        super().__init__(f"the contract refused: {error or 'no reason'}({given})")
        self.error = error
        self.values = values


class Abi:
    """What a contract understands; see the contract ABI specification."""

    def __init__(self, entries: list[Json]) -> None:
        """Keep the entries of an ABI in JSON."""
        self._functions = {e["name"]: e for e in entries if e["type"] == "function"}
        self._constructor = next(
            (e for e in entries if e["type"] == "constructor"), None
        )
        self._errors = {_selector(e): e for e in entries if e["type"] == "error"}
        self._events = {
            keccak(_signature(e).encode()): e for e in entries if e["type"] == "event"
        }

    def call(self, function: str, *arguments: object) -> bytes:
        """Return the calldata of a function.

        Structs are tuples, in the order of their members.

        Raises:
            FormatError: An argument does not fit its type.
        """
        entry = self._functions[function]
        return _selector(entry) + _encode(entry, arguments)

    def construct(self, *arguments: object) -> bytes:
        """Return what follows the init code when deploying."""
        entry = self._constructor or {"inputs": []}
        return _encode(entry, arguments)

    def answer(self, function: str, raw: bytes) -> Any:
        """Return what a function answered: a value, or a tuple where it gives several.

        A struct is a dict by its members' names.

        Raises:
            FormatError: The bytes are no such answer.
        """
        values = _decode(self._functions[function]["outputs"], raw)
        return values[0] if len(values) == 1 else tuple(values)

    def error(self, raw: bytes) -> Reverted:
        """Return the error behind the data of a revert, as well as it can be told."""
        entry = self._errors.get(raw[:_SELECTOR])
        if entry is None:
            return Reverted("", {})
        try:
            values = _decode(entry["inputs"], raw[_SELECTOR:])
        except FormatError:
            return Reverted(entry["name"], {})
        return Reverted(entry["name"], _named(entry["inputs"], values))

    def topic(self, event: str) -> bytes:
        """Return the first topic of an event's logs."""
        return next(t for t, e in self._events.items() if e["name"] == event)

    def event(self, topics: list[bytes], data: bytes) -> Event | None:
        """Return a decoded log, or None if it is of no event of this contract.

        Raises:
            FormatError: It is of one, but malformed.
        """
        entry = self._events.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = [i for i in entry["inputs"] if i["indexed"]]
        others = [i for i in entry["inputs"] if not i["indexed"]]
        values = [_decode([i], t)[0] for i, t in zip(indexed, topics[1:], strict=True)]
        named = _named(indexed, values) | _named(others, _decode(others, data))
        return Event(entry["name"], named)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One of our own contracts: what deploys it, and what it understands."""

    abi: Abi
    init_code: bytes

    def deployment(self, *arguments: object) -> bytes:
        """Return the data of the transaction that deploys it."""
        return self.init_code + self.abi.construct(*arguments)


@cache
def artifact(name: str) -> Artifact:
    """Return one of our own contracts, as `make contracts` compiled it."""
    entry = _contracts()[name]
    return Artifact(Abi(entry["abi"]), bytes.fromhex(entry["init_code"]))


@cache
def errors_of_all() -> Abi:
    """Return the errors of all our contracts: one's may come through another."""
    entries = (e for made in _contracts().values() for e in made["abi"])
    return Abi([e for e in entries if e["type"] == "error"])


def _contracts() -> Json:
    raw = resources.files("privacy.chain").joinpath("contracts.json").read_bytes()
    contracts: Json = json.loads(raw)["contracts"]
    return contracts


def _signature(entry: Json) -> str:
    return f"{entry['name']}({','.join(_type(i) for i in entry['inputs'])})"


def _selector(entry: Json) -> bytes:
    return keccak(_signature(entry).encode())[:_SELECTOR]


def _type(entry: Json) -> str:
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(_type(c) for c in entry["components"])
    return f"({inner}){kind.removeprefix('tuple')}"


def _encode(entry: Json, arguments: tuple[object, ...]) -> bytes:
    try:
        from eth_abi.abi import encode
        from eth_abi.exceptions import EncodingError
    except ImportError as exc:
        raise chain_missing() from exc
    types = [_type(i) for i in entry["inputs"]]
    try:
        return encode(types, arguments)
    except (EncodingError, TypeError, ValueError) as exc:
        name = entry.get("name", "constructor")
        msg = f"the arguments of {name} do not fit ({', '.join(types)})"
        raise FormatError(msg) from exc


def _decode(entries: list[Json], raw: bytes) -> list[Any]:
    try:
        from eth_abi.abi import decode
        from eth_abi.exceptions import DecodingError
    except ImportError as exc:
        raise chain_missing() from exc
    try:
        values = decode([_type(e) for e in entries], raw)
    except (DecodingError, OverflowError, ValueError) as exc:
        msg = f"{len(raw)} bytes from a contract are not what its ABI says"
        raise FormatError(msg) from exc
    return [_shape(e, v) for e, v in zip(entries, values, strict=True)]


def _shape(entry: Json, value: Any) -> Any:
    """Turn structs into dicts, at any depth."""
    if entry["type"] == "tuple":
        parts = zip(entry["components"], value, strict=True)
        return {c["name"]: _shape(c, v) for c, v in parts}
    if entry["type"].startswith("tuple"):
        inner = {**entry, "type": entry["type"].rpartition("[")[0]}
        return [_shape(inner, v) for v in value]
    return list(value) if isinstance(value, tuple) else value


def _named(entries: list[Json], values: list[Any]) -> Json:
    return {e["name"]: v for e, v in zip(entries, values, strict=True)}


def _brief(value: object) -> str:
    text = "0x" + value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) < 80 else text[:20] + "…"  # noqa: PLR2004
