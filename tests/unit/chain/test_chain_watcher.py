"""The watcher on a real chain process: nothing missed, doubled, lost or stuck."""

import json
import sys
import threading
from typing import Any

import httpx
import pytest

from privacy.chain.abi import Abi
from privacy.chain.config import ChainConfig
from privacy.chain.contracts import OnChain, deploy_code
from privacy.chain.models import (
    input_path,
    verify_on_chain,
)
from privacy.chain.rpc import Rpc
from privacy.errors import (
    CannotVerifyError,
    UnavailableError,
    VerificationError,
)
from privacy.zkml.blobs import Proof
from privacy.zkml.evm import plain_calldata
from tests.support.chain_site import FEE, PROVIDER, PUBLISHER, REQUESTER


def test_a_request_is_answered_and_paid(site):
    watcher = site.watcher()
    request_id = site.ask()
    site.chain.mine(2)
    assert site.run(watcher) == 0
    assert site.credit() == FEE
    assert site.jobs.options["request_id"] == str(request_id)
    kept = json.loads((site.receipts / f"{request_id}.delivery.json").read_text())
    assert kept["gas_used"] > 100_000
    assert (site.receipts / f"{request_id}.zkml.receipt.json").exists()
    assert watcher.state.first_open() == request_id + 1


def test_a_request_is_not_believed_before_its_block_is_deep_enough(site):
    watcher = site.watcher()
    site.ask()
    site.chain.mine(1)
    assert watcher.round() == 0
    assert not site.jobs.asked
    site.chain.mine(1)
    assert watcher.round() == 1
    assert site.credit() == FEE


def test_a_request_that_a_reorganisation_takes_back_is_not_answered(site):
    watcher = site.watcher()
    site.ask()
    site.chain.mine(1)
    site.chain.reorganise(2)
    site.chain.mine(4)
    assert site.run(watcher) == 0
    assert not site.jobs.asked


def test_a_delivery_that_a_reorganisation_takes_back_is_made_again(site):
    watcher = site.watcher()
    request_id = site.ask()
    site.chain.mine(2)
    watcher.round()
    assert site.credit() == FEE
    site.chain.reorganise(1)
    assert site.credit() == 0
    assert site.coordinator.view("getRequest", request_id)["fee"] == FEE
    assert site.run(watcher) == 0
    assert site.credit() == FEE
    assert len(set(site.jobs.asked)) == 1  # proven once


def test_a_restart_at_any_point_neither_misses_nor_doubles(site):
    ids = [site.ask(i % 2) for i in range(4)]
    site.chain.mine(2)
    site.jobs.waits = 2
    for _ in range(8):
        watcher = site.watcher()  # a new life, with the same folder
        watcher.round()
        watcher.close()
        site.chain.mine()
        site.now += 1000.0
    assert site.credit() == len(ids) * FEE
    assert len(set(site.jobs.asked)) == len(ids)


def test_a_lost_state_is_learnt_anew(site):
    site.ask()
    site.chain.mine(2)
    site.run(site.watcher())
    (site.folder / "watcher.sqlite").unlink()
    assert site.run(site.watcher()) == 0
    assert site.credit() == FEE
    assert len(site.jobs.asked) == 1


