"""Addresses that commands listen on."""

import socket

from privacy.errors import UnavailableError


def check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before anything is printed."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        msg = (
            f"cannot listen on {host} port {port} ({exc.strerror}): choose another "
            "--host or --port, or stop what uses it"
        )
        raise UnavailableError(msg, code="address-in-use") from exc
