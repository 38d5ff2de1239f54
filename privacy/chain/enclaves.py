"""Enclaves that answer contracts: vouched for by the authority, known by their key.

The authority verifies an enclave's evidence as a data owner does: the quote to the
vendor's root, fresh for its nonce, the measurements of the bundle, the key in the
report data. The chain then holds the key, the model, and the digest of the attestation
result, which the authority keeps.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from privacy.bundle import Bundle
from privacy.chain.config import ChainConfig
from privacy.chain.contracts import contract
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import canonical_json, sha256_hex
from privacy.errors import (
    FormatError,
    NotFoundError,
    VerificationError,
)
from privacy.files import write_atomic
from privacy.keccak import keccak
from privacy.modes import Mode
from privacy.onchain import Question, terms_of
from privacy.tee.client import check_evidence
from privacy.tee.contract import ContractAnswer
from privacy.tee.evidence import parse_evidence

FORMAT = "privacy-compute/enclave-attestation/1"
_ADDRESS_BYTES = 20


@dataclass(frozen=True, slots=True)
class Attested:
    """An enclave whose evidence was accepted.

    Attributes:
        address: Of the key that it signs answers with.
        model_sha256: The model digest, which its evidence covers.
        simulated: The evidence proves nothing.
        result: What the authority keeps, canonical JSON; its SHA-256 goes on chain.
    """

    address: str
    model_sha256: str
    simulated: bool
    result: bytes


@dataclass(frozen=True, slots=True)
class Vouched:
    """An enclave as the chain knows it; `expires` is Unix time."""

    address: str
    expires: int
    simulated: bool
    result_sha256: str
    path: Path


def attest_enclave(
    bundle: Bundle,
    evidence: bytes,
    *,
    nonce: bytes,
    now: datetime,
    allow_simulated: bool = False,
) -> Attested:
    """Return the enclave behind evidence, if it is one of a model and genuine.

    Args:
        bundle: The model; its manifest says what must be measured.
        evidence: From the node.
        nonce: What the evidence was asked for with.
        now: When certificates must be valid, with a time zone.
        allow_simulated: Accept evidence that proves nothing.

    Raises:
        FormatError: The evidence is malformed.
        VerificationError: It is not genuine, is of something else, or of an enclave
            that answers no contracts.
    """
    found = check_evidence(
        evidence,
        nonce=nonce,
        reference=bundle.manifest.mode(Mode.TEE).params["measurements"],
        model_sha256=bundle.sha256,
        now=now,
        allow_simulated=allow_simulated,
    )
    key = parse_evidence(evidence).chain_public_key
    if not key:
        msg = "the enclave has no key for contracts: start it from a whole bundle"
        raise VerificationError(msg, code="no-chain-key")
    address = address_of(key)
    kept = {
        "format": FORMAT,
        "address": address,
        "model_sha256": bundle.sha256,
        "evidence_sha256": sha256_hex(evidence),
        "nonce": nonce.hex(),
        "result": found.as_dict(),
    }
    return Attested(address, bundle.sha256, found.simulated, canonical_json(kept))


def vouch(  # noqa: PLR0913 - who, where, what, and for how long
    sender: Sender,
    rpc: Rpc,
    config: ChainConfig,
    model_id: bytes,
    bundle: Bundle,
    attested: Attested,
    *,
    valid_s: int,
    folder: Path,
) -> Vouched:
    """Register an enclave's key, as the authority, and keep why.

    Args:
        sender: The authority.
        rpc: The chain's node.
        config: The chain.
        model_id: The one model that the enclave serves.
        bundle: That model.
        attested: The enclave.
        valid_s: Seconds until the key is worth nothing.
        folder: `attestations/ADDRESS.json` is written there.

    Raises:
        VerificationError: What is registered under that id is not this bundle.
        Reverted: The caller is not the authority, or the key is known already.
    """
    check_registered(rpc, config, model_id, bundle)
    path = folder / "attestations" / f"{attested.address}.json"
    write_atomic(path, attested.result, private=True)
    digest = sha256_hex(attested.result)
    expires = rpc.latest()["timestamp"] + valid_s
    arguments = (attested.address, model_id, bytes.fromhex(digest), expires)
    attestations = contract(rpc, config, "attestations")
    attestations.send(sender, "register", *arguments, attested.simulated)
    return Vouched(attested.address, expires, attested.simulated, digest, path)


def revoke(sender: Sender, rpc: Rpc, config: ChainConfig, address: str) -> None:
    """Withdraw an enclave's key for good, as the authority.

    Raises:
        FormatError: The address is none.
        Reverted: The caller is not the authority, or the key is unknown.
    """
    contract(rpc, config, "attestations").send(sender, "revoke", address)


def check_registered(
    rpc: Rpc, config: ChainConfig, model_id: bytes, bundle: Bundle
) -> None:
    """Compare what the registry says of a model with its bundle.

    Raises:
        VerificationError: The publisher registered something else.
        Reverted: The registry has no such model, or not any more.
    """
    model = contract(rpc, config, "registry").view("get", model_id)
    terms = terms_of(bundle.manifest)
    names = ("manifestDigest", "inputs", "outputs", "outputScale", "inputKind")
    found = [model[name] for name in names]
    expected = [
        bytes.fromhex(bundle.sha256),
        terms.inputs,
        terms.outputs,
        terms.output_bits,
        terms.input_kind,
    ]
    if found != expected:
        odd = [n for n, a, b in zip(names, found, expected, strict=True) if a != b]
        msg = (
            f"the registered model differs from {bundle.manifest.name} in "
            f"{', '.join(odd)}: another bundle, or a publisher's false statement"
        )
        raise VerificationError(msg, code="model-mismatch")


def recoverable(
    rpc: Rpc,
    config: ChainConfig,
    question: Question,
    answer: ContractAnswer,
    *,
    proven: bool,
) -> bytes:
    """Return an enclave's signature as contracts take it, 65 bytes.

    A signature fits two keys; the one that the chain knows is meant.

    Raises:
        NotFoundError: The chain knows neither: the authority has yet to vouch.
    """
    attestations = contract(rpc, config, "attestations")
    digest = question.digest(answer.instances, proven=proven)
    for parity, address in enumerate(_signers(digest, answer)):
        if attestations.view("enclaves", address)[2]:  # when it expires
            return answer.signature + bytes([27 + parity])
    msg = (
        "nobody vouched for the enclave that answered: run `privacy chain vouch`, as "
        "the authority"
    )
    raise NotFoundError(msg, code="enclave-unknown")


def address_of(public_key: bytes) -> str:
    """Return the address of a key's x and y."""
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(keccak(public_key)[-_ADDRESS_BYTES:]))


def _signers(digest: bytes, answer: ContractAnswer) -> list[str]:
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError

    half = len(answer.signature) // 2
    r = int.from_bytes(answer.signature[:half], "big")
    s = int.from_bytes(answer.signature[half:], "big")
    try:
        return [
            address_of(
                Signature(vrs=(v, r, s))
                .recover_public_key_from_msg_hash(digest)
                .to_bytes()
            )
            for v in (0, 1)
        ]
    except (BadSignature, ValidationError) as exc:
        raise FormatError("the enclave's signature is none") from exc
