"""`python -m tests.support.gateway_with_fakes`: `python -m gateway`, fake engines."""

import sys

from gateway.app import bootstrap_admin_key, run
from gateway.executors.base import Engines
from gateway.settings import Settings
from tests.support.fake_enclave import fake_enclave

if __name__ == "__main__":
    settings = Settings()
    if key := bootstrap_admin_key(settings):
        sys.stdout.write(f"admin key, shown once: {key}\n")
        sys.stdout.flush()
    run(settings, engines=Engines("tests.support.fake_worker:handler", fake_enclave))
