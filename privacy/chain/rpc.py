"""A chain's JSON-RPC: asked over HTTP, and believed only about the chain's state."""

import itertools
from typing import Any

import httpx

from privacy.chain.abi import errors_of_all
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError, UnavailableError

_TIMEOUT_S = 30.0
_REVERTED = 3  # the JSON-RPC code of go-ethereum and anvil for a call that reverts


class RpcError(BackendError):
    """The node refused a request; `code` is always `rpc-refused`."""

    default_code = "rpc-refused"


class Rpc:
    """One node of one chain."""

    def __init__(
        self, url: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            FormatError: The address is not one of a node.
        """
        if not url.startswith(("http://", "https://")):
            raise FormatError("the RPC address does not begin with http:// or https://")
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S, transport=transport)
        self._ids = itertools.count(1)

    def ask(self, method: str, *params: object) -> Any:
        """Return a method's result.

        Raises:
            UnavailableError: The node is not there, or does not answer as one.
            Reverted: A contract refused the call.
            RpcError: The node refused.
        """
        asked = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        try:
            reply = self._http.post("", json={**asked, "params": list(params)})
            answer = reply.json()
        except (httpx.HTTPError, ValueError) as exc:
            # Never the address: it may hold the operator's key for the node.
            why = type(exc).__name__
            msg = f"the chain's node cannot be reached ({why}): is it running?"
            raise UnavailableError(msg, code="rpc-unreachable") from exc
        if not isinstance(answer, dict) or answer.get("id") != asked["id"]:
            raise UnavailableError("the chain's node answered something else")
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer.get("result")

    def number(self, method: str, *params: object) -> int:
        """Return a result that is a number."""
        return _number(self.ask(method, *params), method)

    def chain_id(self) -> int:
        """Return which chain this is (EIP-155)."""
        return self.number("eth_chainId")

    def block_number(self) -> int:
        """Return the newest block's number."""
        return self.number("eth_blockNumber")

    def latest(self) -> Json:
        """Return the newest block's `timestamp` and `base_fee`, in wei."""
        block = self.ask("eth_getBlockByNumber", "latest", False)  # noqa: FBT003
        if not isinstance(block, dict):
            raise UnavailableError("the chain's node has no newest block")
        return {
            "timestamp": _number(block.get("timestamp"), "timestamp"),
            "base_fee": _number(block.get("baseFeePerGas", "0x0"), "baseFeePerGas"),
        }

    def call(self, to: str, data: bytes, *, block: int | None = None) -> bytes:
        """Return what a contract answers at a block, the newest by default."""
        at = "latest" if block is None else hex(block)
        result = self.ask("eth_call", {"to": to, "data": _hex(data)}, at)
        return _bytes(result)

    def code(self, address: str) -> bytes:
        """Return what lies at an address."""
        return _bytes(self.ask("eth_getCode", address, "latest"))

    def receipt(self, transaction: str) -> Json | None:
        """Return a transaction's receipt if it is in a block now."""
        found = self.ask("eth_getTransactionReceipt", transaction)
        return found if isinstance(found, dict) else None

    def logs(
        self,
        address: str,
        topics: list[bytes | None],
        *,
        first: int = 0,
        last: int | None = None,
    ) -> list[Json]:
        """Return all logs of a contract with these topics, in a range of blocks."""
        wanted = [None if t is None else _hex(t) for t in topics]
        asked = {"address": address, "topics": wanted, "fromBlock": hex(first)}
        if last is not None:
            asked["toBlock"] = hex(last)
        found = self.ask("eth_getLogs", asked)
        if not isinstance(found, list):
            raise UnavailableError("the chain's node gave no list of logs")
        return found

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def log_parts(log: Json) -> tuple[list[bytes], bytes]:
    """Return the topics and the data of a log."""
    return [_bytes(t) for t in log["topics"]], _bytes(log["data"])


def _refusal(error: Any) -> BackendError:
    described = error if isinstance(error, dict) else {}
    data = described.get("data")
    text = str(described.get("message", "no message"))[:200]
    if isinstance(data, dict):  # some nodes wrap it
        data = data.get("data")
    if isinstance(data, str) and data.startswith("0x"):
        return errors_of_all().error(_bytes(data))
    if described.get("code") == _REVERTED or "revert" in text:
        return errors_of_all().error(b"")
    return RpcError(f"the chain's node refused: {text}")


def _number(value: Any, what: str) -> int:
    try:
        return int(value, 16)
    except (TypeError, ValueError) as exc:
        raise UnavailableError(f"the chain's node gave no number for {what}") from exc


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except (AttributeError, ValueError) as exc:
        raise UnavailableError("the chain's node gave no bytes") from exc
