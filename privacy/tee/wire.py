"""Messages between the node and its enclave, over a unix socket.

A message is its length (u64, little-endian) and a packed list: a JSON header, then
bodies. A request's header is `{"op"}`; an answer's is free, or `{"error"}` with
family, code and message. Before an answer there may be `{"progress"}`, any number.
"""

import socket
import struct

from privacy.encoding import Json, canonical_json, pack, parse_object, unpack
from privacy.errors import FormatError, PrivacyError, error_from

RECORD = "enclave.json"
SOCKET = "enclave.sock"
MODEL = "model.onnx"
"""Files of an enclave: record and socket in its run folder, model in the model's."""

MAX_MESSAGE_BYTES = (1 << 26) + (1 << 20)
_LENGTH = struct.Struct("<Q")
_MAX_BODIES = 4


def send_message(connection: socket.socket, header: Json, *bodies: bytes) -> None:
    """Send one message."""
    body = pack([canonical_json(header), *bodies])
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive_message(connection: socket.socket) -> tuple[Json, list[bytes]]:
    """Return the next message's header and bodies.

    Raises:
        EOFError: The other side closed the connection.
        FormatError: Not a message of this protocol.
    """
    (size,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    if size > MAX_MESSAGE_BYTES:
        msg = f"a message of {size} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
        raise FormatError(msg, code="too-large")
    raw = _receive_exactly(connection, size)
    header, *bodies = unpack(raw, what="message", max_frames=1 + _MAX_BODIES)
    return parse_object(header, what="message header", limit=1 << 16), bodies


def describe_error(error: PrivacyError) -> Json:
    """Return the header that carries an error."""
    family, code = type(error).__name__, error.code
    return {"error": {"family": family, "code": code, "message": error.message}}


def raise_described(header: Json) -> None:
    """Raise the error that a header carries, if it carries one."""
    if "error" in header:
        raise error_from(**header["error"])


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
