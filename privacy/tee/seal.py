"""Sealing between data owner and enclave: HPKE, X25519, HKDF-SHA256, AES-256-GCM.

    input    pack([enclave's public key, nonce, HPKE ciphertext]); inside, canonical
             JSON {"reply_key", "rows"}
    answer   HPKE ciphertext to the reply key; inside, canonical JSON {"outputs"}

An input for a contract has the order as a fourth frame; see `privacy.tee.contract`.

HPKE's `info` binds the model and the nonce, and for the answer the sealed input, so
that nothing can be replayed against another model, attestation or job. HPKE's base
mode does not say who sealed: that the enclave made the answer follows from its signed
statement, not from the sealing.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from privacy.encoding import (
    Json,
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
from privacy.runs import MAX_ROWS
from privacy.tee.evidence import KEY_BYTES, check_nonce

MAX_SEALED_BYTES = 1 << 26

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INPUT_DOMAIN = "privacy-compute/tee/input/1"
_ANSWER_DOMAIN = "privacy-compute/tee/answer/1"
_FRAMES = 3
_MAX_NUMBER_BYTES = 26  # the longest canonical number, and a comma
_MAX_FRAME_BYTES = 1024  # reply key, member names, brackets, and HPKE's own
_FLOAT32_MAX = 3.4028234663852886e38

Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class SealedInput:
    """A sealed input, taken apart.

    Attributes:
        enclave_key: The HPKE public key it is sealed to.
        nonce: The nonce of the attestation that showed this key.
        order: What a contract asked, from the node; empty for a private answer.
    """

    enclave_key: bytes
    nonce: bytes
    ciphertext: bytes
    sha256: str
    order: bytes = b""


def parse_sealed(raw: bytes) -> SealedInput:
    """Return a sealed input, taken apart.

    Raises:
        FormatError: It is not one.
    """
    if len(raw) > MAX_SEALED_BYTES:
        msg = f"the sealed input has {len(raw)} bytes, at most {MAX_SEALED_BYTES}"
        raise FormatError(msg, code="too-large")
    frames = unpack(raw, what="sealed input", max_frames=_FRAMES + 1)
    if len(frames) not in {_FRAMES, _FRAMES + 1} or len(frames[0]) != KEY_BYTES:
        raise FormatError("the sealed input is not key, nonce and ciphertext")
    enclave_key, nonce, ciphertext, *order = frames
    if order == [b""]:
        raise FormatError("the sealed input ends with an empty order")
    return SealedInput(
        enclave_key, check_nonce(nonce), ciphertext, sha256_hex(raw), b"".join(order)
    )


def seal_input(
    rows: object,
    *,
    columns: int,
    enclave_key: bytes,
    nonce: bytes,
    model_sha256: str,
    reply_key: X25519PublicKey,
) -> bytes:
    """Return rows sealed to an enclave.

    Args:
        rows: Standardised features, a list of rows of `columns` finite numbers.
        columns: How many features the model takes.
        enclave_key: From evidence that was verified and appraised.
        nonce: That evidence's nonce.
        model_sha256: The model digest.
        reply_key: Where the answer is sealed to; fresh for every input.

    Raises:
        FormatError: The rows are not such rows, or the enclave's key is no X25519 key.
    """
    checked = float32_rows(rows, columns=columns)
    inside = {"reply_key": b64url(reply_key.public_bytes_raw()), "rows": checked}
    info = _input_info(model_sha256, nonce)
    ciphertext = encrypt(canonical_json(inside), enclave_key, info)
    return pack([enclave_key, nonce, ciphertext])


def open_input(
    sealed: SealedInput, key: X25519PrivateKey, *, model_sha256: str, columns: int
) -> tuple[Rows, bytes]:
    """Return the rows and the raw reply key inside a sealed input, in the enclave.

    Raises:
        FormatError: Sealed to another key ("enclave-gone"); for another model or nonce,
            or changed ("unsealable"); or its inside is malformed. Messages say nothing
            about what is inside: the node's operator reads them.
    """
    plain = decrypt(
        sealed, key, _input_info(model_sha256, sealed.nonce), columns=columns
    )
    try:
        return _parse_inside(plain, columns=columns)
    except (FormatError, ValueError):
        msg = (
            f"the sealed input does not hold a reply key and up to {MAX_ROWS} rows "
            f"of {columns} finite numbers"
        )
        raise FormatError(msg, code="malformed-input") from None


def decrypt(
    sealed: SealedInput, key: X25519PrivateKey, info: bytes, *, columns: int
) -> bytes:
    """Return what is inside a sealed input, in the enclave.

    Raises:
        FormatError: See `open_input`.
    """
    if sealed.enclave_key != key.public_key().public_bytes_raw():
        msg = (
            "the input is sealed to an enclave that is gone: "
            "ask for new evidence and seal again"
        )
        raise FormatError(msg, code="enclave-gone")
    most = MAX_ROWS * (columns * _MAX_NUMBER_BYTES + 2) + _MAX_FRAME_BYTES
    if len(sealed.ciphertext) > most:  # parsed JSON is many times larger
        msg = f"the sealed input has more bytes than {MAX_ROWS} rows of {columns} need"
        raise FormatError(msg, code="malformed-input")
    try:
        return _SUITE.decrypt(sealed.ciphertext, key, info)
    except (InvalidTag, ValueError) as exc:
        msg = "the sealed input cannot be opened: seal it again for this model"
        raise FormatError(msg, code="unsealable") from exc


def seal_answer(
    outputs: Rows, *, reply_key: bytes, model_sha256: str, sealed: SealedInput
) -> bytes:
    """Return raw outputs sealed to the data owner's reply key.

    Raises:
        FormatError: An output is not finite, or the reply key cannot be used.
    """
    info = _answer_info(model_sha256, sealed.nonce, sealed.sha256)
    return encrypt(canonical_json({"outputs": outputs}), reply_key, info)


def open_answer(
    answer: bytes,
    key: X25519PrivateKey,
    *,
    nonce: bytes,
    model_sha256: str,
    input_sha256: str,
) -> Rows:
    """Return the raw outputs in an answer, one row for each row sealed.

    Raises:
        VerificationError: It was changed, or answers something else.
        FormatError: Its inside is malformed.
    """
    try:
        info = _answer_info(model_sha256, nonce, input_sha256)
        plain = _SUITE.decrypt(answer, key, info)
    except (InvalidTag, ValueError) as exc:
        msg = "the answer cannot be opened: it was changed, or answers another input"
        raise VerificationError(msg, code="unsealable") from exc
    value = parse_canonical(plain, what="answer")
    outputs = value.get("outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    width = len(first) if isinstance(first, list) else 0
    if set(value) != {"outputs"} or not width:
        raise FormatError("the answer holds no outputs")
    return finite_rows(outputs, columns=width, max_rows=MAX_ROWS)


def _parse_inside(plain: bytes, *, columns: int) -> tuple[Rows, bytes]:
    value = parse_canonical(plain, what="sealed input")
    if set(value) != {"reply_key", "rows"}:
        raise FormatError("the sealed input has other members than these")
    reply_key = b64url_decode(str(value["reply_key"]), what="reply key")
    X25519PublicKey.from_public_bytes(reply_key)
    return float32_rows(value["rows"], columns=columns), reply_key


def float32_rows(rows: object, *, columns: int) -> Rows:
    """Return rows that the engine can take.

    Raises:
        FormatError: They are not such rows.
    """
    checked = finite_rows(rows, columns=columns, max_rows=MAX_ROWS)
    if any(abs(x) > _FLOAT32_MAX for row in checked for x in row):
        raise FormatError("a feature does not fit a 32-bit float", code="not-finite")
    return checked


def encrypt(plain: bytes, public_key: bytes, info: bytes) -> bytes:
    """Return an HPKE ciphertext to a public key.

    Raises:
        FormatError: The key is no usable X25519 key.
    """
    try:
        key = X25519PublicKey.from_public_bytes(public_key)
        return _SUITE.encrypt(plain, key, info)
    except ValueError as exc:
        msg = "the key to seal to is not a usable X25519 key"
        raise FormatError(msg, code="malformed-input") from exc


def _input_info(model_sha256: str, nonce: bytes) -> bytes:
    return canonical_json(bound(_INPUT_DOMAIN, model_sha256, nonce))


def _answer_info(model_sha256: str, nonce: bytes, input_sha256: str) -> bytes:
    common = bound(_ANSWER_DOMAIN, model_sha256, nonce)
    return canonical_json({**common, "input_sha256": input_sha256})


def bound(domain: str, model_sha256: str, nonce: bytes) -> Json:
    """Return what every `info` of HPKE binds."""
    return {
        "domain": domain,
        "mode": "tee",
        "model_sha256": model_sha256,
        "nonce": b64url(nonce),
    }
