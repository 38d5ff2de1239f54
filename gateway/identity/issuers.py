"""Issuers of tokens that the operator trusts, and what their claims mean here."""

import hashlib
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.identity.caller import (
    OF_OPERATOR,
    SCOPES,
    TENANT_NAME,
    Caller,
    Scope,
    Tenant,
)
from privacy.encoding import Json
from privacy.errors import AuthError

Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA", "Ed25519"]
ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_MAX_SUBJECT = 255


class Issuer(BaseModel):
    """One issuer of OpenID Connect or OAuth 2.0 access tokens (JWT)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=1, max_length=500, description="`iss`, exactly.")
    audience: str = Field(min_length=1, max_length=500, description="One of `aud`.")
    jwks: str = Field(description="Its keys: an https address, or a file.")
    algorithms: tuple[Algorithm, ...] = Field(default=ALGORITHMS, min_length=1)
    tenant: Tenant | None = Field(
        default=None, description="Whose every token of this issuer is."
    )
    tenant_claim: tuple[str, ...] = Field(
        default=("tenant",),
        min_length=1,
        description="Else the claim that names the tenant; with several names one "
        "inside the other.",
    )
    tenants: dict[str, Tenant] = Field(
        default={}, description="What that claim says for each tenant; else its id."
    )
    scopes_claim: tuple[str, ...] = Field(
        default=("scope",),
        min_length=1,
        description="The claim with the scopes: words in a text, or a list.",
    )
    scopes: dict[str, tuple[Scope, ...]] = Field(
        default={}, description="What its words mean here; else they are scopes."
    )
    allow_operators: bool = Field(
        default=False, description="Let its tokens have the operator's scopes."
    )

    @field_validator("jwks")
    @classmethod
    def _is_safe(cls, where: str) -> str:
        url = urlsplit(where)
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            msg = "keys over http can be changed on the way: use https, or a file"
            raise ValueError(msg)
        return where

    def caller(self, claims: Json) -> Caller:
        """Return whom a token of this issuer speaks for.

        Args:
            claims: Verified.

        Raises:
            AuthError: They name no subject, or no tenant.
        """
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
            raise refusal("it names no subject (`sub`)")
        who = hashlib.sha256(f"{self.issuer}\0{subject}".encode()).hexdigest()
        return Caller(f"sub_{who[:16]}", self._tenant(claims), self._scopes(claims))

    def _tenant(self, claims: Json) -> str:
        if self.tenant:
            return self.tenant
        value = _claim(claims, self.tenant_claim)
        if isinstance(value, str):
            if self.tenants and value in self.tenants:
                return self.tenants[value]
            if not self.tenants and re.fullmatch(TENANT_NAME, value):
                return value
        where = ".".join(self.tenant_claim)
        raise refusal(f"its claim {where!r} names no tenant of this gateway")

    def _scopes(self, claims: Json) -> frozenset[str]:
        value = _claim(claims, self.scopes_claim)
        words = value.split(" ") if isinstance(value, str) else value
        if not isinstance(words, list):
            return frozenset()
        named = [w for w in words if isinstance(w, str)]
        if self.scopes:
            found: set[str] = {
                scope for word in named for scope in self.scopes.get(word, ())
            }
        else:
            found = set(SCOPES).intersection(named)
        return frozenset(
            found if self.allow_operators else found.difference(OF_OPERATOR)
        )


def refusal(why: str, *, code: str = "invalid-token") -> AuthError:
    """Return the refusal of a token; `why` quotes nothing but names of ours."""
    return AuthError(f"the token is refused: {why}", code=code)


def _claim(claims: Json, path: tuple[str, ...]) -> Any:
    value: Any = claims
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
