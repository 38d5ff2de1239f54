"""Gas and bytecode of checking answers on chain, model by model, in one run on anvil.

For each model and kind of verifier (plain, reusable) the same proof is checked by a
bare call of EZKL's verifier, and delivered in full: verify, pay, call back. The
consumer that is called back does nothing, and the provider has been paid before, so
that `added` is what the contracts themselves cost.
"""

import importlib.util
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.zkml_models import published
from privacy.bundle import Bundle, standardise
from privacy.chain.abi import Abi
from privacy.chain.account import Signer, eth_account
from privacy.chain.config import ChainConfig
from privacy.chain.contracts import contract, deploy_all, deploy_code
from privacy.chain.inputs import Input, make_input
from privacy.chain.models import (
    OrderOptions,
    answer_of,
    register_model,
    request_inference,
)
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.evm import (
    EvmFacts,
    build_verifier,
    parse_vka,
    plain_calldata,
    reusable_calldata,
)
from privacy.zkml.evm.facts import MAX_RUNTIME_BYTES, write_facts
from privacy.zkml.evm.solc import Compiled, compile_sources
from privacy.zkml.local import prove_rows
from privacy.zkml.params import parse_params

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("logistic regression", "mlp 30-64-32-1", "xgboost 20x3", "random forest 20x4")
QUICK = NAMES[:1]
FEE, CALLBACK_GAS = 10**16, 50_000


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    sys.path.insert(0, str(ROOT / "examples"))
    from local_chain import chain

    found = {}
    with tempfile.TemporaryDirectory() as scratch, chain() as url:
        place = _Place(url)
        for name in QUICK if quick else NAMES:
            folder = Path(scratch) / name.split(",")[0].replace(" ", "-")
            found[name] = _model(place, name, folder)
        place.rpc.close()
    return {"models": found}


class _Place:
    """A chain with our contracts, a consumer, and accounts with money."""

    def __init__(self, url: str) -> None:
        self.rpc = Rpc(url)
        self.provider = self.account(1)
        self.config: ChainConfig = deploy_all(
            self.provider,
            self.rpc,
            authority=self.provider.address,
            confirmations=0,
            url=url,
        )
        self.coordinator = contract(self.rpc, self.config, "coordinator")
        silent = _helpers()["Silent"]
        coded = Abi(silent.abi).construct(self.coordinator.address)
        self.consumer = deploy_code(self.provider, silent.init_code + coded)
        data = Abi(silent.abi).call("allow", self.provider.address)
        self.provider.send(self.consumer, data)

    def account(self, number: int) -> Sender:
        """Return an account with money, as only a development chain gives it."""
        signer = Signer(eth_account().from_key(number.to_bytes(32, "big")))
        self.rpc.ask("anvil_setBalance", signer.address, hex(10**21))
        return Sender(self.rpc, signer, chain_id=self.rpc.chain_id())


def _model(place: _Place, name: str, folder: Path) -> Json:
    bundle, row = _published(name, folder)
    evidence = prove_rows(bundle, [row])
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    (proof,) = parse_evidence(
        evidence, instances=len(params.instances), proof_bytes=params.proof_bytes
    ).proofs
    facts = build_verifier(
        bundle,
        folder / "verifier",
        progress=lambda _: None,
        allow_insecure_srs=True,
    )
    given = make_input(bundle, row, salt=bytes(32))
    kinds = ["plain"] * (facts.plain.runtime_bytes <= MAX_RUNTIME_BYTES)
    return {
        kind: _kind(place, bundle, facts, folder / "verifier", kind, given, proof)
        for kind in [*kinds, "reusable"]
    } | {"plain_runtime_bytes": facts.plain.runtime_bytes, "vka_words": facts.vka_words}


def _kind(
    place: _Place,
    bundle: Bundle,
    facts: EvmFacts,
    folder: Path,
    kind: str,
    given: Input,
    proof: Proof,
) -> Json:
    """Return one verifier's figures; a model is registered once by one account."""
    chosen = folder.parent / kind
    shutil.copytree(folder, chosen)
    write_facts(chosen, replace(facts, chosen=kind))
    publisher = place.account(2 if kind == "plain" else 3)
    model_id, config = register_model(
        publisher, place.rpc, place.config, bundle, chosen
    )
    served = config.models[model_id.hex()]
    words = parse_vka((chosen / "vka.bin").read_bytes())
    calldata = (
        plain_calldata(proof) if kind == "plain" else reusable_calldata(proof, words)
    )
    bare = _gas(place.provider.send(served.verifier, calldata))
    options = OrderOptions(
        callback=place.consumer, callback_gas=CALLBACK_GAS, allow_insecure_srs=True
    )
    deliveries = []
    for _ in range(2):  # the provider's first payment costs a new storage slot
        request_id = request_inference(
            place.provider, place.rpc, config, model_id, given, fee=FEE, options=options
        )
        receipt = place.coordinator.send(
            place.provider, "deliver", request_id, answer_of(proof, served)
        )
        deliveries.append(_gas(receipt))
    own = facts.plain if kind == "plain" else facts.reusable
    return {
        "runtime_bytes": own.runtime_bytes,
        "deploy_gas": own.deploy_gas,
        "register_gas": facts.register_gas if kind == "reusable" else 0,
        "calldata_bytes": len(calldata),
        "bare_gas": bare,
        "deliver_gas": deliveries[-1],
        "added": deliveries[-1] / bare - 1,
    }


def _published(name: str, folder: Path) -> tuple[Bundle, list[float]]:
    bundle, trained = published(name, folder, objective="gas")
    rows = np.load(trained.data)
    row: list[float] = standardise(rows[:1], bundle.manifest.columns)[0].tolist()
    return bundle, row


def _helpers() -> dict[str, Compiled]:
    """Return the contracts of contracts/test."""
    path = ROOT / "scripts" / "contracts_build.py"
    spec = importlib.util.spec_from_file_location("contracts_build", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return compile_sources(module.sources(ROOT / "contracts" / "test"))


def _gas(receipt: Json) -> int:
    return int(receipt["gasUsed"], 16)


def show(found: Json) -> None:
    """Print the figures as a table."""
    grid = Table(title="checking an answer on chain; gas on anvil")
    columns = ("model", "verifier", "bytes", "deploy", "register", "calldata")
    for column in (*columns, "bare verify", "full delivery", "added"):
        grid.add_column(column, justify="right")
    for name, kinds in found["models"].items():
        for kind in ("plain", "reusable"):
            one = kinds.get(kind)
            if one is None:
                size = f"{kinds['plain_runtime_bytes']:,}"
                grid.add_row(name, kind, size, "too long to deploy")
                continue
            figures = ("runtime_bytes", "deploy_gas", "register_gas", "calldata_bytes")
            cells = [f"{one[f]:,}" for f in (*figures, "bare_gas", "deliver_gas")]
            grid.add_row(name, kind, *cells, f"{one['added']:.1%}")
    Console(width=130).print(grid)
