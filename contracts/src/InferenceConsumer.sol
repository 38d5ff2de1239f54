// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {IInferenceConsumer} from "./IInferenceConsumer.sol";
import {InferenceCoordinator} from "./InferenceCoordinator.sol";
import {Order} from "./Types.sol";

/// @title What a contract inherits to ask models and be called with their answers.
/// @notice Call `_ask`, and implement `_onInference`: it runs once a request, with a
/// verified answer, in the gas that the order gave. If it reverts, the answer is only in
/// the coordinator's event: keep it short.
abstract contract InferenceConsumer is IInferenceConsumer {
    InferenceCoordinator public immutable coordinator;

    error NotCoordinator(address caller);

    constructor(InferenceCoordinator coordinator_) {
        coordinator = coordinator_;
    }

    /// @inheritdoc IInferenceConsumer
    function onInference(uint256 requestId, bytes32 modelId, int256[] calldata outputs)
        external
    {
        if (msg.sender != address(coordinator)) revert NotCoordinator(msg.sender);
        _onInference(requestId, modelId, outputs);
    }

    /// @dev Receive a verified answer to a request of this contract.
    function _onInference(uint256 requestId, bytes32 modelId, int256[] calldata outputs)
        internal
        virtual;

    /// @dev Ask a model, paying the fee from this contract's balance or `msg.value`.
    function _ask(Order memory order, uint256[] memory input, uint256 fee)
        internal
        returns (uint256 requestId)
    {
        order.callback = address(this);
        return coordinator.request{value: fee}(order, input);
    }
}
