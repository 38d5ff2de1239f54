"""Answers the requests of a coordinator contract.

The chain's state decides, not its events: each round asks the coordinator, at a block
that is deep enough to be believed, which requests are open. So nothing is missed after
a restart, and after a reorganisation a request that is open again is answered again.
Nothing is paid twice, since the contract ends a request once. For each open request:

1. It is left alone if it has ended since, or is not ours to answer; the note says why.
2. Its answer is made by jobs; see `gateway.chain.answers`. A job's name (the
   idempotency key) holds chain, coordinator, request, model and input, so that no
   restart and no second watcher with the same gateway proves anything twice.
3. The answer is delivered, if the fee pays for the gas; the chain verifies it before
   anything is sent.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.chain.answers import Answers, Bundles
from gateway.chain.jobs import Jobs
from gateway.chain.state import Known, State
from gateway.chain.subscriptions import Subscriptions
from privacy.bundle import Bundle
from privacy.chain.abi import Reverted
from privacy.chain.config import ChainConfig, ServedModel
from privacy.chain.contracts import ZERO, check_chain, contract
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import Json
from privacy.errors import BackendError, NotFoundError, PrivacyError, UnavailableError
from privacy.files import write_atomic

Notify = Callable[[Json], None]

_LEAST_TIME_S = 30  # before the deadline, for proving and mining
_LATER_S = 30.0
_LONGEST_PAUSE_S = 600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a watcher answers for.

    Attributes:
        folder: Holds `inputs/` and `receipts/`.
        least_fee: In wei.
        allow_loss: Deliver also where the gas costs more than the fee.
        trigger: Trigger the rounds of subscriptions that are due.
    """

    folder: Path
    least_fee: int = 0
    allow_loss: bool = False
    trigger: bool = False


