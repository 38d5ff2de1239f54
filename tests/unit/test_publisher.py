"""Signed bundles: a changed byte anywhere, or another publisher, is refused."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.bundle import MANIFEST, SIGNATURE
from privacy.encoding import b64url, canonical_json
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.jws import bare_jwk, key_id, public_jwk, signed_bytes
from privacy.publisher import (
    FORMAT,
    KEY_FILE,
    TRUST_FILE,
    Trust,
    distrust_publisher,
    load_private_key,
    load_trust,
    open_trusted,
    publisher_key,
    sign_bundle,
    sign_manifest,
    trust_publisher,
    trusted_publishers,
    verify_manifest,
)
from tests.support.hand_made_bundle import write_bundle

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
KID = key_id(KEY.public_key())
TRUST = Trust(frozenset({KID}))
NOBODY = Trust(frozenset())


@pytest.fixture
def root(tmp_path):
    bundle = write_bundle(tmp_path / "models")
    sign_bundle(bundle.root, KEY)
    return bundle.root


def refusal(root, trust):
    with pytest.raises(VerificationError) as caught:
        open_trusted(root, trust)
    return caught.value.code


def test_a_bundle_of_a_trusted_publisher_opens_and_names_them(root):
    assert open_trusted(root, TRUST).publisher == KID


def test_a_bundle_of_a_stranger_is_refused(root):
    assert refusal(root, NOBODY) == "publisher-untrusted"
    assert refusal(root, Trust(frozenset(), allow_unsigned=True)) == (
        "publisher-untrusted"
    )


def test_an_unsigned_bundle_is_refused_unless_allowed(root):
    (root / SIGNATURE).unlink()
    assert refusal(root, TRUST) == "bundle-unsigned"
    allowed = Trust(frozenset(), allow_unsigned=True)
    assert open_trusted(root, allowed).publisher == ""


def test_a_changed_manifest_or_signature_is_refused(root):
    manifest, signature = (
        (root / MANIFEST).read_bytes(),
        (root / SIGNATURE).read_bytes(),
    )
    rng = random.Random(1)
    for _ in range(40):
        damaged = bytearray(signature)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with pytest.raises(VerificationError) as caught:
            verify_manifest(manifest, bytes(damaged))
        assert caught.value.code == "bundle-signature"
    for odd in (b"", b"..", b"\xff" * 90, signature + b"\n", signature * 99):
        with pytest.raises(VerificationError):
            verify_manifest(manifest, odd)
    with pytest.raises(VerificationError, match="publish it again"):
        verify_manifest(manifest + b"\n", signature)


def test_a_signature_made_for_something_else_is_refused(root):
    """Receipts are signed too: the header's type keeps the two apart."""
    manifest = (root / MANIFEST).read_bytes()
    members = {"alg": "EdDSA", "jwk": bare_jwk(KEY.public_key()), "typ": FORMAT}
    for name, value in (("typ", "privacy-compute/receipt/1"), ("alg", "none")):
        header = b64url(canonical_json({**members, name: value}))
        signature = KEY.sign(signed_bytes(header, manifest))
        with pytest.raises(VerificationError):
            verify_manifest(manifest, f"{header}..{b64url(signature)}".encode())


def test_a_thiefs_key_cannot_be_put_beside_anothers_signature(root):
    manifest = (root / MANIFEST).read_bytes()
    thief = Ed25519PrivateKey.generate()
    stolen = sign_manifest(manifest, KEY).split(b"..")[1]
    own = sign_manifest(manifest, thief).split(b"..")[0]
    with pytest.raises(VerificationError):
        verify_manifest(manifest, own + b".." + stolen)


def test_a_file_changed_after_signing_is_refused(root):
    (root / "fhe/client.json").write_bytes(b"{}")
    assert refusal(root, TRUST) == "bundle-changed"


def test_the_first_publish_makes_a_private_key_that_this_home_trusts(tmp_path):
    first = publisher_key(tmp_path / "home")
    again = publisher_key(tmp_path / "home")
    assert first.private_bytes_raw() == again.private_bytes_raw()
    assert (tmp_path / "home" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    trust = load_trust(tmp_path / "home")
    assert trust == Trust(frozenset({key_id(first.public_key())}))


def test_keys_made_at_once_are_one_key(tmp_path):
    found, meet = [], threading.Barrier(8)

    def make():
        meet.wait(10)
        found.append(load_private_key(tmp_path / "key").private_bytes_raw())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_a_damaged_key_file_is_not_replaced(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(FormatError, match="restore it"):
        load_private_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == b"short"


def test_publishers_are_trusted_and_distrusted_by_file(tmp_path):
    trust_publisher(tmp_path, KEY.public_key())
    assert set(trusted_publishers(tmp_path / TRUST_FILE)) == {KID}
    distrust_publisher(tmp_path, KID)
    assert load_trust(tmp_path) == NOBODY
    with pytest.raises(NotFoundError):
        distrust_publisher(tmp_path, KID)


def test_publishers_trusted_at_once_are_all_trusted(tmp_path):
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(8)]
    meet = threading.Barrier(len(keys))

    def trust(key):
        meet.wait(10)
        trust_publisher(tmp_path, key)

    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(trust, keys))
    assert set(trusted_publishers(tmp_path / TRUST_FILE)) == {key_id(k) for k in keys}


def test_a_named_trust_file_must_exist_and_hold_keys(tmp_path):
    with pytest.raises(FormatError, match="there is no file"):
        load_trust(tmp_path, [tmp_path / "none.json"])
    single = tmp_path / "one.json"
    single.write_text(json.dumps(public_jwk(KEY.public_key())))
    assert load_trust(tmp_path, [single]) == TRUST
    for odd in ('{"kty":"RSA"}', "[]", '{"keys":7}'):
        single.write_text(odd)
        with pytest.raises(FormatError):
            load_trust(tmp_path, [single])
