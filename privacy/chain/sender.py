"""Transactions of one account, one after the other, each mined or replaced.

The nonce is always the next one that the chain has not used, so a lost or dropped
transaction leaves no gap, and one of an earlier life of this process is replaced rather
than doubled. While a transaction is not mined, its price rises.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from privacy.chain.account import Signer
from privacy.chain.rpc import Rpc, RpcError
from privacy.encoding import Json
from privacy.errors import BackendError, LimitError, UnavailableError

GWEI = 10**9
_BUMP_PERCENT = 25  # nodes replace a transaction for at least 10 % more
_ATTEMPTS = 6
_LOOKS = 8


@dataclass(frozen=True, slots=True)
class Prices:
    """What an account is ready to pay.

    Attributes:
        max_fee_per_gas: In wei; above it, nothing is sent.
        tip_per_gas: What the block's producer gets, in wei.
        patience_s: How long to wait before paying more.
    """

    max_fee_per_gas: int = 500 * GWEI
    tip_per_gas: int = GWEI
    patience_s: float = 45.0


class Sender:
    """Sends transactions; for use by one thread of one process at a time."""

    def __init__(
        self,
        rpc: Rpc,
        signer: Signer,
        *,
        chain_id: int,
        prices: Prices | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep what is needed.

        Args:
            rpc: The chain's node.
            signer: Who pays.
            chain_id: Signed into every transaction (EIP-155).
            prices: See `Prices`.
            sleep: For tests.
        """
        self._rpc, self._signer, self._chain_id = rpc, signer, chain_id
        self._prices = prices or Prices()
        self._sleep = sleep

    @property
    def address(self) -> str:
        """The account."""
        return self._signer.address

    def estimate(self, to: str | None, data: bytes, *, value: int = 0) -> int:
        """Return how much gas to send along, with a fifth to spare.

        Raises:
            Reverted: The contract would refuse.
        """
        asked = {"from": self.address, "data": "0x" + data.hex(), "value": hex(value)}
        if to:
            asked["to"] = to
        return self._rpc.number("eth_estimateGas", asked) * 6 // 5

    def price(self) -> int:
        """Return the price of a unit of gas that is sure to be enough now, in wei.

        Raises:
            LimitError: It is above what the account is ready to pay.
        """
        price: int = 2 * self._rpc.latest()["base_fee"] + self._prices.tip_per_gas
        return self._checked(price)

    def send(
        self, to: str | None, data: bytes, *, value: int = 0, gas: int | None = None
    ) -> Json:
        """Return the receipt of a transaction, once it is in a block.

        Raises:
            Reverted: The contract would refuse; nothing was sent.
            LimitError: Gas costs more than the account is ready to pay.
            UnavailableError: It was not mined in time, or another took its place.
            BackendError: It was mined, and failed.
        """
        gas = gas or self.estimate(to, data, value=value)
        nonce, price = self._nonce(), self.price()
        sent: list[str] = []
        for _ in range(_ATTEMPTS):
            transaction: Json = {
                "chainId": self._chain_id,
                "type": 2,
                "nonce": nonce,
                "data": data,
                "value": value,
                "gas": gas,
                "maxFeePerGas": price,
                "maxPriorityFeePerGas": min(price, self._tip(len(sent))),
            }
            if to:
                transaction["to"] = _checksummed(to)
            sent.append(self._submit(transaction))
            receipt = self._wait(sent, nonce)
            if receipt:
                return _succeeded(receipt)
            price = self._checked(price * (100 + _BUMP_PERCENT) // 100 + 1)
        msg = "the transaction was not mined in time: it is tried again"
        raise UnavailableError(msg, code="not-mined")

    def _nonce(self) -> int:
        return self._rpc.number("eth_getTransactionCount", self.address, "latest")

    def _tip(self, earlier: int) -> int:
        tip = self._prices.tip_per_gas
        for _ in range(earlier):
            tip = tip * (100 + _BUMP_PERCENT) // 100 + 1
        return tip

    def _checked(self, price: int) -> int:
        limit = self._prices.max_fee_per_gas
        if price > limit:
            msg = (
                f"gas costs {price / GWEI:.1f} gwei, the limit is {limit / GWEI:.1f}: "
                "it is tried again later, or raise the limit"
            )
            raise LimitError(msg, code="gas-too-expensive")
        return price

    def _submit(self, transaction: Json) -> str:
        raw, name = self._signer.sign(transaction)
        try:
            self._rpc.ask("eth_sendRawTransaction", raw)
        except RpcError as exc:
            text = exc.message.lower()
            known = (
                "already known",
                "already imported",
                "underpriced",
                "nonce too low",
            )
            if not any(word in text for word in known):
                raise
        return name

    def _wait(self, sent: list[str], nonce: int) -> Json | None:
        """Return the receipt of whichever was mined; None if none was in time."""
        until = time.monotonic() + self._prices.patience_s
        pause, used = 0.05, 0
        while time.monotonic() < until:
            for name in sent:
                if receipt := self._rpc.receipt(name):
                    return receipt
            used += self._nonce() > nonce  # a node may show the receipt a little later
            if used > _LOOKS:
                msg = "another transaction of this account took the place: try again"
                raise UnavailableError(msg, code="nonce-taken")
            self._sleep(pause)
            pause = min(1.5 * pause, 2.0)
        return None


def _succeeded(receipt: Json) -> Json:
    if receipt.get("status") != "0x1":
        name = str(receipt.get("transactionHash"))
        msg = f"transaction {name} failed in its block: the chain changed meanwhile"
        raise BackendError(msg, code="transaction-failed")
    return receipt


def _checksummed(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))
