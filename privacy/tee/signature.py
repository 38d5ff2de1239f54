"""ECDSA signatures as attestation formats write them: r and s, of fixed length."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from privacy.errors import VerificationError


def check_raw_signature(
    key: ec.EllipticCurvePublicKey,
    signature: bytes,
    message: bytes,
    *,
    code: str,
    what: str,
) -> None:
    """Check a signature of r and s, big-endian, each as long as the curve's order.

    P-256 goes with SHA-256, P-384 with SHA-384.

    Raises:
        VerificationError: It is not one by this key, with `code` and `what`.
    """
    size = (key.curve.key_size + 7) // 8
    digest = SHA256() if isinstance(key.curve, ec.SECP256R1) else SHA384()
    r, s = (int.from_bytes(p, "big") for p in (signature[:size], signature[size:]))
    if len(signature) != 2 * size:
        raise VerificationError(what, code=code)
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))
    except InvalidSignature as exc:
        raise VerificationError(what, code=code) from exc
