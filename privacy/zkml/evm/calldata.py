"""What a verifier contract is sent, byte for byte.

    plain       verifyProof(bytes proof, uint256[] instances)
    reusable    verifyProof(bytes proof, uint256[] instances, bytes32[] vka)

The encoding is the canonical one of the contract ABI: EZKL's verifiers read proofs at
fixed places and accept trailing bytes, so any other encoding is for attackers.
"""

from collections.abc import Sequence

from privacy.errors import FormatError, UnavailableError
from privacy.zkml.blobs import Proof

_WORD = 32
_MAX_VKA_WORDS = 1 << 14


def plain_calldata(proof: Proof) -> bytes:
    """Return the call that has a plain verifier check a proof."""
    return call_data("verifyProof(bytes,uint256[])", proof.proof, list(proof.instances))


def reusable_calldata(proof: Proof, vka: Sequence[bytes]) -> bytes:
    """Return the call that has the reusable verifier check a proof."""
    signature = "verifyProof(bytes,uint256[],bytes32[])"
    return call_data(signature, proof.proof, list(proof.instances), list(vka))


def register_calldata(vka: Sequence[bytes]) -> bytes:
    """Return the call that makes an artifact known to the reusable verifier."""
    return call_data("registerVka(bytes32[])", list(vka))


def parse_vka(raw: bytes) -> list[bytes]:
    """Return the words of a verifying-key artifact as EZKL writes it.

    Raises:
        FormatError: Not a little-endian 8-byte count and as many words of 32 bytes.
    """
    count = int.from_bytes(raw[:8], "little")
    if not 0 < count <= _MAX_VKA_WORDS or len(raw) != 8 + count * _WORD:
        msg = (
            f"the verifying key's artifact has {len(raw)} bytes and claims {count} "
            "words: it is truncated or of another version of EZKL"
        )
        raise FormatError(msg)
    return [raw[8 + i * _WORD : 8 + (i + 1) * _WORD] for i in range(count)]


def vka_digest(vka: Sequence[bytes]) -> bytes:
    """Return the keccak-256 that names an artifact on chain."""
    return keccak(b"".join(vka))


def keccak(raw: bytes) -> bytes:
    """Return the keccak-256 of some bytes, as the EVM computes it.

    Raises:
        UnavailableError: The extra `chain` is not installed.
    """
    try:
        from eth_hash.auto import keccak as hashed
    except ImportError as exc:
        raise chain_missing() from exc
    return bytes(hashed(raw))


def call_data(signature: str, *arguments: object) -> bytes:
    """Return the call of a function, its arguments encoded by the contract ABI.

    Args:
        signature: Such as `balanceOf(address)`.
        arguments: One for each type.

    Raises:
        UnavailableError: The extra `chain` is not installed.
        FormatError: An argument does not fit its type.
    """
    try:
        from eth_abi.abi import encode
        from eth_abi.exceptions import EncodingError
        from eth_abi.grammar import parse
    except ImportError as exc:
        raise chain_missing() from exc
    name, _, rest = signature.partition("(")
    types = parse(f"({rest}")
    try:
        body = encode([c.to_type_str() for c in types.components], arguments)
    except (EncodingError, TypeError, ValueError) as exc:
        msg = f"an argument of {name} does not fit {rest.rstrip(')')}"
        raise FormatError(msg) from exc
    return keccak(signature.encode())[:4] + body


def chain_missing() -> UnavailableError:
    """Return the error that names the extra to install."""
    msg = "the tools for contracts are missing: pip install 'privacy-compute[chain]'"
    return UnavailableError(msg, code="engine-missing")
