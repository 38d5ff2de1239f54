"""A model sealed by its publisher, and what the manifest says of it. Pure.

    tee/model.sealed   AES-256-GCM of the model file, under a content key of its own

The content key encrypts one message only, so the AES-GCM nonce is zeros. Enclaves get
it from a key broker, whom they need not trust: what they decrypt must have the digest
that the manifest gives.
"""

from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.bundle import Manifest
from privacy.encoding import Json, check_sha256, sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.modes import Mode

SEALED_MODEL = "model.sealed"
"""Name of the file, in the folder of the mode."""

CONTENT_KEY_BYTES = 32
MAX_MODEL_BYTES = (1 << 31) - 64  # of one AES-GCM call
_MODEL_DOMAIN = b"privacy-compute/tee/sealed-model/1"
_ZERO = bytes(12)
_MAX_URL = 300


@dataclass(frozen=True, slots=True)
class Sealing:
    """What a manifest says of a sealed model: `sealed` in the mode's params.

    Attributes:
        broker: Address of the key broker, http or https.
        onnx_sha256: Digest of the model file in the clear.
    """

    broker: str
    onnx_sha256: str

    def __post_init__(self) -> None:
        """Refuse what is no address, or no digest."""
        check_broker(self.broker)
        check_sha256(self.onnx_sha256, what="digest of the sealed model")

    def as_dict(self) -> Json:
        """Return it as the manifest says it."""
        return asdict(self)


def check_broker(url: str) -> str:
    """Return the address of a key broker if it is one.

    Raises:
        FormatError: It is not http or https with a host, or holds more than a path.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        good = good and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good or "@" in url or len(url) > _MAX_URL or not url.isprintable():
        msg = f"the key broker's address {url[:80]!r} is not like http://host:8401"
        raise FormatError(msg, code="bad-broker")
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A sealed model: its file, and the digest of what is in it."""

    content: bytes
    onnx_sha256: str

    def open(self, content_key: bytes) -> bytes:
        """Return the model file; see `open_model`."""
        return open_model(self.content, content_key, onnx_sha256=self.onnx_sha256)


def sealing_of(manifest: Manifest) -> Sealing | None:
    """Return how a model is sealed, None if it is not.

    Raises:
        FormatError: The manifest says it in another way.
    """
    part = manifest.modes.get(Mode.TEE)
    value = part.params.get("sealed") if part is not None else None
    if value is None:
        return None
    texts = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if not texts or set(value) != {"broker", "onnx_sha256"}:
        msg = "the manifest does not say who has the sealed model's key: publish again"
        raise FormatError(msg, code="bundle-format")
    return Sealing(**value)


def seal_model(model: bytes) -> tuple[bytes, bytes]:
    """Return a fresh content key, and the content of the sealed model's file.

    Raises:
        FormatError: The model is larger than 2 GiB.
    """
    if len(model) > MAX_MODEL_BYTES:
        msg = f"the model has {len(model)} bytes, at most {MAX_MODEL_BYTES} to seal it"
        raise FormatError(msg, code="too-large")
    content_key = AESGCM.generate_key(8 * CONTENT_KEY_BYTES)
    return content_key, AESGCM(content_key).encrypt(_ZERO, model, _MODEL_DOMAIN)


def open_model(sealed: bytes, content_key: bytes, *, onnx_sha256: str) -> bytes:
    """Return the model file in a sealed one.

    Raises:
        VerificationError: Another key, or the file was changed ("model-unsealable"); or
            it is not the model that the manifest is of ("model-changed").
    """
    try:
        model = AESGCM(content_key).decrypt(_ZERO, sealed, _MODEL_DOMAIN)
    except (InvalidTag, ValueError):
        msg = (
            "the sealed model does not open with this key: its file was changed, or "
            "the broker has another model's key; copy the bundle again, or publish"
        )
        raise VerificationError(msg, code="model-unsealable") from None
    if sha256_hex(model) != onnx_sha256:
        msg = "the sealed model is not the one that the manifest is of: publish again"
        raise VerificationError(msg, code="model-changed")
    return model
