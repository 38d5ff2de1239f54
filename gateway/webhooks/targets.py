"""Which addresses a webhook may call, so that nobody calls our own network through it.

1. The URL is https, without user or password, to port 443 or one from 1024 on.
2. The name is resolved once. Every address it has must be public.
3. The connection goes to the address that was checked, never to the name again: a name
   that changes its mind in between (DNS rebinding) changes nothing.
4. No redirects, no proxies, few seconds, and the answer's body is not read.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from privacy.errors import FormatError, UnavailableError

MAX_URL = 2000
_LOOKUPS_AT_ONCE = 64
_HTTPS, _HTTP, _LEAST_FREE_PORT, _LAST_PORT = 443, 80, 1024, 65535
_NAME = re.compile(r"[A-Za-z0-9._-]+")

# Threads of their own: a name whose server never answers takes one for half a minute,
# and everything else that a gateway does would wait for it.
_lookups = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="webhook-names")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]

# The registries of special addresses, RFC 6890 and its followers. `is_global` of older
# Pythons knows some of them otherwise.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata is in it
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own services, on an address that looks public
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(net)
    for net in (
        "2001::/23",  # protocols: Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
    )
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator allows beyond the rules."""

    allow_http: bool = False
    allow_private: bool = False


def check_url(text: str, rules: Rules) -> httpx.URL:
    """Return a URL that a webhook may have; its name is not resolved yet.

    Raises:
        FormatError: It may not.
    """
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError):
        raise _refused("it is not a URL") from None
    if len(text) > MAX_URL:
        raise _refused(f"it has more than {MAX_URL} characters")
    if url.scheme != "https" and not (rules.allow_http and url.scheme == "http"):
        raise _refused("it is not https")
    if url.userinfo or url.fragment or not host:
        raise _refused("it has a user, a fragment or no host")
    port = url.port or {"https": _HTTPS, "http": _HTTP}[url.scheme]
    if port not in {_HTTPS, _HTTP} and not _LEAST_FREE_PORT <= port <= _LAST_PORT:
        raise _refused(f"its port is {port}, expected 443 or one from 1024 on")
    address = _literal(host)
    if address is None and not _NAME.fullmatch(host):
        raise _refused("its host is not a name or an address")
    if address and not (rules.allow_private or is_public(address)):
        raise _refused("its address is not a public one")
    return url


async def resolve(
    url: httpx.URL, rules: Rules, *, lookup: Resolve | None = None
) -> str:
    """Return the one address to connect to.

    Raises:
        UnavailableError: The name has no address, or one that is not public.
    """
    port = url.port or {"https": _HTTPS, "http": _HTTP}[url.scheme]
    host = url.raw_host.decode("ascii").strip("[]")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(_lookups, lookup or _addresses, host, port)
    except (OSError, UnicodeError):
        found = []
    if not found:
        msg = "the webhook's host has no address: check its name"
        raise UnavailableError(msg, code="webhook-unresolved")
    addresses = [ipaddress.ip_address(text) for text in found]
    if not rules.allow_private and not all(is_public(a) for a in addresses):
        msg = "the webhook's host has an address that is not public: it is not called"
        raise UnavailableError(msg, code="webhook-not-public")
    return str(addresses[0])


def is_public(address: IpAddress) -> bool:
    """Whether an address belongs to the internet at large."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in net for net in _NOT_PUBLIC_4)
    if address.ipv4_mapped:
        return is_public(address.ipv4_mapped)
    if address.scope_id or address not in _PUBLIC_6:  # NAT64 is not in it either
        return False
    return not any(address in net for net in _NOT_PUBLIC_6)


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _refused(why: str) -> FormatError:
    msg = f"this URL cannot be a webhook's: {why}"
    return FormatError(msg, code="webhook-url")
