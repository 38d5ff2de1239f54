"""The command `privacy`: publish, serve, infer, verify.

Exit codes: 0 ok, 2 usage, 3 authentication, 4 not found, 5 job failed,
6 verification failed, 7 could not verify, 8 unavailable; 1 a defect, 130 interrupted.
"""

import sys

from privacy.cli import (
    access,
    attest,
    attest_results,
    audit,
    broker,
    certs,
    chain,
    chain_setup,
    chain_watch,
    choosing,
    data_owner,
    disputes,
    fhe,
    gateway,
    gateway_keys,
    infer,
    keys,
    log,
    node,
    operator,
    peers,
    publisher,
    tee,
    verify,
    webhooks,
    zk,
    zk_evm,
)
from privacy.cli.app import app, run

__all__ = [
    "access",
    "app",
    "attest",
    "attest_results",
    "audit",
    "broker",
    "certs",
    "chain",
    "chain_setup",
    "chain_watch",
    "choosing",
    "data_owner",
    "disputes",
    "fhe",
    "gateway",
    "gateway_keys",
    "infer",
    "keys",
    "log",
    "main",
    "node",
    "operator",
    "peers",
    "publisher",
    "tee",
    "verify",
    "webhooks",
    "zk",
    "zk_evm",
]


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))
