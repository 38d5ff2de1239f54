from gateway.identity.caller import SCOPES, Caller


def having(*scopes: str, tenant: str = "a") -> Caller:
    return Caller("key_1", tenant, frozenset(scopes))


def test_an_operator_has_every_scope():
    assert all(having("admin").allows(scope) for scope in SCOPES)


def test_a_tenants_admin_has_the_scopes_within_a_tenant():
    granted = {s for s in SCOPES if having("tenant:admin").allows(s)}
    assert granted == {"models:read", "jobs:read", "jobs:write", "tenant:admin"}


def test_any_other_scope_is_only_itself():
    for scope in (
        "models:read",
        "jobs:read",
        "jobs:write",
        "inputs:read",
        "metrics:read",
    ):
        assert {s for s in SCOPES if having(scope).allows(s)} == {scope}


def test_a_tenants_admin_manages_keys_that_stay_within_the_tenant():
    admin = having("tenant:admin")
    assert admin.may_manage("a", ["jobs:read", "tenant:admin"])
    assert not admin.may_manage("b", ["jobs:read"])
    assert not admin.may_manage("a", ["jobs:read", "admin"])
    assert not admin.may_manage("a", ["inputs:read"])
    assert not having("jobs:write").may_manage("a", ["jobs:read"])
    assert having("admin").may_manage("b", ["admin"])
