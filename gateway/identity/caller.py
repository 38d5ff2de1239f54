"""Who asks: a tenant, and the scopes that its key or token has.

| Scope | Allows |
|---|---|
| models:read | see models, nodes and evidence of enclaves |
| jobs:read | see the tenant's jobs, results and uploads |
| jobs:write | upload, submit, cancel and delete for the tenant |
| tenant:admin | all of these, and the tenant's own API keys |
| inputs:read | read what any tenant handed over for contracts: for watchers |
| metrics:read | read the metrics of the gateway: for monitors |
| admin | operate the gateway: everything, for every tenant |

Nobody but an operator (`admin`) reaches past the own tenant; nor does an operator's key
read another tenant's jobs or uploads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

Scope = Literal[
    "models:read",
    "jobs:read",
    "jobs:write",
    "tenant:admin",
    "inputs:read",
    "metrics:read",
    "admin",
]
SCOPES: tuple[str, ...] = get_args(Scope)
OF_OPERATOR = ("inputs:read", "metrics:read", "admin")
OF_TENANT = tuple(scope for scope in SCOPES if scope not in OF_OPERATOR)
TENANT_NAME = "^[a-z0-9][a-z0-9._-]{0,62}$"
Tenant = Annotated[str, Field(pattern=TENANT_NAME)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        id: Of the API key, or a digest of the token's issuer and subject.
        tenant: Whose jobs and uploads they see.
        scopes: As granted; see `allows`.
    """

    id: str
    tenant: str
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """Whether the caller has a scope, or one that implies it."""
        return allows(self.scopes, scope)

    def may_manage(self, tenant: str, scopes: Iterable[str]) -> bool:
        """Whether the caller may make and end keys of a tenant with such scopes."""
        if self.allows("admin"):
            return True
        own = self.allows("tenant:admin") and tenant == self.tenant
        return own and set(OF_TENANT).issuperset(scopes)


def allows(scopes: Iterable[str], scope: str) -> bool:
    """Whether one of these scopes is the wanted one or implies it."""
    implying = {scope, "admin"} | ({"tenant:admin"} if scope in OF_TENANT else set())
    return not implying.isdisjoint(scopes)
