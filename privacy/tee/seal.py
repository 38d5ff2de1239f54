"""Sealing between data owner and enclave: HPKE; see `privacy.tee.kem` for the suites.

    input    pack([key id, nonce, job, HPKE ciphertext]); inside, canonical JSON
             {"reply_key", "rows", "salt"}
    answer   32 random bytes, and an AES-256-GCM ciphertext; inside, canonical JSON
             {"outputs", "proofs"}

Salt and proofs are empty but in mode tee+zkml, where the salt is what the proofs
commit to beside the rows, and the proofs are a text of `privacy.zkml.blobs`.

`key id` names the enclave's key and its encapsulation. The reply key is 32 random bytes
that this input alone holds; HKDF-SHA256 derives the answer's key and nonce from it and
the answer's random bytes, as in Oblivious HTTP (RFC 9458, section 4.4). `job` is 32
random bytes, the data owner's name for the job: the gateway's own name for it does not
exist yet. An input for a contract has the order as a fifth frame; see
`privacy.tee.contract`.

HPKE's `info` binds encapsulation, mode, model, nonce and job, and the answer's `info`
the sealed input instead of the encapsulation, so that nothing can be replayed against
another model, attestation or job. HPKE's base mode does not say who
sealed: that the enclave made the answer follows from its signed statement, not from the
sealing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.encoding import (
    b64url,
    b64url_decode,
    canonical_json,
    finite_rows,
    pack,
    parse_canonical,
    sha256_hex,
    unpack,
)
from privacy.errors import FormatError, VerificationError
from privacy.modes import Mode
from privacy.runs import MAX_ROWS
from privacy.tee.evidence import JOB_BYTES, check_nonce
from privacy.tee.kem import KEY_ID_BYTES, KemKey, KemPublicKey

MAX_SEALED_BYTES = 1 << 26
REPLY_KEY_BYTES = 32

_INPUT_DOMAIN = "privacy-compute/tee/input/3"
_ANSWER_DOMAIN = "privacy-compute/tee/answer/3"
_FRAMES = 4
_SALT_BYTES = 32
_AES_KEY_BYTES, _AES_NONCE_BYTES = 32, 12
_MAX_NUMBER_BYTES = 26  # the longest canonical number, and a comma
_MAX_FRAME_BYTES = 4096  # reply key, member names, brackets, and HPKE's own
_FLOAT32_MAX = 3.4028234663852886e38

Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class Purpose:
    """What an input is sealed for, and its answer.

    Attributes:
        model_sha256: The model digest.
        nonce: The nonce of the attestation that showed the enclave's key.
        job: The data owner's name for the job, 32 random bytes.
        mode: How the job is to be answered.
    """

    model_sha256: str
    nonce: bytes
    job: bytes
    mode: str = Mode.TEE.value

    def info(self, domain: str, **more: object) -> bytes:
        """Return what a ciphertext is bound to."""
        return canonical_json(
            {
                "domain": domain,
                "mode": self.mode,
                "model_sha256": self.model_sha256,
                "nonce": b64url(self.nonce),
                "job": b64url(self.job),
                **more,
            }
        )


@dataclass(frozen=True, slots=True)
class SealedInput:
    """A sealed input, taken apart.

    Attributes:
        key_id: Names the HPKE public key that it is sealed to.
        nonce: The nonce of the attestation that showed this key.
        job: The data owner's name for the job.
        order: What a contract asked, from the node; empty for a private answer.
    """

    key_id: bytes
    nonce: bytes
    job: bytes
    ciphertext: bytes
    sha256: str
    order: bytes = b""

    def purpose(self, model_sha256: str, *, mode: str = Mode.TEE.value) -> Purpose:
        """Return what it would be sealed for if it were for this model and mode."""
        return Purpose(model_sha256, self.nonce, self.job, mode)


def parse_sealed(raw: bytes) -> SealedInput:
    """Return a sealed input, taken apart.

    Raises:
        FormatError: It is not one.
    """
    if len(raw) > MAX_SEALED_BYTES:
        msg = f"the sealed input has {len(raw)} bytes, at most {MAX_SEALED_BYTES}"
        raise FormatError(msg, code="too-large")
    frames = unpack(raw, what="sealed input", max_frames=_FRAMES + 1)
    sizes = [len(frame) for frame in frames[:_FRAMES:2]]
    if len(frames) not in {_FRAMES, _FRAMES + 1} or sizes != [KEY_ID_BYTES, JOB_BYTES]:
        raise FormatError("the sealed input is not key id, nonce, job and ciphertext")
    key_id, nonce, job, ciphertext, *order = frames
    if order == [b""]:
        raise FormatError("the sealed input ends with an empty order")
    return SealedInput(
        key_id, check_nonce(nonce), job, ciphertext, sha256_hex(raw), b"".join(order)
    )


def seal_input(
    rows: object,
    *,
    columns: int,
    key: KemPublicKey,
    purpose: Purpose,
    reply_key: bytes,
    salt: bytes = b"",
) -> bytes:
    """Return rows sealed to an enclave.

    Args:
        rows: Standardised features, a list of rows of `columns` finite numbers.
        columns: How many features the model takes.
        key: From evidence that was verified and appraised; see `kem.choose`.
        purpose: With that evidence's nonce, and a job that no other input has.
        reply_key: What the answer is sealed with: 32 random bytes, fresh for every
            input.
        salt: 32 random bytes in mode tee+zkml, else none.

    Raises:
        FormatError: The rows are not such rows, or the enclave's key is unusable.
    """
    checked = float32_rows(rows, columns=columns)
    inside = {
        "reply_key": b64url(_check_reply_key(reply_key)),
        "rows": checked,
        "salt": b64url(_check_salt(salt, purpose)),
    }
    ciphertext = key.encrypt(
        canonical_json(inside), purpose.info(_INPUT_DOMAIN, kem=key.kem)
    )
    return to_bytes(key, purpose, ciphertext)


def to_bytes(key: KemPublicKey, purpose: Purpose, ciphertext: bytes) -> bytes:
    """Return a sealed input as it travels."""
    return pack([key.id, purpose.nonce, purpose.job, ciphertext])


def open_input(
    sealed: SealedInput,
    keys: Sequence[KemKey],
    purpose: Purpose,
    *,
    columns: int,
) -> tuple[Rows, bytes, bytes]:
    """Return rows, reply key and salt inside a sealed input, in the enclave.

    Raises:
        FormatError: Sealed to another key ("enclave-gone"); for another purpose, or
            changed ("unsealable"); or its inside is malformed. Messages say nothing
            about what is inside: the node's operator reads them.
    """
    plain = decrypt(sealed, keys, purpose, domain=_INPUT_DOMAIN, columns=columns)
    try:
        rows, reply_key, salt = _parse_inside(plain, columns=columns)
        return rows, reply_key, _check_salt(salt, purpose)
    except (FormatError, ValueError):
        msg = (
            f"the sealed input does not hold a reply key and up to {MAX_ROWS} rows "
            f"of {columns} finite numbers"
        )
        raise FormatError(msg, code="malformed-input") from None


def decrypt(
    sealed: SealedInput,
    keys: Sequence[KemKey],
    purpose: Purpose,
    *,
    domain: str,
    columns: int,
    **more: object,
) -> bytes:
    """Return what is inside a sealed input, in the enclave.

    Args:
        sealed: The input.
        keys: The enclave's own.
        purpose: What the enclave takes it for.
        domain: Of this kind of input.
        columns: How many features the model takes.
        more: What this kind of input binds besides.

    Raises:
        FormatError: See `open_input`.
    """
    key = next((key for key in keys if key.public.id == sealed.key_id), None)
    if key is None:
        msg = (
            "the input is sealed to an enclave that is gone: "
            "ask for new evidence and seal again"
        )
        raise FormatError(msg, code="enclave-gone")
    most = MAX_ROWS * (columns * _MAX_NUMBER_BYTES + 2) + _MAX_FRAME_BYTES
    if len(sealed.ciphertext) > most:  # parsed JSON is many times larger
        msg = f"the sealed input has more bytes than {MAX_ROWS} rows of {columns} need"
        raise FormatError(msg, code="malformed-input")
    info = purpose.info(domain, kem=key.public.kem, **more)
    try:
        return key.decrypt(sealed.ciphertext, info)
    except VerificationError as exc:
        msg = "the sealed input cannot be opened: seal it again for this model"
        raise FormatError(msg, code="unsealable") from exc


def seal_answer(
    outputs: Rows,
    *,
    reply_key: bytes,
    purpose: Purpose,
    input_sha256: str,
    proofs: bytes = b"",
) -> bytes:
    """Return raw outputs, and proofs if there are any, sealed with the reply key.

    Raises:
        FormatError: An output is not finite.
    """
    inside = canonical_json({"outputs": outputs, "proofs": proofs.decode("ascii")})
    once = secrets.token_bytes(REPLY_KEY_BYTES)
    cipher, nonce = _answer_cipher(reply_key, once, purpose, input_sha256)
    return once + cipher.encrypt(nonce, inside, None)


def open_answer(
    answer: bytes, reply_key: bytes, *, purpose: Purpose, input_sha256: str
) -> tuple[Rows, bytes]:
    """Return the raw outputs in an answer, one row for each row sealed, and proofs.

    Raises:
        VerificationError: It was changed, or answers something else.
        FormatError: Its inside is malformed.
    """
    once, ciphertext = answer[:REPLY_KEY_BYTES], answer[REPLY_KEY_BYTES:]
    cipher, nonce = _answer_cipher(reply_key, once, purpose, input_sha256)
    try:
        plain = cipher.decrypt(nonce, ciphertext, None)
    except InvalidTag as exc:
        msg = "the answer cannot be opened: it was changed, or answers another input"
        raise VerificationError(msg, code="unsealable") from exc
    value = parse_canonical(plain, what="answer")
    outputs = value.get("outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    width = len(first) if isinstance(first, list) else 0
    proofs = value.get("proofs")
    if set(value) != {"outputs", "proofs"} or not width or not isinstance(proofs, str):
        raise FormatError("the answer holds no outputs, or no text of proofs")
    return finite_rows(outputs, columns=width, max_rows=MAX_ROWS), proofs.encode()


def _check_salt(salt: bytes, purpose: Purpose) -> bytes:
    expected = _SALT_BYTES if purpose.mode == Mode.TEE_ZKML else 0
    if len(salt) != expected:
        msg = f"mode {purpose.mode} takes {expected} bytes of salt, not {len(salt)}"
        raise FormatError(msg, code="bad-salt")
    return salt


def _check_reply_key(reply_key: bytes) -> bytes:
    if len(reply_key) != REPLY_KEY_BYTES:
        msg = f"the reply key has {len(reply_key)} bytes, expected {REPLY_KEY_BYTES}"
        raise FormatError(msg)
    return reply_key


def _parse_inside(plain: bytes, *, columns: int) -> tuple[Rows, bytes, bytes]:
    value = parse_canonical(plain, what="sealed input")
    if set(value) != {"reply_key", "rows", "salt"}:
        raise FormatError("the sealed input has other members than these")
    reply_key = b64url_decode(str(value["reply_key"]), what="reply key")
    salt = b64url_decode(str(value["salt"]), what="salt")
    rows = float32_rows(value["rows"], columns=columns)
    return rows, _check_reply_key(reply_key), salt


def float32_rows(rows: object, *, columns: int) -> Rows:
    """Return rows that the engine can take.

    Raises:
        FormatError: They are not such rows.
    """
    checked = finite_rows(rows, columns=columns, max_rows=MAX_ROWS)
    if any(abs(x) > _FLOAT32_MAX for row in checked for x in row):
        raise FormatError("a feature does not fit a 32-bit float", code="not-finite")
    return checked


def _answer_cipher(
    reply_key: bytes, once: bytes, purpose: Purpose, input_sha256: str
) -> tuple[AESGCM, bytes]:
    """Return the cipher of one answer, and its nonce."""
    derived = HKDF(
        SHA256(),
        length=_AES_KEY_BYTES + _AES_NONCE_BYTES,
        salt=once,
        info=purpose.info(_ANSWER_DOMAIN, input_sha256=input_sha256),
    ).derive(reply_key)
    return AESGCM(derived[:_AES_KEY_BYTES]), derived[_AES_KEY_BYTES:]
