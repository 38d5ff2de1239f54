"""A loan on a chain that opens only for a proven credit score.

Trains a credit model, publishes it, starts a development chain (anvil) and a gateway,
and deploys the contracts. Two people apply through a contract; only hashes of their
data go on chain. The gateway's watcher has each score proven, the chain verifies the
proof, and the contract is called back. Then an answer is forged before your eyes.

    make demo-chain              # or, in an environment that has everything:
    python examples/demo_chain.py [--json]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train_credit
from local_chain import chain, fund
from local_gateway import gateway
from rich.console import Console

from privacy.bundle import Bundle, standardise
from privacy.chain.abi import Reverted
from privacy.chain.account import open_keystore
from privacy.chain.config import ChainConfig, read_config
from privacy.chain.contracts import OnChain, contract, deploy
from privacy.chain.models import answer_of, input_path
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.cli.output import fail, progress
from privacy.errors import BackendError, PrivacyError
from privacy.modes import Mode
from privacy.publish import publish
from privacy.zkml.blobs import Proof, make_input
from privacy.zkml.evm.commit import input_commitments
from privacy.zkml.params import parse_params

ROOT = Path(__file__).resolve().parents[1]
VAR = ROOT / "var" / "demo-chain"
CLASSES = ("default", "paid")
FEE, AMOUNT = 10**16, 5000
LEAST_LOGIT = 1.0
PASSWORD = "of the demo"  # noqa: S105 - guards nothing
console = Console(highlight=False, stderr=True)


@dataclass(frozen=True)
class Stage:
    """What the demo has set up on the chain."""

    url: str
    config: ChainConfig
    model_id: bytes
    bundle: Bundle
    node: Rpc
    sender: Sender
    loan: OnChain

    @property
    def coordinator(self) -> OnChain:
        """The contract that takes requests."""
        return contract(self.node, self.config, "coordinator")


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print what happened")
    args = parser.parse_args()
    shutil.rmtree(VAR, ignore_errors=True)
    started = time.monotonic()
    bundle, good, poor = published()
    with chain() as url, gateway(VAR) as (gateway_url, api_key):
        stage = set_up(url, bundle)
        console.rule("4. two people apply; only hashes of their data go on chain")
        ids = [apply_for(stage, row) for row in (good, poor)]
        console.rule("5. the watcher has the scores proven and delivers them")
        watch(url, gateway_url, api_key)
        told = [decided(stage, request_id) for request_id in ids]
        for name, one in zip(("good", "poor"), told, strict=True):
            console.print(f"{name} applicant: score {one['score']:.2f}, {one['words']}")
        console.rule("6. a forged answer")
        refused = forge(stage, poor)
        stage.node.close()
    seconds = time.monotonic() - started
    fine = told[0]["open"] and not told[1]["open"] and refused == "ProofInvalid"
    console.print(f"\n{'As it should be' if fine else 'WRONG'}; {seconds:.0f} s in all")
    if args.json:
        found = {"decided": told, "forged": refused, "seconds": seconds}
        sys.stdout.write(json.dumps(found) + "\n")
    return 0 if fine else 1


def published() -> tuple[Bundle, list[float], list[float]]:
    """Return the credit model, and a good and a poor applicant it has not seen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    console.rule("1. train and publish a credit model")
    rows, defaulted = train_credit.applicants(1000, seed=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(rows[:700], 1 - defaulted[:700])
    with progress(quiet=False) as notify:
        bundle = publish(
            model,
            rows[:900],
            columns=list(train_credit.COLUMNS),
            classes=CLASSES,
            name="credit-score",
            version="1",
            store=VAR / "models",
            home=VAR / "publisher",
            modes=[Mode.ZKML],
            progress=notify,
        )
    bundle.manifest.mode(Mode.ZKML)
    logits = model.decision_function(rows[900:])
    order = sorted(range(100), key=lambda i: logits[i])
    return bundle, rows[900 + order[75]].tolist(), rows[900 + order[10]].tolist()


def set_up(url: str, bundle: Bundle) -> Stage:
    """Deploy the contracts, the model's verifier and the loan."""
    console.rule("2. contracts, and the model's verifier, made and compiled here")
    fund(url, privacy("chain", "account", *where())["address"])
    privacy("chain", "deploy", "--rpc", url, "--confirmations", "1", *where("chain"))
    verifier = VAR / "verifier"
    facts = privacy("zk", "solidity", str(bundle.root), "--out", str(verifier))
    made = facts[facts["chosen"]]
    console.print(
        f"{facts['chosen']} verifier: {made['runtime_bytes']:,} bytes, "
        f"{made['verify_gas']:,} gas a proof"
    )
    paths = [str(bundle.root), "--verifier", str(verifier)]
    model = privacy("chain", "register", *paths, *where("chain"))
    config, node = read_config(VAR / "chain.json"), Rpc(url)
    signer = open_keystore(VAR / "keystore.json", PASSWORD)
    sender = Sender(node, signer, chain_id=config.chain_id)
    console.rule("3. a loan that opens only for a proven score")
    bits = parse_params(bundle.manifest.mode(Mode.ZKML).params).output_scale_bits
    coordinator = config.contracts["coordinator"]
    model_id = bytes.fromhex(model["model_id"])
    least = int(LEAST_LOGIT * 2**bits)
    # The SRS was made here, offline: whoever publishes for value takes a public one.
    terms = (coordinator, model_id, sender.address, least, AMOUNT, True)
    loan = deploy(sender, node, "ProvenLoan", *terms)
    console.print(f"loan at {loan.address}, for a logit of {LEAST_LOGIT} or more")
    return Stage(url, config, model_id, bundle, node, sender, loan)


def apply_for(stage: Stage, row: list[float]) -> int:
    """Apply with one person's data, which goes to the watcher's folder only."""
    commitment, blob = commit(stage.bundle, row)
    path = input_path(VAR, commitment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)
    stage.loan.send(stage.sender, "vouch", commitment, stage.sender.address)
    request_id = int(stage.coordinator.view("nextRequestId"))
    stage.loan.send(stage.sender, "apply_", commitment, value=FEE)
    console.print(f"request {request_id}: input {commitment.hex()[:16]}…")
    return request_id


def commit(bundle: Bundle, row: list[float]) -> tuple[bytes, bytes]:
    """Return what the chain knows a row by, and the input that nodes prove from."""
    rows = standardise([row], bundle.manifest.columns)
    salt = os.urandom(32)
    (commitment,) = input_commitments(bundle, rows, salt=salt)
    return commitment.to_bytes(32, "big"), make_input(rows, salt=salt)


def watch(url: str, gateway_url: str, api_key: str) -> None:
    """Run the watcher until no request is open."""
    node = Rpc(url)
    node.ask("anvil_mine", "0x2")
    node.ask("evm_setIntervalMining", 1)
    node.close()
    paths = ["--store", str(VAR / "models"), "--folder", str(VAR)]
    how = ["--gateway", gateway_url, "--once", "--every-s", "0.5"]
    privacy("chain", "watch", *paths, *how, *where("chain"), PRIVACY_API_KEY=api_key)


def decided(stage: Stage, request_id: int) -> dict[str, Any]:
    """Return what the loan contract made of a request."""
    topic = request_id.to_bytes(32, "big")
    loan = stage.loan
    (log,) = stage.node.logs(loan.address, [loan.abi.topic("Decided"), topic])
    topics = [bytes.fromhex(t[2:]) for t in log["topics"]]
    event = loan.abi.event(topics, bytes.fromhex(log["data"][2:]))
    if event is None:
        raise BackendError("the loan decided nothing")
    bits = parse_params(stage.bundle.manifest.mode(Mode.ZKML).params).output_scale_bits
    is_open = bool(event.values["open"])
    words = "the loan is open" if is_open else "no loan"
    return {"score": event.values["score"] / 2**bits, "open": is_open, "words": words}


def forge(stage: Stage, row: list[float]) -> str:
    """Ask once more, deliver an answer of our own making, and return the refusal."""
    request_id = apply_for(stage, row)
    commitment, _ = commit(stage.bundle, row)
    size = parse_params(stage.bundle.manifest.mode(Mode.ZKML).params).proof_bytes
    wanted = (int.from_bytes(commitment, "big"), 10**6)
    served = stage.config.models[stage.model_id.hex()]
    answer = answer_of(Proof(wanted, os.urandom(size)), served)
    try:
        stage.coordinator.send(stage.sender, "deliver", request_id, answer)
    except Reverted as exc:
        console.print(f"a score of one's own making: the chain says {exc.error}")
        return exc.error
    return "accepted"


def where(*more: str) -> list[str]:
    """Return the options that name the demo's own files."""
    files = {"chain": ["--chain", str(VAR / "chain.json")]}
    chosen = [word for name in more for word in files[name]]
    return [*chosen, "--keystore", str(VAR / "keystore.json")]


def privacy(*arguments: str, **environment: str) -> Any:
    """Run `privacy …` as a user would, and return what it printed."""
    console.print(f"[dim]$ privacy {' '.join(arguments[:2])} …[/]")
    done = subprocess.run(
        [sys.executable, "-m", "privacy", *arguments, "--json"],
        env={**os.environ, "PRIVACY_CHAIN_PASSWORD": PASSWORD, **environment},
        stdout=subprocess.PIPE,
        check=False,
        timeout=300,
    )
    said = json.loads(done.stdout)
    if done.returncode:
        raise BackendError(f"privacy {arguments[1]}: {said['error']['message']}")
    return said


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrivacyError as error:
        sys.exit(fail(error, as_json=False))
