"""A released key opens in one enclave, for one model and one nonce."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import pack, unpack
from privacy.errors import FormatError, VerificationError
from privacy.tee.evidence import Evidence
from privacy.tee.kem import CLASSIC, KemKey, supported
from privacy.tee.key_release import open_release, seal_release

KEYS = tuple(KemKey.generate(kem) for kem in supported())
MODEL = "ab" * 32
CONTENT_KEY = bytes(range(32))


def shown(*, keys=KEYS, model_sha256=MODEL, nonce=bytes(32)):
    return Evidence(
        format="tdx-v4",
        quote=b"",
        hpke_public_keys=tuple(key.public for key in keys),
        signing_public_key=bytes(32),
        nonce=nonce,
        model_sha256=model_sha256,
    )


def test_a_release_opens_with_the_best_key_that_both_sides_have():
    release = seal_release(CONTENT_KEY, shown())
    assert open_release(release, KEYS[:1], model_sha256=MODEL) == CONTENT_KEY
    classic = tuple(key for key in KEYS if key.public.kem == CLASSIC)
    release = seal_release(CONTENT_KEY, shown(keys=classic))
    assert open_release(release, KEYS, model_sha256=MODEL) == CONTENT_KEY


def test_a_release_is_for_one_model_and_one_nonce():
    release = seal_release(CONTENT_KEY, shown())
    with pytest.raises(VerificationError) as caught:
        open_release(release, KEYS, model_sha256="cd" * 32)
    assert caught.value.code == "unsealable"
    key_id, _, ciphertext = unpack(release, what="release")
    with pytest.raises(VerificationError):
        open_release(
            pack([key_id, bytes(31) + b"\1", ciphertext]), KEYS, model_sha256=MODEL
        )


def test_a_release_for_a_key_that_is_gone_says_so():
    gone = tuple(KemKey.generate(kem) for kem in supported())
    with pytest.raises(FormatError) as caught:
        open_release(seal_release(CONTENT_KEY, shown()), gone, model_sha256=MODEL)
    assert caught.value.code == "enclave-gone"


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.binary(max_size=40), min_size=1, max_size=4).map(pack),
        st.binary(max_size=40).map(
            lambda raw: pack([KEYS[0].public.id, bytes(32), raw])
        ),
    )
)
def test_no_bytes_are_taken_for_a_release(raw):
    with pytest.raises((FormatError, VerificationError)):
        open_release(raw, KEYS, model_sha256=MODEL)
