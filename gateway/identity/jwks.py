"""The keys of one issuer: fetched, cached, and asked for anew when one is unknown.

Keys are fetched anew every ten minutes, and at most every 30 s when a token names an
unknown one, whoever asks. An issuer that cannot be reached for an hour is not believed
any more.
"""

import asyncio
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key

from gateway.identity.issuers import refusal
from privacy.encoding import Json, parse_object
from privacy.errors import FormatError, UnavailableError

_log = structlog.get_logger()
_MAX_BYTES = 1 << 18
_MAX_KEYS = 100
_TIMEOUT_S = 5.0
_FRESH_S = 600.0
_PAUSE_S = 30.0
_USABLE_S = 3600.0
_PUBLIC = ("kty", "crv", "x", "y", "n", "e")
_LEAST_RSA_BITS = 2048
_KINDS = {
    "RS256": "RSA",
    "PS256": "RSA",
    "ES256": "EC",
    "EdDSA": "OKP",
    "Ed25519": "OKP",
}


@dataclass(frozen=True, slots=True)
class _SigningKey:
    kid: str
    kind: str
    algorithm: str
    key: Key

    def makes(self, algorithm: str) -> bool:
        is_kind = _KINDS[algorithm] == self.kind
        return is_kind and self.algorithm in {"", algorithm}


class IssuerKeys:
    """The public keys that one issuer signs with."""

    def __init__(
        self,
        where: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch from an address or a file, at the first token.

        Args:
            where: An http or https address, or a path.
            transport: Of the requests; the network by default.
            clock: Seconds that never go back.
        """
        self._where = where
        self._transport = transport
        self._clock = clock
        self._keys: list[_SigningKey] = []
        self._fetched_at = self._asked_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """Return the key that a token names, or the only one there is.

        Args:
            kid: Key id in the token's header.
            algorithm: Which the key has to be for.

        Raises:
            AuthError: The issuer has no such key.
            UnavailableError: The issuer's keys cannot be had.
        """
        if self._age() > _FRESH_S and not (self._keys and self._fetching.locked()):
            await self._fetch()
        found = self._found(kid, algorithm)
        if not found:
            await self._fetch()
            found = self._found(kid, algorithm)
        if self._age() > _USABLE_S:
            msg = "the keys of the token's issuer cannot be had: try again later"
            raise UnavailableError(msg, code="issuer-unreachable")
        if not found:
            raise refusal("its issuer has no such key for this algorithm")
        return found

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _found(self, kid: str | None, algorithm: str) -> Key | None:
        fit = [k for k in self._keys if k.makes(algorithm)]
        if kid is None:
            return fit[0].key if len(fit) == 1 else None
        return next((k.key for k in fit if k.kid == kid), None)

    async def _fetch(self) -> None:
        """Fetch the keys, unless somebody asked a moment ago."""
        async with self._fetching:
            if self._clock() - self._asked_at < _PAUSE_S:
                return
            self._asked_at = self._clock()
            try:
                keys = _signing_keys(await self._read())
            except (OSError, TimeoutError, httpx.HTTPError, FormatError) as exc:
                _log.warning("issuer-unreachable", type=type(exc).__name__)
                return
            self._keys, self._fetched_at = keys, self._clock()

    async def _read(self) -> bytes:
        if not self._where.startswith(("https://", "http://")):
            return await asyncio.to_thread(Path(self._where).read_bytes)
        body = bytearray()
        client = httpx.AsyncClient(timeout=_TIMEOUT_S, transport=self._transport)
        async with (
            asyncio.timeout(2 * _TIMEOUT_S),
            client,
            client.stream("GET", self._where) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise FormatError(f"keys: status {response.status_code}")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise FormatError("keys: too long")
        return bytes(body)


def _signing_keys(raw: bytes) -> list[_SigningKey]:
    """Return the keys of a JSON Web Key Set that verify signatures we accept.

    Others are left out, as RFC 7517 asks; a symmetric one above all: it would make a
    published key a secret.

    Raises:
        FormatError: It is no key set.
    """
    keys = parse_object(raw, what="key set", limit=_MAX_BYTES).get("keys")
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise FormatError("the key set has no list of keys, or too many")
    found = [_signing_key(jwk) for jwk in keys if isinstance(jwk, dict)]
    return [key for key in found if key]


def _signing_key(jwk: Json) -> _SigningKey | None:
    kid, algorithm = jwk.get("kid", ""), jwk.get("alg", "")
    public: Json = {n: jwk[n] for n in _PUBLIC if n in jwk}
    for_signatures = jwk.get("use", "sig") == "sig" and "d" not in jwk
    if not (isinstance(kid, str) and isinstance(algorithm, str) and for_signatures):
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        with warnings.catch_warnings():  # of short RSA keys, which are refused below
            warnings.simplefilter("ignore")
            key = JWKRegistry.import_key(public)
            is_good = _is_strong(key.raw_value)
    except (JoseError, ValueError, TypeError):
        return None
    return _SigningKey(kid, key.key_type, algorithm, key) if is_good else None


def _is_strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _LEAST_RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)
