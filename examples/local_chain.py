"""A development chain on this machine, for the examples: anvil as its own process."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from privacy.chain.rpc import Rpc
from privacy.errors import UnavailableError
from privacy.zkml.evm.solc import find_anvil

ETHER = 10**18


@contextmanager
def chain() -> Iterator[str]:
    """Start a chain that is empty and forgets everything; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [str(find_anvil()), "--port", str(port), "--silent"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, *, limit_s: float = 30.0) -> None:
    """Return once the chain answers.

    Raises:
        UnavailableError: It does not in time.
    """
    node = Rpc(url)
    end = time.monotonic() + limit_s
    try:
        while True:
            try:
                node.chain_id()
            except UnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return
    finally:
        node.close()


def fund(url: str, address: str, *, ether: int = 100) -> None:
    """Give an account money, as only a development chain does."""
    node = Rpc(url)
    node.ask("anvil_setBalance", address, hex(ether * ETHER))
    node.close()
