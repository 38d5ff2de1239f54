// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @notice What a contract implements to be called with answers.
interface IInferenceConsumer {
    /// @notice Receive a verified answer. Called once a request, by the coordinator only:
    /// check `msg.sender`. If it reverts or runs out of its gas it is not called again.
    /// @param requestId The request.
    /// @param modelId The model that was asked.
    /// @param outputs Fixed-point numbers; see the model's `outputScale`.
    function onInference(uint256 requestId, bytes32 modelId, int256[] calldata outputs) external;
}
