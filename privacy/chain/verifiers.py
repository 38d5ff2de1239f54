"""EZKL's verifier contracts alone, for apps that need none of our contracts.

    address = deploy_verifier(sender, Path("verifier"))
    verify_call(rpc, address, proof)              # free: an eth_call
    gas = estimate_verify(rpc, address, proof)

For web3.py and others, `privacy.zkml.evm` gives the calldata; a plain verifier answers
with the word 1, the reusable one with 1 and the artifact's digest, and both revert for
a bad proof. What such a call does not check: see docs/smart-contracts.md.
"""

from collections.abc import Sequence
from pathlib import Path

from privacy.chain.abi import Reverted
from privacy.chain.contracts import deploy_code
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import sha256_hex
from privacy.errors import CannotVerifyError, VerificationError
from privacy.zkml.blobs import Proof
from privacy.zkml.evm import (
    parse_vka,
    plain_calldata,
    read_facts,
    register_calldata,
    reusable_calldata,
    vka_digest,
)
from privacy.zkml.evm.facts import EvmFacts

_ONE = (1).to_bytes(32, "big")


def chosen_code(folder: Path) -> tuple[EvmFacts, bytes]:
    """Return what `privacy zk solidity` wrote: the facts, and the chosen init code.

    Raises:
        FormatError: It wrote nothing there.
        VerificationError: The code was changed since.
    """
    facts = read_facts(folder)
    chosen = facts.plain if facts.chosen == "plain" else facts.reusable
    init_code = (folder / f"{facts.chosen}.bin").read_bytes()
    if sha256_hex(init_code) != chosen.init_code_sha256:
        msg = f"{facts.chosen}.bin was changed: run `privacy zk solidity` again"
        raise VerificationError(msg, code="verifier-changed")
    return facts, init_code


def artifact_words(folder: Path) -> list[bytes]:
    """Return the words of a model's artifact for the reusable verifier."""
    return parse_vka((folder / "vka.bin").read_bytes())


def deploy_verifier(sender: Sender, folder: Path) -> str:
    """Deploy a model's verifier, register its artifact if it is a reusable one.

    Args:
        sender: Who pays.
        folder: What `privacy zk solidity` wrote.

    Returns:
        The contract's address.

    Raises:
        VerificationError: The code was changed.
        Reverted: The chain refused.
    """
    facts, init_code = chosen_code(folder)
    address = deploy_code(sender, init_code)
    if facts.chosen == "reusable":
        sender.send(address, register_calldata(artifact_words(folder)))
    return address


def verify_call(
    rpc: Rpc, address: str, proof: Proof, *, vka: Sequence[bytes] = ()
) -> None:
    """Have a verifier contract check a proof, without a transaction.

    Args:
        rpc: The chain's node.
        address: The verifier.
        proof: The proof and its instances.
        vka: The model's artifact, for a reusable verifier.

    Raises:
        VerificationError: The contract refuses the proof.
        CannotVerifyError: What is there is no such verifier.
    """
    try:
        answer = rpc.call(address, _calldata(proof, vka))
    except Reverted as exc:
        msg = "the verifier contract refuses the proof"
        raise VerificationError(msg, code="proof-invalid") from exc
    expected = _ONE + vka_digest(vka) if vka else _ONE
    if answer[: len(expected)] != expected or (not vka and len(answer) != len(_ONE)):
        msg = f"{address} answered {len(answer)} bytes that no verifier of EZKL does"
        raise CannotVerifyError(msg, code="no-verifier")


def estimate_verify(
    rpc: Rpc, address: str, proof: Proof, *, vka: Sequence[bytes] = ()
) -> int:
    """Return the gas of a transaction that checks a proof, as the node estimates it.

    Raises:
        Reverted: The contract refuses the proof.
    """
    asked = {"to": address, "data": "0x" + _calldata(proof, vka).hex()}
    return rpc.number("eth_estimateGas", asked)


def _calldata(proof: Proof, vka: Sequence[bytes]) -> bytes:
    return reusable_calldata(proof, vka) if vka else plain_calldata(proof)
