"""An EVM in this process: what a contract answers and costs, without any chain."""

import re
from collections.abc import Sequence
from typing import Any

from privacy.errors import BackendError
from privacy.zkml.blobs import Proof
from privacy.zkml.evm.calldata import (
    chain_missing,
    keccak,
    plain_calldata,
    register_calldata,
    reusable_calldata,
)

_SENDER = "0x" + "11" * 20
_BALANCE = 10**24
_WORD = 32


class Reverted(BackendError):  # noqa: N818 - it says what happened
    """The contract refused a call."""

    default_code = "reverted"


class LocalEvm:
    """A fresh chain with one funded account; see revm."""

    def __init__(self) -> None:
        """Start an empty chain.

        Raises:
            UnavailableError: The extra `chain` is not installed.
        """
        try:
            from pyrevm import EVM
        except ImportError as exc:
            raise chain_missing() from exc
        self._evm: Any = EVM(spec_id="CANCUN")
        self._evm.set_balance(_SENDER, _BALANCE)

    def deploy(self, init_code: bytes) -> tuple[str, int]:
        """Return a contract's address and the gas that deploying it took."""
        try:
            address = self._evm.deploy(_SENDER, init_code)
        except RuntimeError as exc:
            raise Reverted(f"deploying failed: {_brief(exc)}") from exc
        return str(address), int(self._evm.result.gas_used)

    def code_hash(self, address: str) -> bytes:
        """Return the keccak-256 of what lies at an address."""
        return bytes(self._evm.basic(address).code_hash)

    def call(self, address: str, calldata: bytes) -> tuple[bytes, int]:
        """Return a transaction's answer and gas, that of its calldata included.

        Raises:
            Reverted: The contract refused.
        """
        try:
            answer = self._evm.message_call(_SENDER, address, calldata=calldata)
        except RuntimeError as exc:
            raise Reverted(f"the call was refused: {_brief(exc)}") from exc
        return bytes(answer), int(self._evm.result.gas_used)


def check_plain(evm: LocalEvm, address: str, proof: Proof) -> int:
    """Return the gas of checking a proof with a plain verifier.

    Raises:
        Reverted: The proof does not hold.
        BackendError: The verifier answered something else than true.
    """
    answer, gas = evm.call(address, plain_calldata(proof))
    if answer != (1).to_bytes(_WORD, "big"):
        raise BackendError("the verifier contract gave an answer that is not true")
    return gas


def check_reusable(
    evm: LocalEvm, address: str, proof: Proof, vka: Sequence[bytes]
) -> int:
    """Return the gas of checking a proof with the reusable verifier.

    The artifact must be registered there. What comes back is no valid ABI encoding: a
    word that is 1, the artifact's digest, then numbers that we do not use.

    Raises:
        Reverted: The proof does not hold, or the artifact is not registered.
        BackendError: The verifier answered something else than true.
    """
    answer, gas = evm.call(address, reusable_calldata(proof, vka))
    expected = (1).to_bytes(_WORD, "big") + keccak(b"".join(vka))
    if answer[: 2 * _WORD] != expected:
        raise BackendError("the verifier contract gave an answer that is not true")
    return gas


def register(evm: LocalEvm, address: str, vka: Sequence[bytes]) -> int:
    """Return the gas of making an artifact known to the reusable verifier."""
    answer, gas = evm.call(address, register_calldata(vka))
    if answer != keccak(b"".join(vka)):
        raise BackendError("the reusable verifier registered another artifact")
    return gas


def _brief(exc: Exception) -> str:
    return re.sub(r"0x[0-9a-fA-F]{64,}", "0x…", str(exc))[:200]
