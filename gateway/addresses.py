"""Whose an address is, for what is counted by address."""

import ipaddress

_CUSTOMER_BITS = 64  # what one customer of a provider has at least of IPv6
_MOST_CHARACTERS = 64


def network_of(address: str) -> str:
    """Return what is counted together: an address, or an IPv6 customer's network."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address[:_MOST_CHARACTERS]
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _CUSTOMER_BITS), strict=False))
