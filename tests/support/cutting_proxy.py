"""A proxy that cuts connections after so many bytes, as bad networks do.

with CuttingProxy(gateway_port, cut_after=[500_000, 700_000]) as proxy:
    Client(proxy.url).infer(…)  # the first two long requests break off
"""

import socket
import threading
from contextlib import suppress
from typing import Self


class CuttingProxy:
    """Passes bytes on; each limit of `cut_after` ends one connection."""

    def __init__(self, port: int, cut_after: list[int]) -> None:
        self._port = port
        self._limits = list(cut_after)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes_up = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def cuts_left(self) -> int:
        return len(self._limits)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
            back.start()
            with suppress(OSError):
                self._pass_up(near, far)
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                far.shutdown(socket.SHUT_WR)  # no reset: what was passed on arrives
            back.join(10)

    def _pass_up(self, near: socket.socket, far: socket.socket) -> None:
        passed = 0
        while chunk := near.recv(1 << 16):
            with self._lock:
                self.bytes_up += len(chunk)
                passed += len(chunk)
                if self._limits and passed > self._limits[0]:
                    self._limits.pop(0)
                    return
            far.sendall(chunk)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
