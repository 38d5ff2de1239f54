"""A development chain as a process of its own, and what only such a chain can do."""

import subprocess
from typing import Any, Self

from privacy.chain.account import Signer, eth_account
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Prices, Sender
from privacy.errors import UnavailableError
from privacy.zkml.evm.solc import find_anvil
from tests.support.live_gateway import free_port, wait_until

ETHER = 10**18


class Anvil:
    """`with Anvil() as chain:`; blocks are mined as transactions come."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self.rpc = Rpc(self.url)
        self.chain_id = 31337

    def __enter__(self) -> Self:
        command = [str(find_anvil()), "--port", str(self.port), "--silent"]
        self._process = subprocess.Popen(
            [*command, *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, seconds=30, what="anvil never answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.rpc.close()

    def _answers(self) -> bool:
        try:
            return self.rpc.chain_id() == self.chain_id
        except UnavailableError:
            return False

    def account(self, number: int, *, ether: int = 1000) -> Signer:
        signer = Signer(eth_account().from_key(number.to_bytes(32, "big")))
        self.rpc.ask("anvil_setBalance", signer.address, hex(ether * ETHER))
        return signer

    def sender(self, number: int, *, rpc: Rpc | None = None, **prices: Any) -> Sender:
        chosen = Prices(**{"patience_s": 5.0, **prices})
        signer = self.account(number)
        return Sender(rpc or self.rpc, signer, chain_id=self.chain_id, prices=chosen)

    def mine(self, blocks: int = 1) -> None:
        self.rpc.ask("anvil_mine", hex(blocks))

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by as many empty ones."""
        self.rpc.ask("anvil_reorg", depth, [])

    def automine(self, *, on: bool) -> None:
        self.rpc.ask("evm_setAutomine", on)

    def pass_time(self, seconds: int) -> None:
        self.rpc.ask("evm_increaseTime", hex(seconds))
        self.mine()

    def base_fee(self, gwei: int) -> None:
        self.rpc.ask("anvil_setNextBlockBaseFeePerGas", hex(gwei * 10**9))
        self.mine()

    def pending(self) -> list[str]:
        content = self.rpc.ask("txpool_content")["pending"]
        return [t["hash"] for by_nonce in content.values() for t in by_nonce.values()]
