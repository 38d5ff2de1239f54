"""Both encapsulations open what they sealed, and the better one is chosen."""

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from privacy.errors import FormatError, VerificationError
from privacy.tee import kem
from privacy.tee.kem import CLASSIC, HYBRID, KemKey, KemPublicKey, choose, supported

KEYS = {name: KemKey.generate(name) for name in (HYBRID, CLASSIC)}
OFFERED = [key.public for key in KEYS.values()]


@pytest.fixture
def without_hybrid(monkeypatch):
    """This side's `cryptography` has no ML-KEM."""
    generate = KemKey.generate

    def refuse(name):
        if name == HYBRID:
            raise UnsupportedAlgorithm("no ML-KEM")
        return generate(name)

    monkeypatch.setattr(KemKey, "generate", refuse)
    supported.cache_clear()
    yield
    monkeypatch.undo()
    supported.cache_clear()


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_opens_what_was_sealed_to_it_for_one_use(key):
    ciphertext = key.public.encrypt(b"secret", b"use")
    assert b"secret" not in ciphertext
    assert key.decrypt(ciphertext, b"use") == b"secret"
    messages = set()
    other = KemKey.generate(key.public.kem)
    for refused in (
        lambda: key.decrypt(ciphertext, b"another use"),
        lambda: key.decrypt(ciphertext[:-1], b"use"),
        lambda: key.decrypt(b"", b"use"),
        lambda: other.decrypt(ciphertext, b"use"),
    ):
        with pytest.raises(VerificationError) as caught:
            refused()
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_the_halves_of_a_hybrid_key_do_not_open_alone():
    """Its X25519 half is no key of the other encapsulation."""
    hybrid = KEYS[HYBRID]
    half = KemPublicKey(CLASSIC, hybrid.public.raw[-32:])
    with pytest.raises(VerificationError):
        hybrid.decrypt(half.encrypt(b"secret", b"use"), b"use")


def test_names_of_keys_tell_key_and_encapsulation():
    assert len({key.id for key in OFFERED} | {KemPublicKey(CLASSIC, bytes(32)).id}) == 3


def test_the_hybrid_is_chosen_where_both_sides_have_it():
    assert supported() == (HYBRID, CLASSIC)
    for offered in (OFFERED, OFFERED[::-1]):
        assert choose(offered).kem == HYBRID


def test_an_enclave_without_the_hybrid_is_sealed_to_unless_it_is_required():
    classic = KEYS[CLASSIC].public
    assert choose([classic]) == classic
    with pytest.raises(VerificationError, match="X25519, expected ML") as caught:
        choose([classic], require_hybrid=True)
    assert caught.value.code == "kem-refused"


@pytest.mark.usefixtures("without_hybrid")
def test_a_side_without_ml_kem_seals_with_x25519():
    assert supported() == (CLASSIC,)
    assert choose(OFFERED).kem == CLASSIC
    for refused in ({"offered": OFFERED[:1]}, {"offered": OFFERED}):
        with pytest.raises(VerificationError):
            choose(**refused, require_hybrid=True)
    with pytest.raises(VerificationError):
        choose(OFFERED[:1])


@pytest.mark.parametrize(
    ("name", "size"), [(CLASSIC, 31), (HYBRID, 32), ("P256", 65), ("", 0)]
)
def test_a_key_of_another_size_or_kind_is_refused(name, size):
    with pytest.raises(FormatError):
        KemPublicKey(name, bytes(size))


@pytest.mark.parametrize("name", kem.PUBLIC_KEY_BYTES)
def test_a_key_of_low_order_is_not_sealed_to(name):
    with pytest.raises(FormatError) as caught:
        KemPublicKey(name, bytes(kem.PUBLIC_KEY_BYTES[name])).encrypt(b"x", b"use")
    assert caught.value.code == "malformed-input"
