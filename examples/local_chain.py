"""A development chain on this machine: anvil as its own process, for the examples.

    python examples/local_chain.py [--port 8545] [--fund ADDRESS]

runs one until it is stopped, for the commands of docs/smart-contracts.md. It is empty
and forgets everything; `--fund` gives 100 ether to who pays (`privacy chain account`).
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from privacy.chain.rpc import Rpc
from privacy.cli.output import fail
from privacy.errors import PrivacyError, UnavailableError
from privacy.zkml.evm.solc import find_anvil

ETHER = 10**18


@contextmanager
def chain(port: int = 0) -> Iterator[str]:
    """Start a chain that is empty and forgets everything; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
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


def main() -> int:
    """Run a chain until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8545)
    parser.add_argument("--fund", metavar="ADDRESS", help="give it 100 ether")
    args = parser.parse_args()
    try:
        with chain(args.port) as url:
            if args.fund:
                fund(url, args.fund)
            node = Rpc(url)
            node.ask("evm_setIntervalMining", 1)  # what is confirmed is some blocks old
            node.close()
            print(f"a chain at {url}, until this is stopped", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.exit(f"port {args.port}: {error.strerror}; choose another with --port")
    except PrivacyError as error:
        sys.exit(fail(error, as_json=False))


if __name__ == "__main__":
    sys.exit(main())
