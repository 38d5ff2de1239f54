"""Tokens of issuers: what is taken, and everything that is not."""

import asyncio
import json
import time
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey
from pydantic import ValidationError

from gateway.identity.issuers import Issuer
from gateway.identity.jwks import IssuerKeys
from gateway.identity.tokens import Tokens
from gateway.settings import Settings
from privacy.encoding import b64url
from privacy.errors import AuthError, UnavailableError
from tests.support.issuer import AUDIENCE, ISSUER, LocalIssuer, unsigned


@pytest.fixture(scope="module")
def issuer():
    return LocalIssuer()


def trusting(issuer: LocalIssuer, **settings: Any) -> Tokens:
    entry = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "https://issuer.test/keys"}
    keys = IssuerKeys("https://issuer.test/keys", transport=issuer.transport())
    return Tokens([Issuer(**{**entry, **settings})], keys={ISSUER: keys})


def caller(tokens: Tokens, text: str):
    return asyncio.run(tokens.caller(text))


def refused(tokens: Tokens, text: str) -> AuthError:
    with pytest.raises(AuthError) as refusal:
        caller(tokens, text)
    return refusal.value


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"])
def test_a_token_of_each_algorithm_gives_its_tenant_and_scopes(issuer, alg):
    found = caller(trusting(issuer), issuer.token(alg=alg))
    assert found.tenant == "default"
    assert found.scopes == {"jobs:read", "jobs:write", "models:read"}
    assert found.id.startswith("sub_")
    assert "ada" not in found.id


def test_clocks_may_differ_by_a_minute_and_no_more(issuer):
    tokens, now = trusting(issuer), int(time.time())
    caller(tokens, issuer.token(exp=now - 50))
    caller(tokens, issuer.token(nbf=now + 50, iat=now + 50))
    assert refused(tokens, issuer.token(exp=now - 70)).code == "token-expired"
    refused(tokens, issuer.token(nbf=now + 70))
    refused(tokens, issuer.token(iat=now + 70))


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.test"},
        {"iss": None},
        {"iss": ["https://issuer.test"]},
        {"aud": "another-service"},
        {"aud": None},
        {"aud": ["another", "third"]},
        {"aud": {"privacy-compute": 1}},
        {"aud": [["privacy-compute"]]},
        {"exp": None},
        {"exp": True},
        {"exp": "tomorrow"},
        {"nbf": "yesterday"},
        {"iat": [0]},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 300},
        {"tenant": None},
        {"tenant": ["default"]},
        {"tenant": "../other"},
        {"tenant": "Default"},
    ],
    ids=str,
)
def test_a_token_whose_claims_do_not_fit_is_refused(issuer, claims):
    assert refused(trusting(issuer), issuer.token(**claims)).code == "invalid-token"


def test_an_audience_in_a_list_is_found(issuer):
    assert caller(trusting(issuer), issuer.token(aud=["x", AUDIENCE])).tenant


def test_a_token_without_a_signature_is_refused(issuer):
    tokens = trusting(issuer)
    refused(tokens, unsigned(issuer.claims()))
    head, claims, signature = issuer.token().split(".")
    none = b64url(b'{"alg":"none"}')
    for text in (
        f"{head}.{claims}.",
        f"{head}.{claims}",
        f"{none}.{claims}.{signature}",
        f"{head}.{claims}.{signature}.",
        f"{head}..{signature}",
    ):
        refused(tokens, text)


def test_the_public_key_is_no_secret_for_hmac(issuer):
    tokens = trusting(issuer)
    for name in ("rsa", "ec"):
        pem = issuer.keys[name].as_pem(private=False)
        for secret in (pem, json.dumps(issuer.key_set()).encode()):
            refused(tokens, issuer.token(alg="HS256", kid=name, key=secret))


