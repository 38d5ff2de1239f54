"""A loan on a chain that opens only for a proven credit score.

Trains a credit model, publishes it, starts a development chain (anvil) and a gateway,
and deploys the contracts. Two people apply through a contract; only hashes of their
data go on chain. The gateway's watcher has each score proven, the chain verifies the
proof, and the contract is called back. A third is scored by an enclave that an
authority vouched for, and by proof and enclave at once. Then answers are forged before
your eyes.

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
from privacy.chain.account import eth_account, open_keystore
from privacy.chain.config import ChainConfig, read_config
from privacy.chain.contracts import OnChain, contract, deploy
from privacy.chain.inputs import Input, make_input
from privacy.chain.models import (
    ATTESTATION,
    PROOF,
    OrderOptions,
    answer_of,
    events,
    request_inference,
)
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.cli.output import fail, progress
from privacy.errors import BackendError, PrivacyError
from privacy.modes import Mode
from privacy.onchain import Terms, terms_of
from privacy.publish import publish
from privacy.zkml.blobs import Proof
from privacy.zkml.params import parse_params

ROOT = Path(__file__).resolve().parents[1]
VAR = ROOT / "var" / "demo-chain"
CLASSES = ("default", "paid")
FEE, AMOUNT = 10**16, 5000
LEAST_LOGIT = 1.0
NEAR = 0.05
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
    def terms(self) -> Terms:
        """How the model's answers look on chain."""
        return terms_of(self.bundle.manifest)

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
    bundle, rows = published()
    with chain() as url, gateway(VAR) as (gateway_url, api_key):
        os.environ |= {"PRIVACY_GATEWAY": gateway_url, "PRIVACY_API_KEY": api_key}
        stage = set_up(url, bundle)
        console.rule("4. two people apply; only hashes of their data go on chain")
        ids = [apply_for(stage, name, row) for name, row in rows.items()]
        console.rule("5. an enclave, vouched for, is asked alone and beside a proof")
        asked = ask_enclave(stage)
        console.rule("6. the watcher has answers made and delivers them")
        watch(url)
        told = [decided(stage, request_id) for request_id in ids]
        for name, one in zip(rows, told, strict=True):
            console.print(f"{name} applicant: score {one['score']:.2f}, {one['words']}")
        answers = {kind: answered(stage, i) for kind, i in asked.items()}
        for kind, score in answers.items():
            console.print(f"by {kind}: the good applicant's score is {score:.2f}")
        console.rule("7. forged answers")
        refused = {"proof": forge_proof(stage), "enclave": forge_signature(stage)}
        stage.node.close()
    seconds = time.monotonic() - started
    near = all(abs(score - told[0]["score"]) < NEAR for score in answers.values())
    expected = {"proof": "ProofInvalid", "enclave": "UnknownEnclave"}
    is_fine = told[0]["open"] and not told[1]["open"] and near and refused == expected
    console.print(
        f"\n{'As it should be' if is_fine else 'WRONG'}; {seconds:.0f} s in all"
    )
    if args.json:
        found = {
            "decided": told,
            "answers": answers,
            "forged": refused,
            "seconds": seconds,
        }
        sys.stdout.write(json.dumps(found) + "\n")
    return 0 if is_fine else 1


def published() -> tuple[Bundle, dict[str, Path]]:
    """Return the credit model, and files of a good and a poor applicant."""
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
            modes=[Mode.ZKML, Mode.TEE],
            progress=notify,
        )
    for mode in (Mode.ZKML, Mode.TEE):
        bundle.manifest.mode(mode)
    logits = model.decision_function(rows[900:])
    order = sorted(range(100), key=lambda i: logits[i])
    files = {}
    for name, rank in (("good", 75), ("poor", 10)):
        files[name] = VAR / f"{name}.json"
        files[name].write_text(json.dumps([rows[900 + order[rank]].tolist()]))
    return bundle, files


def set_up(url: str, bundle: Bundle) -> Stage:
    """Deploy the contracts, the model's verifier and the loan."""
    console.rule("2. contracts, and the model's verifier, made and compiled here")
    fund(url, privacy("chain", "account", *where())["address"])
    privacy("chain", "deploy", "--rpc", url, "--confirmations", "1", *where("chain"))
    verifier = VAR / "verifier"
    # The SRS was made here, offline: whoever publishes for value takes a public one.
    words = ["zk", "solidity", str(bundle.root), "--out", str(verifier)]
    facts = privacy(*words, "--allow-insecure-srs")
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
    terms = (coordinator, model_id, sender.address, least, AMOUNT, True)
    loan = deploy(sender, node, "ProvenLoan", *terms)
    console.print(f"loan at {loan.address}, for a logit of {LEAST_LOGIT} or more")
    return Stage(url, config, model_id, bundle, node, sender, loan)


