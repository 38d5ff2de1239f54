// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {AttestationVerifier} from "./AttestationVerifier.sol";
import {IInferenceConsumer} from "./IInferenceConsumer.sol";
import {ModelRegistry} from "./ModelRegistry.sol";
import {ProofVerifier} from "./ProofVerifier.sol";
import {Answer, Evidence, FIELD_ORDER, InputKind, Order} from "./Types.sol";

/// @title Requests for inference, their fees, and their verified answers.
/// @notice A request ends exactly once: fulfilled or refunded. An answer is verified
/// before anyone is paid or called. A callback that fails loses neither the payment nor
/// the answer, which is in the event `Fulfilled`. Payments are credited and withdrawn.
/// @dev Nobody owns this contract, and nothing in it can be changed after deployment.
contract InferenceCoordinator is EIP712 {
    /// @dev Five slots, freed when the request ends.
    struct Request {
        address owner;
        uint40 deadline;
        Evidence evidence;
        bool allowSimulated;
        bool publicInput;
        uint16 inputs;
        address callback;
        uint96 fee;
        address provider;
        uint32 callbackGas;
        uint16 outputs;
        bytes32 modelId;
        bytes32 inputCommitment;
    }

    /// @notice How long a cancelled request may still be answered, in seconds: whoever
    /// works on it, or has just sent the answer, is not robbed of the fee.
    uint40 public constant CANCEL_NOTICE = 10 minutes;
    uint32 public constant MAX_CALLBACK_GAS = 5_000_000;
    /// @dev Gas that is left for this contract around the callback.
    uint256 private constant CALLBACK_MARGIN = 10_000;

    bytes32 public constant ANSWER_TYPEHASH = keccak256(
        "Answer(uint256 requestId,bytes32 modelId,bytes32 inputCommitment,bytes32 instancesHash,bool proven)"
    );

    ModelRegistry public immutable registry;
    ProofVerifier public immutable proofs;
    AttestationVerifier public immutable attestations;

    /// @notice The id of the next request; those below exist or have ended.
    uint256 public nextRequestId = 1;
    /// @notice What each account can withdraw, in wei.
    mapping(address account => uint256) public credit;
    /// @notice Who may make requests that call a contract back, besides itself.
    mapping(address consumer => mapping(address requester => bool)) public allowedRequester;

    mapping(uint256 requestId => Request) private _requests;

    event Requested(
        uint256 indexed requestId,
        bytes32 indexed modelId,
        address indexed provider,
        Order order,
        uint256 fee,
        uint256[] input
    );
    event Fulfilled(
        uint256 indexed requestId, bytes32 indexed modelId, address indexed provider, int256[] outputs
    );
    event CallbackFailed(uint256 indexed requestId, address callback);
    event CancelRequested(uint256 indexed requestId, uint40 deadline);
    event Refunded(uint256 indexed requestId, address indexed owner, uint256 fee);
    event Withdrawn(address indexed account, address to, uint256 amount);
    event RequesterAllowed(address indexed consumer, address indexed requester, bool allowed);

    error UnknownRequest(uint256 requestId);
    error RequestEnded(uint256 requestId);
    error RequestExpired(uint256 requestId, uint40 deadline);
    error NotExpired(uint256 requestId, uint40 deadline);
    error NotOwner(address caller, address owner);
    error NotProvider(address caller, address provider);
    error DeadlinePassed(uint40 deadline);
    error CallbackNotAllowed(address callback, address requester);
    error CallbackGasOutOfRange(uint32 callbackGas);
    error FeeTooLarge(uint256 fee);
    error InsecureSrs(bytes32 modelId);
    error NoCircuit(bytes32 modelId);
    error BadInput();
    error WrongInput(bytes32 found, bytes32 expected);
    error WrongInstanceCount(uint256 found, uint256 expected);
    error OutputOutOfField(uint256 index, uint256 value);
    error TooLittleGas(uint256 found, uint256 needed);
    error NothingToWithdraw(address account);
    error WithdrawalFailed(address to);

    constructor(ModelRegistry registry_, ProofVerifier proofs_, AttestationVerifier attestations_)
        EIP712("PrivacyCompute", "1")
    {
        registry = registry_;
        proofs = proofs_;
        attestations = attestations_;
    }

    // --- requesters ---------------------------------------------------------------

    /// @notice Ask a model, and put the fee (the value sent) into escrow.
    /// @param order What is asked; see `Order`.
    /// @param input The public input as field elements; empty for `InputKind.Hash`.
    /// @return requestId The request.
    function request(Order calldata order, uint256[] calldata input)
        external
        payable
        returns (uint256 requestId)
    {
        ModelRegistry.Model memory model = registry.get(order.modelId);
        _checkOrder(order, model);
        requestId = nextRequestId++;
        _requests[requestId] = Request({
            owner: order.owner == address(0) ? msg.sender : order.owner,
            deadline: order.deadline,
            evidence: order.evidence,
            allowSimulated: order.allowSimulated,
            publicInput: model.inputKind == InputKind.Public,
            inputs: model.inputs,
            callback: order.callback,
            fee: uint96(msg.value),
            provider: order.provider,
            callbackGas: order.callbackGas,
            outputs: model.outputs,
            modelId: order.modelId,
            inputCommitment: _commitment(order, model, input)
        });
        emit Requested(requestId, order.modelId, order.provider, order, msg.value, input);
    }

    /// @notice End a request early: after `CANCEL_NOTICE` it can be refunded, unless it
    /// is answered before.
    function cancel(uint256 requestId) external {
        Request storage open = _open(requestId);
        if (open.owner != msg.sender) revert NotOwner(msg.sender, open.owner);
        uint40 deadline = uint40(block.timestamp) + CANCEL_NOTICE;
        if (deadline < open.deadline) open.deadline = deadline;
        emit CancelRequested(requestId, open.deadline);
    }

    /// @notice Give the fee of an expired request back to its owner; anyone may.
    function refundExpired(uint256 requestId) external {
        Request storage open = _open(requestId);
        if (block.timestamp <= open.deadline) revert NotExpired(requestId, open.deadline);
        (address owner, uint256 fee) = (open.owner, open.fee);
        delete _requests[requestId];
        credit[owner] += fee;
        emit Refunded(requestId, owner, fee);
    }

    /// @notice Let another account make requests that call the caller back, or no longer.
    function allowRequester(address requester, bool allowed) external {
        allowedRequester[msg.sender][requester] = allowed;
        emit RequesterAllowed(msg.sender, requester, allowed);
    }

    // --- providers ----------------------------------------------------------------

    /// @notice Answer a request. In this order: the evidence is verified, the request
    /// ends, the caller is credited with the fee, the callback is called.
    function deliver(uint256 requestId, Answer calldata answer) external {
        Request memory open = _open(requestId);
        if (block.timestamp > open.deadline) revert RequestExpired(requestId, open.deadline);
        if (open.provider != address(0) && open.provider != msg.sender) {
            revert NotProvider(msg.sender, open.provider);
        }
        _checkInput(open, answer.instances);
        _checkEvidence(requestId, open, answer);

        delete _requests[requestId];
        credit[msg.sender] += open.fee;
        int256[] memory outputs = _outputs(answer.instances, open.inputs);
        emit Fulfilled(requestId, open.modelId, msg.sender, outputs);
        if (open.callback != address(0)) _callBack(requestId, open, outputs);
    }

    // --- everyone -----------------------------------------------------------------

    /// @notice Send all of the caller's credit to an account.
    function withdraw(address payable to) external {
        uint256 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        if (to == address(0)) revert WithdrawalFailed(to);
        credit[msg.sender] = 0;
        emit Withdrawn(msg.sender, to, amount);
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert WithdrawalFailed(to);
    }

    /// @notice Return an open request.
    function getRequest(uint256 requestId) external view returns (Request memory) {
        return _open(requestId);
    }

    /// @notice Return what an enclave signs to answer an open request (EIP-712). It names
    /// the chain, this contract, the request, its model and input, the answer, and whether
    /// a proof comes with it: an enclave signs a proven answer that is near its own, so
    /// such a signature must not do where no proof is asked for.
    function answerDigest(uint256 requestId, uint256[] calldata instances)
        external
        view
        returns (bytes32)
    {
        Request storage open = _open(requestId);
        return _digest(requestId, open, instances);
    }

    // --- inside -------------------------------------------------------------------

    function _open(uint256 requestId) private view returns (Request storage found) {
        found = _requests[requestId];
        if (found.owner == address(0)) {
            if (requestId == 0 || requestId >= nextRequestId) revert UnknownRequest(requestId);
            revert RequestEnded(requestId);
        }
    }

    function _checkOrder(Order calldata order, ModelRegistry.Model memory model) private view {
        if (order.deadline <= block.timestamp) revert DeadlinePassed(order.deadline);
        if (msg.value > type(uint96).max) revert FeeTooLarge(msg.value);
        if (order.callbackGas > MAX_CALLBACK_GAS) revert CallbackGasOutOfRange(order.callbackGas);
        if ((order.callback == address(0)) != (order.callbackGas == 0)) {
            revert CallbackGasOutOfRange(order.callbackGas);
        }
        if (
            order.callback != address(0) && order.callback != msg.sender
                && !allowedRequester[order.callback][msg.sender]
        ) revert CallbackNotAllowed(order.callback, msg.sender);
        if (order.evidence == Evidence.Attestation) return;
        if (model.verifier == address(0)) revert NoCircuit(order.modelId);
        if (model.insecureSrs && !order.allowInsecureSrs) revert InsecureSrs(order.modelId);
    }

    function _commitment(
        Order calldata order,
        ModelRegistry.Model memory model,
        uint256[] calldata input
    ) private pure returns (bytes32) {
        if (model.inputKind == InputKind.Hash) {
            if (input.length != 0 || order.inputCommitment == 0) revert BadInput();
            return order.inputCommitment;
        }
        if (input.length != model.inputs || order.inputCommitment != 0) revert BadInput();
        for (uint256 i = 0; i < input.length; ++i) {
            if (input[i] >= FIELD_ORDER) revert BadInput();
        }
        return keccak256(abi.encodePacked(input));
    }

    function _checkInput(Request memory open, uint256[] calldata instances) private pure {
        uint256 count = uint256(open.inputs) + open.outputs;
        if (instances.length != count) revert WrongInstanceCount(instances.length, count);
        bytes32 found = open.publicInput
            ? keccak256(abi.encodePacked(instances[:open.inputs]))
            : bytes32(instances[0]);
        if (found != open.inputCommitment) revert WrongInput(found, open.inputCommitment);
    }

    function _checkEvidence(uint256 requestId, Request memory open, Answer calldata answer)
        private
        view
    {
        if (open.evidence != Evidence.Attestation) {
            proofs.verify(open.modelId, answer.proof, answer.instances, answer.vka);
        }
        if (open.evidence != Evidence.Proof) {
            bytes32 digest = _digest(requestId, open, answer.instances);
            attestations.check(digest, answer.signature, open.modelId, open.allowSimulated);
        }
    }

    function _digest(uint256 requestId, Request memory open, uint256[] calldata instances)
        private
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    ANSWER_TYPEHASH,
                    requestId,
                    open.modelId,
                    open.inputCommitment,
                    keccak256(abi.encodePacked(instances)),
                    open.evidence == Evidence.ProofAndAttestation
                )
            )
        );
    }

    /// @dev The upper half of the field stands for negative numbers.
    function _outputs(uint256[] calldata instances, uint256 skip)
        private
        pure
        returns (int256[] memory outputs)
    {
        outputs = new int256[](instances.length - skip);
        for (uint256 i = 0; i < outputs.length; ++i) {
            uint256 value = instances[skip + i];
            if (value >= FIELD_ORDER) revert OutputOutOfField(skip + i, value);
            bool negative = value > FIELD_ORDER / 2;
            outputs[i] = negative ? -int256(FIELD_ORDER - value) : int256(value);
        }
    }

    /// @dev Gives the callback exactly its gas, so that nobody can starve it to have it
    /// fail, and copies nothing of what it returns.
    function _callBack(uint256 requestId, Request memory open, int256[] memory outputs) private {
        bytes memory data =
            abi.encodeCall(IInferenceConsumer.onInference, (requestId, open.modelId, outputs));
        (address to, uint256 limit) = (open.callback, open.callbackGas);
        uint256 needed = limit + limit / 63 + CALLBACK_MARGIN;
        if (gasleft() < needed) revert TooLittleGas(gasleft(), needed);
        bool success;
        assembly ("memory-safe") {
            success := call(limit, to, 0, add(data, 0x20), mload(data), 0, 0)
        }
        if (!success) emit CallbackFailed(requestId, to);
    }
}
