"""Tokens (JWT, RFC 7519) of trusted issuers.

They are checked in this order:

1. form: not too long, three parts of canonical base64url, JSON that says nothing twice;
2. issuer: `iss` is one that the operator named (nothing else is believed yet);
3. header: an allowed algorithm, nothing critical, a type that access tokens have;
4. key: the issuer's, for that algorithm;
5. signature;
6. claims: audience, expiry, not before, issued at; clocks may differ by a minute;
7. who it is: subject, tenant, scopes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from gateway.identity.caller import Caller
from gateway.identity.issuers import ALGORITHMS, Issuer, refusal
from gateway.identity.jwks import IssuerKeys
from privacy.encoding import Json, b64url_decode, parse_object
from privacy.errors import FormatError

_MAX_BYTES = 1 << 14
_MAX_HEADER = 1 << 12
_LEEWAY_S = 60
_PARTS = 3
_TYPES = {"jwt", "at+jwt", "application/jwt", "application/at+jwt"}


class _Registry(JWSRegistry):
    """joserfc's, with longer headers, for the one algorithm that was chosen."""

    max_header_length = _MAX_HEADER

    def get_alg(self, name: str) -> Any:
        """Return the algorithm; joserfc's own warns of EdDSA, for it has a new name."""
        return self.algorithms[name]


_REGISTRY = _Registry(strict_check_header=False)


class Tokens:
    """Verifies tokens of the issuers that the operator named."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        keys: Mapping[str, IssuerKeys] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Trust these issuers.

        Args:
            issuers: Each with another `issuer`.
            keys: By issuer; fetched as its settings say by default.
            clock: Seconds since 1970.
        """
        self._issuers = {i.issuer: i for i in issuers}
        self._keys = keys or {i.issuer: IssuerKeys(i.jwks) for i in issuers}
        self._clock = clock

    async def caller(self, text: str) -> Caller:
        """Return whom a token speaks for.

        Raises:
            AuthError: It is refused; the message says why.
            UnavailableError: The issuer's keys cannot be had.
        """
        header, claims = _parse(text)
        issuer = self._issuer(claims)
        algorithm = _algorithm(header, issuer)
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise refusal("its `kid` is not a text")
        key = await self._keys[issuer.issuer].find(kid, algorithm)
        _verify(text, key)
        self._check(claims, issuer)
        return issuer.caller(claims)

    def _issuer(self, claims: Json) -> Issuer:
        named = claims.get("iss")
        found = self._issuers.get(named) if isinstance(named, str) else None
        if found is None:
            raise refusal("this gateway does not trust its issuer (`iss`)")
        return found

    def _check(self, claims: Json, issuer: Issuer) -> None:
        registry = JWTClaimsRegistry(
            now=int(self._clock()),
            leeway=_LEEWAY_S,
            aud={"essential": True, "value": issuer.audience},
            exp={"essential": True},
        )
        try:
            registry.validate(claims)
        except ExpiredTokenError:
            why = "it has expired: get a new one"
            raise refusal(why, code="token-expired") from None
        except JoseError as exc:
            # The library's description names the claim; it quotes no value.
            what = "its audience or its times do not fit"
            raise refusal(f"{what} ({exc.description})") from None


def _parse(text: str) -> tuple[Json, Json]:
    parts = text.split(".")
    if len(text) > _MAX_BYTES or len(parts) != _PARTS or not all(parts):
        raise refusal(f"it is no signed JWT of at most {_MAX_BYTES} bytes")
    try:
        raw = [b64url_decode(part, what="part of a token") for part in parts]
        header, claims, _ = raw
        return (
            parse_object(header, what="header", limit=_MAX_HEADER),
            parse_object(claims, what="claims", limit=_MAX_BYTES),
        )
    except FormatError:
        raise refusal("it is not JSON in base64url, or says something twice") from None


def _algorithm(header: Json, issuer: Issuer) -> str:
    named = header.get("alg")
    if named not in ALGORITHMS or named not in issuer.algorithms:
        raise refusal(f"its algorithm is not one of {', '.join(issuer.algorithms)}")
    if "crit" in header or header.get("b64") is not None:
        raise refusal("its header names critical extensions, which nobody here knows")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise refusal("its type (`typ`) is not one of access tokens")
    return str(named)


def _verify(text: str, key: Key) -> None:
    try:
        jws.deserialize_compact(text, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError):
        raise refusal("its signature is not one of the issuer's key") from None