class Watcher:
    """The requests of one coordinator; call `round` again and again."""

    def __init__(  # noqa: PLR0913 - each is another part of the world
        self,
        config: ChainConfig,
        *,
        rpc: Rpc,
        sender: Sender,
        jobs: Jobs,
        bundles: Bundles,
        terms: Terms,
        notify: Notify,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is asked yet."""
        self._config, self._rpc, self._sender = config, rpc, sender
        self._jobs, self._terms = jobs, terms
        self._notify, self._clock = notify, clock
        self._coordinator = contract(rpc, config, "coordinator")
        self._answers = Answers(
            config,
            self._coordinator,
            jobs=jobs,
            bundles=bundles,
            folder=terms.folder,
        )
        self._chain = f"{config.chain_id}:{self._coordinator.address.lower()}"
        self._subscriptions = Subscriptions(
            config,
            rpc=rpc,
            sender=sender,
            least_fee=terms.least_fee,
            allow_loss=terms.allow_loss,
            clock=clock,
        )
        self.state = State(terms.folder / "watcher.sqlite", self._chain)

    def round(self) -> int:
        """Bring every open request one step further; return how many are open.

        Raises:
            UnavailableError: The node is not there; try again later.
            CannotVerifyError: The node is of another chain.
        """
        check_chain(self._rpc, self._config)
        block = self._rpc.block_number() - self._config.confirmations
        if block < 0 or not self._rpc.code(self._coordinator.address):
            return 0
        try:
            end = int(self._coordinator.view("nextRequestId", block=block))
        except PrivacyError as exc:
            if isinstance(exc, UnavailableError):
                raise
            return 0  # the coordinator is younger than that block
        count = 0
        for subscription in self._due():
            event = {"stage": "triggered", "subscription": subscription}
            self._notify({**event, "chain": self._config.chain_id})
        for request_id in range(self.state.first_open(), end):
            known = self.state.get(request_id)
            if not known.is_final:
                count += self._attend(known, block)
        return count

    def _due(self) -> list[int]:
        return self._subscriptions.trigger_due() if self._terms.trigger else []

    def _attend(self, known: Known, block: int) -> int:
        """Return 1 if the request is open, after doing what can be done now."""
        request = self._request(known.id, block=block)
        if request is None:
            known.is_final, known.note = True, ""
            self.state.put(known)
            self._answers.forget(known.id)
            return 0
        if known.retry_at > self._clock():
            return 1
        try:
            note = self._answer(known, request, block)
            known.note, known.retry_at = note, 0.0
            if note:
                known.retry_at = self._clock() + _LATER_S
        except UnavailableError:
            raise
        except NotFoundError as exc:
            known.note, known.retry_at = exc.message, self._clock() + _LATER_S
        except PrivacyError as exc:
            known.attempts += 1
            known.note = f"{exc.code}: {exc.message}"[:500]
            pause = min(2.0**known.attempts, _LONGEST_PAUSE_S)
            known.retry_at = self._clock() + pause
            self._tell("failed", known, reason=known.note)
        self.state.put(known)
        return 1

    def _answer(self, known: Known, request: Json, block: int) -> str:
        """Return why the request is not answered, or "" if it is or soon will be."""
        now = self._request(known.id)
        if now is None or now["inputCommitment"] != request["inputCommitment"]:
            return ""  # ended, or another after a reorganisation: wait for the block
        refusal = self._refusal(now)
        if refusal:
            return refusal
        answer = self._answers.make(known, now, block=block)
        if answer is not None:
            self._deliver(known, now, answer)
        return ""

    def _refusal(self, request: Json) -> str:
        """Return why a request is not ours to answer, or "" if it is."""
        provider = request["provider"].lower()
        left_s = request["deadline"] - self._rpc.latest()["timestamp"]
        if provider not in {ZERO, self._sender.address.lower()}:
            return "another provider is named"
        if request["modelId"].hex() not in self._config.models:
            return "the model is not served here"
        if request["fee"] < self._terms.least_fee:
            return f"the fee is {request['fee']} wei, at least {self._terms.least_fee}"
        return "too little time is left" if left_s < _LEAST_TIME_S else ""

    def _deliver(self, known: Known, request: Json, answer: tuple[object, ...]) -> None:
        data = self._coordinator.abi.call("deliver", known.id, answer)
        try:
            gas = self._sender.estimate(self._coordinator.address, data)
            cost = gas * self._sender.price()
            if cost > request["fee"] and not self._terms.allow_loss:
                msg = f"gas may cost {cost} wei, the fee is {request['fee']}"
                raise BackendError(msg, code="underpaid")
            receipt = self._sender.send(self._coordinator.address, data, gas=gas)
        except Reverted as exc:
            if exc.error == "RequestEnded":  # another was faster
                return
            raise
        self._keep_receipt(known, receipt)
        self._tell("delivered", known, transaction=receipt["transactionHash"])

    def _keep_receipt(self, known: Known, receipt: Json) -> None:
        """Keep the jobs' signed receipts, which name chain and request, and the gas."""
        folder = self._terms.folder / "receipts" / self._chain.replace(":", "-")
        delivery = {
            "chain": self._chain,
            "request_id": known.id,
            "jobs": known.jobs,
            "transaction": receipt["transactionHash"],
            "block": int(receipt["blockNumber"], 16),
            "gas_used": int(receipt["gasUsed"], 16),
        }
        write_atomic(
            folder / f"{known.id}.delivery.json", json.dumps(delivery).encode()
        )
        for mode, job in known.jobs.items():
            receipt_path = folder / f"{known.id}.{mode}.receipt.json"
            write_atomic(receipt_path, self._jobs.receipt(job))

    def _request(self, request_id: int, *, block: int | None = None) -> Json | None:
        """Return an open request, None if it has ended or does not exist there."""
        try:
            found: Json = self._coordinator.view("getRequest", request_id, block=block)
        except Reverted as exc:
            if exc.error in {"RequestEnded", "UnknownRequest"}:
                return None
            raise
        return found

    def _tell(self, stage: str, known: Known, **more: object) -> None:
        event = {"stage": stage, "request": known.id, "chain": self._config.chain_id}
        self._notify({**event, **more})

    def close(self) -> None:
        """Close the state's file."""
        self.state.close()


def bundles_in(store: Path) -> Bundles:
    """Return a function that opens a served model in a folder of published ones."""
    from privacy.bundle import open_bundle

    def find(served: ServedModel) -> Bundle:
        path = store / served.model / served.version
        bundle = open_bundle(path, check_files=False)
        if bundle.sha256 != served.model_sha256:
            msg = f"{path} is another model than was registered: publish and register"
            raise NotFoundError(msg, code="model-changed")
        return bundle

    return find