def test_two_gateways_racing_answer_once(site, tmp_path):
    for i in range(4):
        site.ask(i % 2)
    site.chain.mine(2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "inputs").symlink_to(site.folder / "inputs")
    failures = []

    def race(who, folder):
        rpc = Rpc(site.chain.url)
        try:
            watcher = site.watcher(who=who, rpc=rpc, folder=folder)
            for _ in range(4):
                watcher.round()
            watcher.close()
            rpc.close()
        except Exception as exc:  # noqa: BLE001
            failures.append(exc)

    site.now = 0.0
    threads = [
        threading.Thread(target=race, args=(PROVIDER, site.folder)),
        threading.Thread(target=race, args=(PROVIDER + 10, other)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    site.run(site.watcher())
    assert site.credit() + site.credit(PROVIDER + 10) == 4 * FEE


def test_a_dropped_transaction_is_replaced(site):
    watcher = site.watcher(patience_s=1.0)
    site.ask()
    site.chain.mine(2)
    site.chain.automine(on=False)
    dropped = []

    def drop():
        while not dropped:
            for name in site.chain.pending():
                site.chain.rpc.ask("anvil_dropTransaction", name)
                dropped.append(name)
        site.chain.automine(on=True)

    thread = threading.Thread(target=drop)
    thread.start()
    watcher.round()
    thread.join(30)
    assert dropped
    assert site.credit() == FEE


def test_a_stuck_transaction_is_paid_better(site):
    watcher = site.watcher(patience_s=0.5)
    site.ask()
    site.chain.mine(2)
    site.chain.automine(on=False)
    seen = set()

    def look():
        while len(seen) < 2:
            seen.update(site.chain.pending())
        site.chain.automine(on=True)
        site.chain.mine()

    thread = threading.Thread(target=look)
    thread.start()
    watcher.round()
    thread.join(30)
    assert site.credit() == FEE


def test_a_gas_spike_is_waited_out(site):
    watcher = site.watcher(max_fee_per_gas=50 * 10**9)
    site.ask(fee=10**18)
    site.chain.mine(2)
    site.chain.base_fee(400)
    watcher.round()
    assert site.credit() == 0
    assert "gas-too-expensive" in next(iter(watcher.state.notes().values()))
    site.chain.base_fee(1)
    assert site.run(watcher) == 0
    assert site.credit() == 10**18


@pytest.mark.parametrize(
    ("ask", "terms", "reason"),
    [
        ({"known": False}, {}, "not handed over"),
        ({"provider": "0x" + "77" * 20}, {}, "another provider"),
        ({"valid_s": 20}, {}, "too little time"),
        ({}, {"least_fee": 2 * FEE}, "the fee is"),
        ({"fee": 1}, {}, "underpaid"),
    ],
)
def test_what_is_not_answered_says_why(site, ask, terms, reason):
    watcher = site.watcher(**terms)
    site.ask(**ask)
    site.chain.mine(2)
    assert watcher.round() == 1
    assert reason in next(iter(watcher.state.notes().values()))
    assert site.credit() == 0


def test_an_unknown_model_is_left_alone(site):
    elsewhere = ChainConfig(site.config.rpc, 31337, 2, site.config.contracts, models={})
    watcher = site.watcher(config=elsewhere)
    site.ask()
    site.chain.mine(2)
    assert watcher.round() == 1
    assert "not served here" in next(iter(watcher.state.notes().values()))


def test_an_unpaid_answer_is_given_where_loss_is_allowed(site):
    watcher = site.watcher(allow_loss=True)
    site.ask(fee=0)
    site.chain.mine(2)
    assert site.run(watcher) == 0


def test_an_expired_request_is_forgotten_once_it_is_refunded(site):
    watcher = site.watcher()
    request_id = site.ask(known=False)
    site.chain.mine(2)
    assert watcher.round() == 1
    site.chain.pass_time(4000)
    site.coordinator.send(site.chain.sender(PUBLISHER), "refundExpired", request_id)
    assert site.run(watcher) == 0
    assert site.credit(REQUESTER) == FEE


def test_a_job_that_failed_is_tried_again_under_another_name(site):
    watcher = site.watcher()
    site.jobs.failures = 2
    site.ask()
    site.chain.mine(2)
    assert site.run(watcher) == 0
    assert site.credit() == FEE
    assert len(set(site.jobs.asked)) == 3


def test_the_wrong_input_is_not_delivered(site):
    watcher = site.watcher()
    site.ask(0)
    commitment = site.proofs[0].instances[0].to_bytes(32, "big")
    input_path(site.folder, commitment).write_bytes(site.inputs[1])
    site.chain.mine(2)
    watcher.round()
    assert "wrong-input" in next(iter(watcher.state.notes().values()))
    assert site.credit() == 0


class Unreliable(httpx.BaseTransport):
    """A node that is away, lies about receipts, or is of another chain."""

    def __init__(self) -> None:
        self._real = httpx.HTTPTransport()
        self.away = False
        self.lies: dict[str, Any] = {}

    def close(self) -> None:
        self._real.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away")
        asked = json.loads(request.content)
        if asked["method"] in self.lies:
            answer = {"id": asked["id"], "result": self.lies[asked["method"]]}
            return httpx.Response(200, json=answer)
        return self._real.handle_request(request)


@pytest.fixture
def unreliable(site):
    transport = Unreliable()
    rpc = Rpc(site.chain.url, transport=transport)
    yield transport, rpc
    rpc.close()


def test_a_node_that_is_away_for_a_while_loses_nothing(site, unreliable):
    transport, rpc = unreliable
    watcher = site.watcher(rpc=rpc)
    site.ask()
    site.chain.mine(2)
    transport.away = True
    for _ in range(3):
        with pytest.raises(UnavailableError, match="cannot be reached"):
            watcher.round()
    transport.away = False
    assert site.run(watcher) == 0
    assert site.credit() == FEE


def test_a_node_that_lies_about_receipts_does_not_end_a_request(site, unreliable):
    transport, rpc = unreliable
    watcher = site.watcher(rpc=rpc)
    site.ask()
    site.chain.mine(2)
    mined = {"status": "0x1", "blockNumber": "0x1", "gasUsed": "0x1"}
    transport.lies = {
        "eth_sendRawTransaction": "0x" + "00" * 32,
        "eth_getTransactionReceipt": {**mined, "transactionHash": "0x00"},
    }
    watcher.round()
    assert site.credit() == 0
    transport.lies = {}
    assert site.run(watcher) == 0
    assert site.credit() == FEE


def test_a_node_of_another_chain_is_refused(site, unreliable):
    transport, rpc = unreliable
    watcher = site.watcher(rpc=rpc)
    transport.lies = {"eth_chainId": "0x1"}
    with pytest.raises(CannotVerifyError, match="of chain 1"):
        watcher.round()


def test_a_node_that_lags_delays_and_no_more(site, unreliable):
    transport, rpc = unreliable
    watcher = site.watcher(rpc=rpc)
    transport.lies = {"eth_blockNumber": "0x2"}
    site.ask()
    site.chain.mine(2)
    assert watcher.round() == 0
    transport.lies = {}
    assert site.run(watcher) == 0
    assert site.credit() == FEE


def test_the_chain_verifies_a_proof_without_a_transaction(site):
    proof = site.proofs[0]
    (output,) = verify_on_chain(site.chain.rpc, site.config, site.model_id, proof)
    assert output % (2**254) == proof.instances[1] or output < 0
    forged = Proof((proof.instances[0], proof.instances[1] + 1), proof.proof)
    with pytest.raises(VerificationError, match="ProofInvalid"):
        verify_on_chain(site.chain.rpc, site.config, site.model_id, forged)


def test_a_delivery_costs_at_most_15_percent_more_than_the_bare_verifier(site, circuit):
    """Issue 5: verify, pay and call back, against EZKL's own verifier alone."""
    chain, provider = site.chain, site.chain.sender(PROVIDER)
    bare_address = deploy_code(provider, circuit.plain)
    bare = provider.send(bare_address, plain_calldata(site.proofs[0]))
    made = site.helpers["Silent"]
    abi = Abi(made.abi)
    consumer = OnChain(
        chain.rpc,
        deploy_code(provider, made.init_code + abi.construct(site.coordinator.address)),
        abi,
    )
    consumer.send(provider, "allow", chain.account(REQUESTER).address)
    gas = []
    for which, proof in enumerate(site.proofs):
        request_id = site.ask(which, callback=consumer.address, callback_gas=50_000)
        answer = (proof.proof, list(proof.instances), [], b"")
        receipt = site.coordinator.send(provider, "deliver", request_id, answer)
        gas.append(int(receipt["gasUsed"], 16))
    base = int(bare["gasUsed"], 16)
    sys.stdout.write(f"bare {base}, deliveries {gas}\n")
    assert all(g <= 1.15 * base for g in gas)
