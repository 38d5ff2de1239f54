// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {InferenceConsumer} from "../InferenceConsumer.sol";
import {InferenceCoordinator} from "../InferenceCoordinator.sol";
import {Evidence, Order} from "../Types.sol";

/// @title A loan that opens only for a proven credit score.
/// @notice The borrower's data stays off chain. A bureau vouches for its hash, the model
/// scores it, and the coordinator calls back with a proven score or not at all.
contract ProvenLoan is InferenceConsumer {
    uint32 public constant CALLBACK_GAS = 120_000;

    bytes32 public immutable modelId;
    address public immutable bureau;
    int256 public immutable leastScore;
    uint256 public immutable amount;
    bool private immutable _allowInsecureSrs;

    mapping(bytes32 inputCommitment => address) public borrowerOf;
    mapping(uint256 requestId => address) public applicant;
    mapping(address borrower => uint256) public loan;

    event Applied(uint256 indexed requestId, address indexed borrower);
    event Decided(uint256 indexed requestId, address indexed borrower, int256 score, bool open);

    error NotBureau(address caller);
    error NotVouchedFor(bytes32 inputCommitment, address borrower);

    /// @param leastScore_ In fixed point, as the model's outputs are.
    constructor(
        InferenceCoordinator coordinator_,
        bytes32 modelId_,
        address bureau_,
        int256 leastScore_,
        uint256 amount_,
        bool allowInsecureSrs_
    ) payable InferenceConsumer(coordinator_) {
        modelId = modelId_;
        bureau = bureau_;
        leastScore = leastScore_;
        amount = amount_;
        _allowInsecureSrs = allowInsecureSrs_;
    }

    /// @notice Say, as the bureau, that a hash is of a borrower's true data.
    function vouch(bytes32 inputCommitment, address borrower) external {
        if (msg.sender != bureau) revert NotBureau(msg.sender);
        borrowerOf[inputCommitment] = borrower;
    }

    /// @notice Apply for the loan; the value sent pays for the proof.
    function apply_(bytes32 inputCommitment) external payable returns (uint256 requestId) {
        if (borrowerOf[inputCommitment] != msg.sender) {
            revert NotVouchedFor(inputCommitment, msg.sender);
        }
        Order memory order = Order({
            modelId: modelId,
            inputCommitment: inputCommitment,
            callback: address(this),
            callbackGas: CALLBACK_GAS,
            deadline: uint40(block.timestamp + 1 days),
            owner: msg.sender,
            provider: address(0),
            evidence: Evidence.Proof,
            allowInsecureSrs: _allowInsecureSrs,
            allowSimulated: false
        });
        requestId = _ask(order, new uint256[](0), msg.value);
        applicant[requestId] = msg.sender;
        emit Applied(requestId, msg.sender);
    }

    function _onInference(uint256 requestId, bytes32, int256[] calldata outputs)
        internal
        override
    {
        address borrower = applicant[requestId];
        bool open = outputs[0] >= leastScore && loan[borrower] == 0;
        if (open) loan[borrower] = amount;
        emit Decided(requestId, borrower, outputs[0], open);
    }
}