def test_a_symmetric_key_that_an_issuer_publishes_is_not_used(issuer):
    entry = {"kty": "oct", "kid": "shared", "k": b64url(b"s" * 32)}

    class Careless(LocalIssuer):
        def key_set(self, **_: Any):
            return super().key_set(also=[entry])

    careless = Careless()
    text = careless.token(alg="HS256", kid="shared", key=b"s" * 32)
    refused(trusting(careless), text)


def test_a_key_of_another_kind_or_owner_does_not_do(issuer):
    tokens, other = trusting(issuer), LocalIssuer()
    refused(tokens, other.token())  # same key ids, other keys
    refused(tokens, issuer.token(alg="ES256", kid="rsa", key=issuer.keys["ec"]))
    refused(tokens, issuer.token(alg="RS256", kid="ec", key=issuer.keys["rsa"]))
    refused(tokens, issuer.token(alg="ES384", key=ECKey.generate_key("P-384")))
    own = other.keys["ec"].as_dict(private=False)
    refused(tokens, other.token(header={"jwk": own}))
    refused(tokens, other.token(header={"jku": "https://evil.test/keys"}))


def test_an_algorithm_that_the_operator_left_out_is_refused(issuer):
    tokens = trusting(issuer, algorithms=["ES256"])
    caller(tokens, issuer.token(alg="ES256"))
    refused(tokens, issuer.token(alg="RS256"))


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"typ": "dpop+jwt"},
        {"typ": 7},
        {"kid": 7},
        {"kid": ["ec"]},
        {"x": "y" * 5000},
    ],
    ids=lambda h: str(h)[:30],
)
def test_a_header_that_asks_for_more_is_refused(issuer, header):
    refused(trusting(issuer), issuer.token(header=header))


def test_members_said_twice_and_other_malformed_tokens_are_refused(issuer):
    tokens, key = trusting(issuer), issuer.keys["ec"]
    good = json.dumps(issuer.claims())
    twice = good[:-1] + ', "tenant": "other"}'
    head = {"alg": "ES256", "kid": "ec"}
    deep = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    for payload in (twice.encode(), b"[]", b"\xff", b"{", b'{"exp": NaN}', deep):
        refused(tokens, issuer.sign(head, payload, key))
    long = json.dumps(issuer.claims(more="x" * 20_000)).encode()
    for text in (
        issuer.sign(head, long, key),
        "a.b.c",
        "...",
        "é.é.é",
        issuer.token() + "=",
        issuer.token() + "A",
        " " + issuer.token(),
    ):
        refused(tokens, text)


def test_every_changed_character_of_the_signed_part_is_noticed(issuer):
    tokens, text = trusting(issuer), issuer.token()
    for at in range(0, len(text), 7):
        if text[at] != ".":
            other = "A" if text[at] != "A" else "B"
            refused(tokens, text[:at] + other + text[at + 1 :])


def test_a_short_rsa_key_is_not_used():
    weak = LocalIssuer()
    with pytest.warns(match="bits"):
        weak.keys["rsa"] = RSAKey.generate_key(1024, {"kid": "rsa"})
    refused(trusting(weak), weak.token(alg="RS256"))


def test_an_issuer_maps_its_words_to_tenants_and_scopes(issuer):
    tokens = trusting(
        issuer,
        tenant_claim=["org", "name"],
        tenants={"ACME Corp": "acme"},
        scopes_claim=["realm_access", "roles"],
        scopes={"scientist": ["jobs:read", "jobs:write"], "boss": ["admin"]},
    )
    roles = {"roles": ["scientist", "boss", "admin", 7]}
    org = {"name": "ACME Corp"}
    found = caller(tokens, issuer.token(org=org, realm_access=roles))
    assert (found.tenant, found.scopes) == ("acme", {"jobs:read", "jobs:write"})
    assert not found.allows("admin")
    for wrong in ({"name": "acme"}, "ACME Corp", {}, None):
        refused(tokens, issuer.token(org=wrong, realm_access=roles))
    assert caller(tokens, issuer.token(org=org, realm_access=3)).scopes == frozenset()


