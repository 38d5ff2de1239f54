// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @notice Where a subscription takes the input of its next round from.
interface IInputSource {
    /// @return commitment The input's hash, or zero where `input` is given.
    /// @return input The public input as field elements, or nothing.
    function nextInput(uint256 subscriptionId, uint256 round)
        external
        view
        returns (bytes32 commitment, uint256[] memory input);
}
