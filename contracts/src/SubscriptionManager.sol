// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {IInputSource} from "./IInputSource.sol";
import {InferenceCoordinator} from "./InferenceCoordinator.sol";
import {Order} from "./Types.sol";

/// @title Requests that repeat, paid from a balance.
/// @notice Anyone may trigger a round that is due; providers will, since it pays them. A
/// consumer must have allowed this contract with `InferenceCoordinator.allowRequester`.
/// A round that expires is refunded to the subscription's owner, at the coordinator.
contract SubscriptionManager {
    /// @param owner Who pays, may cancel, and is refunded.
    /// @param source Gives each round's input.
    /// @param interval Seconds from one round to the next, at least.
    /// @param window Seconds that a round may take.
    /// @param nextAt Unix time from which the next round may be triggered.
    /// @param round How many rounds were triggered.
    /// @param fee Of each round, in wei.
    /// @param balance What is left, in wei.
    /// @param order What each round asks; `inputCommitment`, `deadline` and `owner` are
    /// set for each round.
    struct Subscription {
        address owner;
        IInputSource source;
        uint40 interval;
        uint40 window;
        uint40 nextAt;
        uint32 round;
        uint96 fee;
        uint128 balance;
        Order order;
    }

    InferenceCoordinator public immutable coordinator;
    uint256 public nextSubscriptionId = 1;
    mapping(address account => uint256) public credit;
    mapping(uint256 subscriptionId => Subscription) private _subscriptions;

    event Subscribed(uint256 indexed subscriptionId, address indexed owner, bytes32 indexed modelId);
    event Funded(uint256 indexed subscriptionId, uint256 amount);
    event Triggered(uint256 indexed subscriptionId, uint256 round, uint256 indexed requestId);
    event Unsubscribed(uint256 indexed subscriptionId, uint256 refund);

    error UnknownSubscription(uint256 subscriptionId);
    error NotOwner(address caller, address owner);
    error NotDue(uint256 subscriptionId, uint40 nextAt);
    error BalanceTooLow(uint256 balance, uint256 fee);
    error BadInterval(uint40 interval, uint40 window);
    error BalanceTooLarge(uint256 balance);
    error NothingToWithdraw(address account);
    error WithdrawalFailed(address to);

    constructor(InferenceCoordinator coordinator_) {
        coordinator = coordinator_;
    }

    /// @notice Begin a subscription; its first round is due at once. The value sent is
    /// its balance.
    function subscribe(
        Order calldata order,
        IInputSource source,
        uint96 fee,
        uint40 interval,
        uint40 window
    ) external payable returns (uint256 subscriptionId) {
        if (interval == 0 || window == 0 || window > interval) revert BadInterval(interval, window);
        if (msg.value > type(uint128).max) revert BalanceTooLarge(msg.value);
        subscriptionId = nextSubscriptionId++;
        _subscriptions[subscriptionId] = Subscription({
            owner: msg.sender,
            source: source,
            interval: interval,
            window: window,
            nextAt: uint40(block.timestamp),
            round: 0,
            fee: fee,
            balance: uint128(msg.value),
            order: order
        });
        emit Subscribed(subscriptionId, msg.sender, order.modelId);
        emit Funded(subscriptionId, msg.value);
    }

    /// @notice Add the value sent to a subscription's balance; anyone may.
    function fund(uint256 subscriptionId) external payable {
        Subscription storage found = _find(subscriptionId);
        uint256 balance = found.balance + msg.value;
        if (balance > type(uint128).max) revert BalanceTooLarge(balance);
        found.balance = uint128(balance);
        emit Funded(subscriptionId, msg.value);
    }

    /// @notice Make the request of a round that is due.
    function trigger(uint256 subscriptionId) external returns (uint256 requestId) {
        Subscription storage found = _find(subscriptionId);
        if (block.timestamp < found.nextAt) revert NotDue(subscriptionId, found.nextAt);
        uint256 fee = found.fee;
        if (found.balance < fee) revert BalanceTooLow(found.balance, fee);
        uint256 round = ++found.round;
        found.nextAt = uint40(block.timestamp) + found.interval;
        found.balance -= uint128(fee);
        Order memory order = found.order;
        order.owner = found.owner;
        order.deadline = uint40(block.timestamp) + found.window;
        uint256[] memory input;
        (order.inputCommitment, input) = found.source.nextInput(subscriptionId, round);
        requestId = coordinator.request{value: fee}(order, input);
        emit Triggered(subscriptionId, round, requestId);
    }

    /// @notice End a subscription; its balance is credited to its owner.
    function unsubscribe(uint256 subscriptionId) external {
        Subscription storage found = _find(subscriptionId);
        if (found.owner != msg.sender) revert NotOwner(msg.sender, found.owner);
        uint256 balance = found.balance;
        delete _subscriptions[subscriptionId];
        credit[msg.sender] += balance;
        emit Unsubscribed(subscriptionId, balance);
    }

    /// @notice Send all of the caller's credit to an account.
    function withdraw(address payable to) external {
        uint256 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        if (to == address(0)) revert WithdrawalFailed(to);
        credit[msg.sender] = 0;
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert WithdrawalFailed(to);
    }

    /// @notice Return a subscription.
    function getSubscription(uint256 subscriptionId) external view returns (Subscription memory) {
        return _find(subscriptionId);
    }

    function _find(uint256 subscriptionId) private view returns (Subscription storage found) {
        found = _subscriptions[subscriptionId];
        if (found.owner == address(0)) revert UnknownSubscription(subscriptionId);
    }
}
