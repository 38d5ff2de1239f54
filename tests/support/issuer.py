"""An issuer of tokens with a key of each kind, which can lie on command."""

import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from privacy.encoding import b64url

ISSUER = "https://issuer.test"
AUDIENCE = "privacy-compute"


class LocalIssuer:
    """Signs what it is told; its key set is a file, or an answer over HTTP."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "rsa": RSAKey.generate_key(2048, {"kid": "rsa"}),
            "ec": ECKey.generate_key("P-256", {"kid": "ec"}),
            "ed": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
        }
        self.requests = 0
        self.is_down = False

    def key_set(self, **more: Any) -> dict[str, Any]:
        keys = [key.as_dict(private=False) for key in self.keys.values()]
        return {"keys": [*keys, *more.get("also", [])]}

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(self.key_set()))
        return path

    def transport(self) -> httpx.MockTransport:
        def answer(_request: httpx.Request) -> httpx.Response:
            self.requests += 1
            if self.is_down:
                raise httpx.ConnectError("down")
            return httpx.Response(200, json=self.key_set())

        return httpx.MockTransport(answer)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return good claims; a change to None leaves one out."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 300,
            "tenant": "default",
            "scope": "jobs:read jobs:write models:read",
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        *,
        alg: str = "ES256",
        kid: str | None = None,
        key: Any = None,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        kinds = {"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "EdDSA": "ed"}
        name = kid or kinds.get(alg, "ed")
        return self.sign(
            {"alg": alg, "kid": name, "typ": "at+jwt", **(header or {})},
            json.dumps(self.claims(**claims)).encode(),
            key or self.keys[name],
        )

    @staticmethod
    def sign(header: dict[str, Any], payload: bytes, key: Any) -> str:
        """Sign any payload under any header, sensible or not."""
        head = b64url(json.dumps(header).encode())
        signed = f"{head}.{b64url(payload)}"
        if isinstance(key, bytes):
            made = hmac.digest(key, signed.encode(), "sha256")
        else:
            made = JWSRegistry.algorithms[header["alg"]].sign(signed.encode(), key)
        return f"{signed}.{b64url(made)}"


def unsigned(claims: dict[str, Any]) -> str:
    """Return a token of `alg: none`."""
    head = b64url(json.dumps({"alg": "none", "typ": "JWT"}).encode())
    return f"{head}.{b64url(json.dumps(claims).encode())}."
