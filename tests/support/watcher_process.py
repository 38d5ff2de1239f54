"""A watcher as a process to be killed: proofs that were made before, no gateway."""

import json
import sys
import time
from pathlib import Path

from gateway.chain.watcher import Terms, Watcher
from privacy.bundle import open_bundle
from privacy.chain.account import Signer, eth_account
from privacy.chain.config import read_config
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Prices, Sender
from privacy.errors import UnavailableError
from tests.support.chain_site import ProvenJobs


def main(job: dict[str, str]) -> None:
    config = read_config(Path(job["chain"]))
    rpc = Rpc(config.rpc)
    signer = Signer(eth_account().from_key(int(job["key"]).to_bytes(32, "big")))
    prices = Prices(patience_s=3.0)
    watcher = Watcher(
        config,
        rpc=rpc,
        sender=Sender(rpc, signer, chain_id=config.chain_id, prices=prices),
        jobs=ProvenJobs({k.encode(): v.encode() for k, v in job["evidence"].items()}),
        bundles=lambda _: open_bundle(Path(job["bundle"]), check_files=False),
        terms=Terms(Path(job["folder"])),
        notify=lambda _: None,
    )
    while True:
        try:
            watcher.round()
        except UnavailableError:
            time.sleep(0.2)
        time.sleep(0.05)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
