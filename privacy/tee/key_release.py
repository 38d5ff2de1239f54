"""A sealed model's key on its way from the broker to one enclave. Pure.

    release    pack([key id, nonce, HPKE ciphertext of the content key])

It is sealed to an HPKE key in the evidence that the broker accepted, and HPKE's `info`
binds it to that evidence's nonce and to the model: it opens in that enclave only.
"""

from collections.abc import Sequence

from privacy.encoding import b64url, canonical_json, pack, unpack
from privacy.errors import FormatError
from privacy.tee.evidence import Evidence, check_nonce
from privacy.tee.kem import KEY_ID_BYTES, KemKey, choose

MAX_RELEASE_BYTES = 1 << 13
_DOMAIN = "privacy-compute/tee/key-release/1"
_FRAMES = 3


def seal_release(content_key: bytes, shown: Evidence) -> bytes:
    """Return a content key sealed to the enclave that made evidence.

    Args:
        content_key: Of its model.
        shown: Evidence that was verified and appraised.

    Raises:
        VerificationError: There is no encapsulation that both sides have.
        FormatError: The enclave's key is unusable.
    """
    key = choose(shown.hpke_public_keys)
    info = _info(key.kem, shown.model_sha256, shown.nonce)
    return pack([key.id, shown.nonce, key.encrypt(content_key, info)])


def open_release(raw: bytes, keys: Sequence[KemKey], *, model_sha256: str) -> bytes:
    """Return the content key in a release, in the enclave.

    Raises:
        FormatError: It is none, or sealed to another enclave ("enclave-gone").
        VerificationError: It was changed, or is for another model ("unsealable").
    """
    frames = unpack(raw, what="release of a key", max_frames=_FRAMES)
    if len(frames) != _FRAMES or len(frames[0]) != KEY_ID_BYTES:
        raise FormatError("the release is not key id, nonce and ciphertext")
    key_id, nonce, ciphertext = frames
    info_nonce = check_nonce(nonce)
    for key in keys:
        if key.public.id == key_id:
            info = _info(key.public.kem, model_sha256, info_nonce)
            return key.decrypt(ciphertext, info)
    msg = "the key was released to an enclave that is gone: ask for it anew"
    raise FormatError(msg, code="enclave-gone")


def _info(kem: str, model_sha256: str, nonce: bytes) -> bytes:
    bound = {"kem": kem, "model_sha256": model_sha256, "nonce": b64url(nonce)}
    return canonical_json({"domain": _DOMAIN, **bound})
