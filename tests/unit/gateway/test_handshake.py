import pytest

from gateway.handshake import Connections


@pytest.mark.parametrize(
    ("addresses", "taken"),
    [
        (["192.0.2.1"] * 3, 2),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], 3),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], 2),
        (["2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"], 3),
        (["10.0.0.1"] * 3, 3),
        ([""] * 3, 2),
    ],
    ids=["one", "three", "one customer", "three customers", "a proxy", "a socket file"],
)
def test_an_address_has_so_many_connections_and_an_ipv6_customer_is_one_address(
    addresses: list[str], taken: int
):
    known = Connections(by_address=2, trusted=("10.0.0.0/8",))
    assert sum(known.enter(address) for address in addresses) == taken
    for address in addresses:
        known.leave(address)
    assert not known._open
