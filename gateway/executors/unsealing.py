"""The node's part in unsealing a model: it carries messages that it cannot read."""

import time
from typing import Any

import httpx

from gateway.executors.base import EnclaveLike
from privacy.bundle import Bundle
from privacy.client.wire import Reply, problem_error
from privacy.encoding import b64url_decode, parse_object
from privacy.errors import (
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    VerificationError,
    error_from,
)
from privacy.tee.evidence import check_nonce
from privacy.tee.key_release import MAX_RELEASE_BYTES
from privacy.tee.sealed_model import Sealing, sealing_of

PATIENCE_S = 5.0
"""How long a broker that gave no key is not asked again for the same model."""

_TIMEOUT_S = 10.0
_OK = 200
_MAX_BYTES = 1 << 18
_MAX_TEXT = 500


class Unsealer:
    """Unseals enclaves' models, and starts none in vain again and again."""

    def __init__(self) -> None:
        """Begin with no failure."""
        self._failed: dict[str, tuple[float, PrivacyError]] = {}

    def check(self, bundle: Bundle) -> None:
        """Raise what was raised for the model a moment ago, before more is spent.

        Raises:
            PrivacyError: See `unseal`.
        """
        since, error = self._failed.get(bundle.sha256, (0.0, None))
        if error and time.monotonic() - since < PATIENCE_S:
            raise error_from(type(error).__name__, error.code, error.message)

    def unseal(self, enclave: EnclaveLike, bundle: Bundle) -> None:
        """Have a sealed model's broker send its key; end the enclave if it does not.

        Raises:
            PrivacyError: See the function `unseal`.
        """
        if (sealing := sealing_of(bundle.manifest)) is None:
            return
        try:
            unseal(enclave, sealing, model_sha256=bundle.sha256)
        except BaseException as exc:
            enclave.stop()
            if isinstance(exc, PrivacyError):
                self._failed[bundle.sha256] = (time.monotonic(), exc)
            raise


def unseal(enclave: EnclaveLike, sealing: Sealing, *, model_sha256: str) -> None:
    """Fetch the key of an enclave's model from its broker, sealed to the enclave.

    Raises:
        NotFoundError: The broker has no such key, or it was revoked.
        UnavailableError: The broker cannot be reached ("broker-unreachable"), refuses
            this enclave ("key-refused"), or gave a key that does not open the model
            here ("key-unusable").
    """
    try:
        with httpx.Client(base_url=sealing.broker, timeout=_TIMEOUT_S) as http:
            asked = _post(http, "/v1/challenges", json={"model_sha256": model_sha256})
            evidence = enclave.evidence(_nonce(asked))
            given = _post(http, "/v1/releases", content=evidence)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        msg = (
            f"the model is sealed, and its key broker {sealing.broker} cannot be "
            f"reached ({type(exc).__name__}): try again later, or ask the publisher"
        )
        raise UnavailableError(msg, code="broker-unreachable") from exc
    release = _bytes(given, "release")
    if len(release) > MAX_RELEASE_BYTES:
        raise _odd("release")
    try:
        enclave.unseal(release)
    except (FormatError, VerificationError) as exc:
        msg = (
            f"the key from the broker {sealing.broker} does not serve the model here: "
            f"{exc.message} ({exc.code})"
        )
        raise UnavailableError(msg, code="key-unusable") from exc


def _post(http: httpx.Client, path: str, **body: Any) -> Reply:
    """Return the broker's answer, of which no more is read than it can have."""
    until, found = time.monotonic() + _TIMEOUT_S, bytearray()
    with http.stream("POST", path, **body) as got:
        for part in got.iter_bytes():
            found += part
            if len(found) > _MAX_BYTES:
                raise _odd("too long")
            if time.monotonic() > until:  # httpx's limit is one of each read
                raise httpx.ReadTimeout("too slow")
    reply = Reply(got.status_code, dict(got.headers), bytes(found))
    if reply.status == _OK:
        return reply
    error = problem_error(reply)
    text = f"{error.message[:_MAX_TEXT]} ({error.code[:_MAX_TEXT]})"
    msg = f"the key broker {http.base_url} says: {text}"
    if isinstance(error, NotFoundError):
        raise NotFoundError(msg, code=error.code)
    raise UnavailableError(msg, code="key-refused")


def _nonce(reply: Reply) -> bytes:
    try:
        return check_nonce(_bytes(reply, "nonce"))
    except FormatError as exc:
        raise _odd("nonce") from exc


def _bytes(reply: Reply, name: str) -> bytes:
    try:
        value = parse_object(reply.body, what=name).get(name)
        return b64url_decode(str(value), what=name)
    except FormatError as exc:
        raise _odd(name) from exc


def _odd(what: str) -> UnavailableError:
    msg = f"the key broker's answer is not as its API gives it ({what}): is it one?"
    return UnavailableError(msg, code="broker-unreachable")
