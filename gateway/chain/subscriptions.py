"""Triggers the rounds of subscriptions that are due, where the fee pays for it.

Whoever triggers a round pays for the transaction and hopes to be the one who answers.
A round triggered by another meanwhile is refused by the contract, at no cost here.
"""

from collections.abc import Callable

from privacy.chain.abi import Reverted
from privacy.chain.config import ChainConfig
from privacy.chain.contracts import ZERO, contract
from privacy.chain.rpc import Rpc
from privacy.chain.sender import Sender
from privacy.encoding import Json
from privacy.errors import PrivacyError, UnavailableError

_LOOK_AGAIN_S = 60.0
_FOREVER = float("inf")


class Subscriptions:
    """The subscriptions of one chain; what is known of them is only when to look."""

    def __init__(
        self,
        config: ChainConfig,
        *,
        rpc: Rpc,
        sender: Sender,
        least_fee: int,
        allow_loss: bool,
        clock: Callable[[], float],
    ) -> None:
        """Prepare; nothing is asked yet. See `Terms` for the fees."""
        self._config, self._rpc, self._sender = config, rpc, sender
        self._least_fee, self._allow_loss, self._clock = least_fee, allow_loss, clock
        self._manager = contract(rpc, config, "subscriptions")
        self._look_at: dict[int, float] = {}

    def trigger_due(self) -> list[int]:
        """Trigger every round that is due and ours; return the subscriptions.

        Raises:
            UnavailableError: The node is not there; try again later.
        """
        end = int(self._manager.view("nextSubscriptionId"))
        return [i for i in range(1, end) if self._attend(i)]

    def _attend(self, subscription_id: int) -> bool:
        if self._look_at.get(subscription_id, 0.0) > self._clock():
            return False
        self._look_at[subscription_id] = self._clock() + _LOOK_AGAIN_S
        try:
            found = self._manager.view("getSubscription", subscription_id)
            return self._is_due(found) and self._trigger(subscription_id, found)
        except UnavailableError:
            raise
        except Reverted as exc:
            if exc.error == "UnknownSubscription":  # ended, for good
                self._look_at[subscription_id] = _FOREVER
        except PrivacyError:
            pass  # too expensive now, or an answer we cannot read: later again
        return False

    def _is_due(self, found: Json) -> bool:
        order = found["order"]
        ours = order["provider"].lower() in {ZERO, self._sender.address.lower()}
        return (
            ours
            and order["modelId"].hex() in self._config.models
            and found["nextAt"] <= self._rpc.latest()["timestamp"]
            and self._least_fee <= found["fee"] <= found["balance"]
        )

    def _trigger(self, subscription_id: int, found: Json) -> bool:
        data = self._manager.abi.call("trigger", subscription_id)
        gas = self._sender.estimate(self._manager.address, data)
        if gas * self._sender.price() > found["fee"] and not self._allow_loss:
            return False
        self._sender.send(self._manager.address, data, gas=gas)
        return True
