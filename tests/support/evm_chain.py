"""A chain in this process (revm), with our contracts, accounts and a clock."""

import re
from dataclasses import dataclass
from typing import Any

from pyrevm import EVM, BlockEnv

from privacy.chain.abi import Abi, Event, artifact, errors_of_all

ETHER = 10**18


@dataclass
class Contract:
    """A deployed contract: `call` sends a transaction, `view` only asks."""

    chain: "EvmChain"
    address: str
    abi: Abi

    def call(self, function: str, *arguments: Any, sender: str = "", **how: Any) -> Any:
        data = self.abi.call(function, *arguments)
        raw = self.chain.send(sender, self.address, data, **how)
        return self.abi.answer(function, raw)

    def view(self, function: str, *arguments: Any) -> Any:
        data = self.abi.call(function, *arguments)
        return self.abi.answer(function, self.chain.ask(self.address, data))


class EvmChain:
    """Accounts are plain addresses; what a transaction logged is in `events`."""

    def __init__(self) -> None:
        self.evm = EVM(spec_id="CANCUN")
        self.now = 1_700_000_000
        self._contracts: dict[str, Abi] = {}
        self.accounts = [f"0x{i:02x}" + "ee" * 19 for i in range(1, 9)]
        for account in self.accounts:
            self.evm.set_balance(account, 10_000 * ETHER)
        self.gas = 0
        self.events: list[tuple[str, Event]] = []
        self.pass_time(0)

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        block = BlockEnv(number=1 + self.now, timestamp=self.now, prevrandao=b"\0" * 32)
        self.evm.set_block_env(block)

    def deploy(
        self, name: str, *arguments: Any, sender: str = "", value: int = 0
    ) -> Contract:
        made = artifact(name)
        code = made.deployment(*arguments)
        return self.deploy_code(code, made.abi, sender=sender, value=value)

    def deploy_code(
        self, code: bytes, abi: Abi, *, sender: str = "", value: int = 0
    ) -> Contract:
        who = sender or self.accounts[0]
        try:
            address = self.evm.deploy(who, code, value or None)
        except RuntimeError as exc:
            raise _refusal(exc) from exc
        self.gas = self.evm.result.gas_used
        self._contracts[address.lower()] = abi
        return Contract(self, address, abi)

    def code_hash(self, address: str) -> bytes:
        return bytes(self.evm.basic(address).code_hash)

    def balance(self, address: str) -> int:
        return int(self.evm.get_balance(address))

    def send(
        self, sender: str, to: str, data: bytes, *, value: int = 0, gas: int = 0
    ) -> bytes:
        who = sender or self.accounts[0]
        try:
            raw = self.evm.message_call(
                who, to, calldata=data, value=value or None, gas=gas or 30_000_000
            )
        except RuntimeError as exc:
            raise _refusal(exc) from exc
        self.gas = self.evm.result.gas_used
        self.events = []
        for log in self.evm.result.logs:
            known = self._contracts.get(log.address.lower())
            topics = [bytes.fromhex(t.removeprefix("0x")) for t in log.topics]
            event = known and known.event(topics, bytes(log.data[1]))
            if event:
                self.events.append((log.address.lower(), event))
        return bytes(raw)

    def ask(self, to: str, data: bytes) -> bytes:
        try:
            return bytes(
                self.evm.message_call(
                    self.accounts[0], to, calldata=data, is_static=True
                )
            )
        except RuntimeError as exc:
            raise _refusal(exc) from exc

    def logged(self, name: str) -> list[dict[str, Any]]:
        return [event.values for _, event in self.events if event.name == name]


def _refusal(exc: Exception) -> Exception:
    found = re.search(r"output: 0x([0-9a-fA-F]*)", str(exc))
    return errors_of_all().error(bytes.fromhex(found[1] if found else ""))
