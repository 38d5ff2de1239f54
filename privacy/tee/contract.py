"""Answers for contracts: the input is sealed to the enclave, the answer is public.

    input    as in `privacy.tee.seal`; inside, canonical JSON {"rows": [row], "salt"}.
             HPKE's `info` names chain and coordinator: who sealed it agreed to a
             public answer there, and the node cannot have a private input answered so
    order    canonical JSON {"question", "proven"}, from the node: the request, and the
             instances of a proof that the enclave is to sign beside, or none
    answer   canonical JSON {"instances", "signature"}

The enclave computes the commitment itself and signs (secp256k1, EIP-712) only an answer
to the input that the request names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from privacy.encoding import (
    Json,
    b64url_decode,
    canonical_json,
    pack,
    parse_canonical,
    unpack,
)
from privacy.errors import FormatError, VerificationError
from privacy.onchain import Question, Terms, input_blob, pack_words
from privacy.tee.kem import KemKey, KemPublicKey
from privacy.tee.seal import (
    Purpose,
    Rows,
    SealedInput,
    decrypt,
    float32_rows,
    parse_sealed,
    to_bytes,
)

SALT_BYTES = 32
SIGNATURE_BYTES = 64

_DOMAIN = "privacy-compute/tee/contract-input/2"
_FRAMES = 4
_CURVE = ec.SECP256K1()
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ContractAnswer:
    """What an enclave answered a contract.

    Attributes:
        instances: What describes the input, then the outputs.
        signature: r and s, s the lower one; 64 bytes.
    """

    instances: tuple[int, ...]
    signature: bytes


def seal_for_contract(
    row: Sequence[float],
    *,
    salt: bytes,
    key: KemPublicKey,
    purpose: Purpose,
    chain_id: int,
    coordinator: bytes,
) -> bytes:
    """Return one row sealed to an enclave, for a public answer on one chain.

    Args:
        row: Standardised features.
        salt: 32 random bytes, those that the commitment was made with.
        key: From evidence that was verified and appraised; see `kem.choose`.
        purpose: With that evidence's nonce, and a job that no other input has.
        chain_id: The chain (EIP-155).
        coordinator: The contract there that takes the request, 20 bytes.

    Raises:
        FormatError: The row or the salt is none.
    """
    rows = float32_rows([list(row)], columns=len(row))
    if len(salt) != SALT_BYTES:
        raise FormatError(f"the salt has {len(salt)} bytes, expected {SALT_BYTES}")
    info = purpose.info(_DOMAIN, kem=key.kem, **_place(chain_id, coordinator))
    return to_bytes(key, purpose, key.encrypt(input_blob(rows, salt), info))


def with_order(
    sealed: bytes, question: Question, *, proven: Sequence[int] = ()
) -> bytes:
    """Return a job's input: a sealed row, and what a contract asked about it.

    Raises:
        FormatError: It is no sealed input.
    """
    frames = unpack(sealed, what="sealed input", max_frames=_FRAMES)
    words = [pack_words([v]).hex() for v in proven]
    order = canonical_json({"question": question.as_dict(), "proven": words})
    made = pack([*frames, order])
    parse_sealed(made)
    return made


def parse_answer(raw: bytes) -> ContractAnswer:
    """Return what an enclave answered; nothing in it is verified.

    Raises:
        FormatError: It is no such answer.
    """
    value = parse_canonical(raw, what="answer", limit=_MAX_ANSWER_BYTES)
    if set(value) != {"instances", "signature"}:
        raise FormatError("the answer lacks or adds members")
    signature = _hex(value["signature"], SIGNATURE_BYTES)
    return ContractAnswer(_words(value["instances"]), signature)


class Answerer:
    """What answers contracts inside the enclave; its key never leaves."""

    def __init__(self, terms: Terms, run: Callable[[Rows], Rows]) -> None:
        """Make the key.

        Args:
            terms: Of the manifest that the enclave read itself.
            run: The model.
        """
        self._terms, self._run = terms, run
        self._key = ec.generate_private_key(_CURVE)

    @property
    def public_key(self) -> bytes:
        """The point's x and y, 64 bytes."""
        numbers = self._key.public_key().public_numbers()
        return pack_words([numbers.x, numbers.y])

    def answer(
        self, sealed: SealedInput, keys: Sequence[KemKey], *, model_sha256: str
    ) -> bytes:
        """Return the answer to an order, signed.

        Raises:
            FormatError: The input cannot be opened for this order, or is malformed.
            VerificationError: The request names another input, or the proof's instances
                are not of this model and input.
        """
        question, proven = _parse_order(sealed.order)
        row, salt = self._open(sealed, keys, question, model_sha256)
        described = self._terms.describe(row, salt)
        if self._terms.commitment(described) != question.commitment:
            msg = "the input is not the one that the request's commitment names"
            raise VerificationError(msg, code="input-mismatch")
        (outputs,) = self._run([row])
        if proven:
            self._terms.check_proven(proven, described, outputs)
        instances = proven or self._terms.instances(described, outputs)
        digest = question.digest(instances, proven=bool(proven))
        return canonical_json(
            {
                "instances": [pack_words([v]).hex() for v in instances],
                "signature": self._sign(digest).hex(),
            }
        )

    def _open(
        self,
        sealed: SealedInput,
        keys: Sequence[KemKey],
        question: Question,
        model_sha256: str,
    ) -> tuple[list[float], bytes]:
        columns = self._terms.columns
        plain = decrypt(
            sealed,
            keys,
            sealed.purpose(model_sha256),
            domain=_DOMAIN,
            columns=columns,
            **_place(question.chain_id, question.coordinator),
        )
        try:
            return _parse_inside(plain, columns=columns)
        except (FormatError, KeyError, ValueError):
            msg = f"the sealed input does not hold one row of {columns} and a salt"
            raise FormatError(msg, code="malformed-input") from None

    def _sign(self, digest: bytes) -> bytes:
        scheme = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        r, s = utils.decode_dss_signature(self._key.sign(digest, scheme))
        return pack_words([r, min(s, _ORDER - s)])


def _place(chain_id: int, coordinator: bytes) -> dict[str, object]:
    return {"chain_id": chain_id, "coordinator": coordinator.hex()}


def _parse_inside(plain: bytes, *, columns: int) -> tuple[list[float], bytes]:
    value = parse_canonical(plain, what="sealed input")
    (row,) = float32_rows(value["rows"], columns=columns)
    salt = b64url_decode(str(value["salt"]), what="salt")
    if set(value) != {"rows", "salt"} or len(salt) != SALT_BYTES:
        raise FormatError("the sealed input has other members than these")
    return row, salt


def _parse_order(raw: bytes) -> tuple[Question, tuple[int, ...]]:
    value: Json = parse_canonical(raw, what="order", limit=_MAX_ANSWER_BYTES)
    if set(value) != {"question", "proven"}:
        raise FormatError("the order lacks or adds members")
    return Question.from_dict(value["question"]), _words(value["proven"])


def _words(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise FormatError("the instances are no list")
    return tuple(int.from_bytes(_hex(text, 32), "big") for text in value)


def _hex(text: object, size: int) -> bytes:
    try:
        raw = bytes.fromhex(str(text))
    except ValueError:
        raw = b""
    if len(raw) != size or raw.hex() != text:
        raise FormatError(f"an answer's part is not {size} bytes in lowercase hex")
    return raw