def test_only_an_issuer_of_operators_makes_operators(issuer):
    text = issuer.token(scope="admin inputs:read jobs:read tenant:admin unheard-of")
    usual = caller(trusting(issuer, tenant="fixed"), text)
    assert usual.tenant == "fixed"
    assert usual.scopes == {"jobs:read", "tenant:admin"}
    assert caller(trusting(issuer, allow_operators=True), text).allows("admin")


def test_keys_that_are_rotated_in_are_found_and_old_ones_are_gone(issuer):
    clock, lent = [0.0], LocalIssuer()
    keys = IssuerKeys(
        "https://issuer.test", transport=lent.transport(), clock=lambda: clock[0]
    )
    entry = Issuer(issuer=ISSUER, audience=AUDIENCE, jwks="https://issuer.test")
    tokens = Tokens([entry], keys={ISSUER: keys})
    old = lent.token()
    caller(tokens, old)
    lent.keys["ec"] = ECKey.generate_key("P-256", {"kid": "ec2"})
    new = lent.token(kid="ec2", key=lent.keys["ec"])
    for _ in range(5):
        refused(tokens, new)
    assert lent.requests == 1  # asked a moment ago
    clock[0] += 31
    caller(tokens, new)
    refused(tokens, old)
    for _ in range(20):
        refused(tokens, lent.token(kid="made-up", key=lent.keys["ec"]))
    assert lent.requests == 2


def test_an_issuer_that_is_away_is_believed_for_an_hour(issuer):
    clock, lent = [0.0], LocalIssuer()
    keys = IssuerKeys(
        "https://issuer.test", transport=lent.transport(), clock=lambda: clock[0]
    )
    entry = Issuer(issuer=ISSUER, audience=AUDIENCE, jwks="https://issuer.test")
    tokens = Tokens([entry], keys={ISSUER: keys})
    lent.is_down = True
    with pytest.raises(UnavailableError) as away:
        caller(tokens, lent.token())
    assert away.value.code == "issuer-unreachable"
    lent.is_down = False
    clock[0] += 31
    caller(tokens, lent.token())
    lent.is_down = True
    clock[0] += 3500
    caller(tokens, lent.token())
    clock[0] += 200
    with pytest.raises(UnavailableError):
        caller(tokens, lent.token())


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"keys": 1}', b"x" * (1 << 19)])
def test_a_key_set_that_is_none_is_no_key_set(tmp_path, issuer, answer):
    (tmp_path / "keys").write_bytes(answer)
    keys = IssuerKeys(str(tmp_path / "keys"))
    with pytest.raises(UnavailableError):
        asyncio.run(keys.find("ec", "ES256"))


ODD_KEYS = [
    {"kty": "RSA", "n": 1, "e": []},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "key_ops": 5},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "key_ops": None},
    {"kty": "OKP", "crv": [], "x": 3},
    {"kty": "oct", "k": "AAAA"},
    {"kty": []},
    7,
]


@pytest.mark.parametrize("odd", ODD_KEYS)
def test_a_key_that_makes_no_sense_stands_in_no_others_way(tmp_path, odd):
    good = ECKey.generate_key("P-256", {"kid": "ec"}).as_dict(private=False)
    (tmp_path / "keys").write_text(json.dumps({"keys": [odd, good]}))
    assert asyncio.run(IssuerKeys(str(tmp_path / "keys")).find("ec", "ES256"))


def test_settings_refuse_keys_over_plain_http_and_an_issuer_twice():
    entry = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "http://issuer.test/keys"}
    with pytest.raises(ValidationError):
        Settings(oidc_issuers=[entry])
    entry["jwks"] = "/etc/keys.json"
    with pytest.raises(ValidationError):
        Settings(oidc_issuers=[entry, entry])
    with pytest.raises(ValidationError):
        Settings(oidc_issuers=[{**entry, "algorithms": ["HS256"]}])
    assert Settings(oidc_issuers=[entry]).oidc_issuers[0].jwks == "/etc/keys.json"
