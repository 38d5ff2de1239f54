"""Messages between an enclave and its prover, over sockets made before the sandbox.

    control    enclave to prover: two bytes, START or END and the number of a channel
    channel    enclave to the job's process: a row; back: a proof or an error; and from
               the prover itself: that the process has ended by itself; or, after END,
               that it is gone and the channel is empty

Sockets are of the kind that keeps messages apart (SOCK_SEQPACKET), so that what a
killed process leaves behind can be told from what comes after. A message that is too
long for one packet goes in several.
"""

import socket

START, END = b"s", b"e"

_MORE, _LAST, _ENDED, _CLEAR = b"+", b".", b"!", b"="
_PACKET_BYTES = 1 << 15


class ProcessEnded(Exception):  # noqa: N818 - it says what happened
    """The job's process has ended; nothing of it comes after."""


def send(channel: socket.socket, message: bytes) -> None:
    """Send one message."""
    for at in range(0, len(message), _PACKET_BYTES):
        rest = len(message) - at
        kind = _MORE if rest > _PACKET_BYTES else _LAST
        channel.send(kind + message[at : at + _PACKET_BYTES])


def send_ended(channel: socket.socket) -> None:
    """Say that the job's process has ended by itself."""
    channel.send(_ENDED)


def clear(channel: socket.socket) -> None:
    """Throw away what no process has read, and say so: the job is over.

    A row that one job left must not reach the process of the next.
    """
    channel.settimeout(0)
    try:
        while channel.recv(1 + _PACKET_BYTES):
            pass
    except BlockingIOError:
        pass
    channel.settimeout(None)
    channel.send(_CLEAR)


def skip_to_clear(channel: socket.socket) -> None:
    """Read up to where the last job is over.

    Raises:
        EOFError: The other side is gone.
    """
    while (packet := channel.recv(1 + _PACKET_BYTES)) != _CLEAR:
        if not packet:
            raise EOFError


def receive(channel: socket.socket) -> bytes:
    """Return the next message.

    Raises:
        EOFError: The other side is gone.
        ProcessEnded: Its process has ended.
        TimeoutError: Nothing came within the socket's limit.
    """
    message = bytearray()
    while True:
        packet = channel.recv(1 + _PACKET_BYTES)
        if not packet:
            raise EOFError
        if packet[:1] == _ENDED:
            raise ProcessEnded
        message += packet[1:]
        if packet[:1] == _LAST:
            return bytes(message)