def apply_for(stage: Stage, name: str, row: Path) -> int:
    """Apply with one person's data, which goes to the gateway only."""
    words = ["chain", "input", str(stage.bundle.root), "--input", str(row)]
    made = privacy(*words, "--chain", str(VAR / "chain.json"))
    commitment = bytes.fromhex(made["input_commitment"])
    stage.loan.send(stage.sender, "vouch", commitment, stage.sender.address)
    request_id = int(stage.coordinator.view("nextRequestId"))
    stage.loan.send(stage.sender, "apply_", commitment, value=FEE)
    console.print(f"request {request_id}, {name}: input {commitment.hex()[:16]}…")
    return request_id


def ask_enclave(stage: Stage) -> dict[str, int]:
    """Vouch for the model's enclave and ask it; return requests by their evidence."""
    model = [stage.model_id.hex(), "--bundle", str(stage.bundle.root)]
    folder = ["--folder", str(VAR), "--allow-simulated"]
    enclave = privacy("chain", "vouch", *model, *folder, *where("chain"))
    console.print(
        f"enclave {enclave['enclave']}, simulated: {enclave['simulated']}; attestation "
        f"result {enclave['result_sha256'][:16]}…"
    )
    asked = {}
    for kind in ("attestation", "both"):
        words = ["--input", str(VAR / "good.json"), "--fee", str(FEE)]
        words += ["--evidence", kind, "--allow-simulated", "--allow-insecure-srs"]
        made = privacy("chain", "request", *model, *words, *where("chain"))
        asked[kind] = int(made["request_id"])
    return asked


def watch(url: str) -> None:
    """Run the watcher until no request is open."""
    node = Rpc(url)
    node.ask("anvil_mine", "0x2")
    node.ask("evm_setIntervalMining", 1)
    node.close()
    paths = ["--store", str(VAR / "models"), "--folder", str(VAR)]
    how = ["--once", "--every-s", "0.5"]
    privacy("chain", "watch", *paths, *how, *where("chain"))


def decided(stage: Stage, request_id: int) -> dict[str, Any]:
    """Return what the loan contract made of a request."""
    topic = request_id.to_bytes(32, "big")
    loan = stage.loan
    (log,) = stage.node.logs(loan.address, [loan.abi.topic("Decided"), topic])
    topics = [bytes.fromhex(t[2:]) for t in log["topics"]]
    event = loan.abi.event(topics, bytes.fromhex(log["data"][2:]))
    if event is None:
        raise BackendError("the loan decided nothing")
    bits = stage.terms.output_bits
    is_open = bool(event.values["open"])
    words = "the loan is open" if is_open else "no loan"
    return {"score": event.values["score"] / 2**bits, "open": is_open, "words": words}


def answered(stage: Stage, request_id: int) -> float:
    """Return the score that a request was answered with."""
    coordinator, topic = stage.coordinator, request_id.to_bytes(32, "big")
    topics = [coordinator.abi.topic("Fulfilled"), topic]
    (log,) = stage.node.logs(coordinator.address, topics)
    (event,) = events(coordinator.abi, [log], coordinator.address)
    return float(event.values["outputs"][0] / 2**stage.terms.output_bits)


def forge_proof(stage: Stage) -> str:
    """Ask once more, deliver a proof of our own making, and return the refusal."""
    params = parse_params(stage.bundle.manifest.mode(Mode.ZKML).params)
    given, request_id = ask_again(stage, PROOF)
    wanted = (*given.described, 10**6)
    proof = Proof(wanted, os.urandom(params.proof_bytes))
    served = stage.config.models[stage.model_id.hex()]
    return refusal(stage, request_id, answer_of(proof, served))


def forge_signature(stage: Stage) -> str:
    """Ask once more, sign as an enclave that nobody knows, and return the refusal."""
    given, request_id = ask_again(stage, ATTESTATION)
    wanted = (*given.described, 10**6)
    digest = stage.coordinator.view("answerDigest", request_id, list(wanted))
    made = eth_account().create().unsafe_sign_hash(digest)
    served = stage.config.models[stage.model_id.hex()]
    answer = answer_of(Proof(wanted, b""), served, signature=bytes(made.signature))
    return refusal(stage, request_id, answer)


def ask_again(stage: Stage, evidence: int) -> tuple[Input, int]:
    """Ask about the poor applicant's data, which is handed to nobody."""
    rows = json.loads((VAR / "poor.json").read_text())
    columns = stage.bundle.manifest.columns
    given = make_input(stage.bundle, standardise(rows, columns)[0].tolist())
    options = OrderOptions(
        evidence=evidence, allow_insecure_srs=True, allow_simulated=True
    )
    request_id = request_inference(
        stage.sender,
        stage.node,
        stage.config,
        stage.model_id,
        given,
        fee=FEE,
        options=options,
    )
    return given, request_id


def refusal(stage: Stage, request_id: int, answer: tuple[object, ...]) -> str:
    """Deliver an answer and return the chain's error."""
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


def privacy(*arguments: str) -> Any:
    """Run `privacy …` as a user would, and return what it printed."""
    console.print(f"[dim]$ privacy {' '.join(arguments[:2])} …[/]")
    done = subprocess.run(
        [sys.executable, "-m", "privacy", *arguments, "--json"],
        env={**os.environ, "PRIVACY_CHAIN_PASSWORD": PASSWORD},
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
