"""`python -m tests.support.gateway_with_fakes`: `python -m gateway`, fake engines."""

import sys

from gateway.app import run
from gateway.executors.base import Engines
from gateway.settings import Settings
from tests.support.fake_enclave import fake_enclave


def announce(first_key):
    if first_key:
        sys.stdout.write(f"admin key, shown once: {first_key}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    engines = Engines("tests.support.fake_worker:handler", fake_enclave)
    run(Settings(), announce=announce, engines=engines)
