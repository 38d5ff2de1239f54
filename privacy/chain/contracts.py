"""Our contracts on a chain: ask them, and send them transactions."""

from dataclasses import dataclass
from typing import Any

from privacy.chain.abi import Abi, artifact
from privacy.chain.config import CONTRACTS, ChainConfig
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import Json
from privacy.errors import BackendError, CannotVerifyError

ZERO = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class OnChain:
    """One deployed contract."""

    rpc: Rpc
    address: str
    abi: Abi

    def view(self, function: str, *arguments: object, block: int | None = None) -> Any:
        """Return what a function answers at a block, the newest by default.

        Raises:
            Reverted: The contract refused.
            UnavailableError: The node is not there.
            FormatError: The answer is not the contract's: is the address right?
        """
        data = self.abi.call(function, *arguments)
        return self.abi.answer(function, self.rpc.call(self.address, data, block=block))

    def send(
        self, sender: Sender, function: str, *arguments: object, value: int = 0
    ) -> Json:
        """Return the receipt of a transaction that calls a function."""
        data = self.abi.call(function, *arguments)
        return sender.send(self.address, data, value=value)


def deploy(sender: Sender, rpc: Rpc, name: str, *arguments: object) -> OnChain:
    """Deploy one of our contracts."""
    made = artifact(name)
    address = deploy_code(sender, made.deployment(*arguments))
    return OnChain(rpc, address, made.abi)


def deploy_code(sender: Sender, init_code: bytes) -> str:
    """Deploy a contract and return its address."""
    receipt = sender.send(None, init_code)
    address = receipt.get("contractAddress")
    if not isinstance(address, str):
        raise BackendError("the chain's node names no address for the new contract")
    return address


def deploy_all(
    sender: Sender, rpc: Rpc, *, authority: str, confirmations: int, url: str
) -> ChainConfig:
    """Deploy all our contracts, and return the chain's configuration.

    Args:
        sender: Who pays.
        rpc: The chain's node.
        authority: Who vouches for enclaves.
        confirmations: See `ChainConfig`.
        url: The node's address, for the configuration.
    """
    registry = deploy(sender, rpc, "ModelRegistry").address
    proofs = deploy(sender, rpc, "ProofVerifier", registry).address
    attestations = deploy(sender, rpc, "AttestationVerifier", authority).address
    parts = (registry, proofs, attestations)
    coordinator = deploy(sender, rpc, "InferenceCoordinator", *parts).address
    subscriptions = deploy(sender, rpc, "SubscriptionManager", coordinator).address
    return ChainConfig(
        rpc=url,
        chain_id=rpc.chain_id(),
        confirmations=confirmations,
        contracts={
            "registry": registry,
            "proofs": proofs,
            "attestations": attestations,
            "coordinator": coordinator,
            "subscriptions": subscriptions,
        },
    )


def contract(rpc: Rpc, config: ChainConfig, name: str) -> OnChain:
    """Return one of a chain's contracts, by its name in the configuration."""
    return OnChain(rpc, config.contracts[name], artifact(CONTRACTS[name]).abi)


def check_chain(rpc: Rpc, config: ChainConfig) -> None:
    """Refuse a node of another chain.

    Raises:
        CannotVerifyError: It is one.
    """
    found = rpc.chain_id()
    if found != config.chain_id:
        msg = (
            f"the node is of chain {found}, the contracts are on chain "
            f"{config.chain_id}: give the address of a node of that chain"
        )
        raise CannotVerifyError(msg, code="wrong-chain")
