// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {ModelRegistry} from "./ModelRegistry.sol";
import {FIELD_ORDER} from "./Types.sol";

/// @dev What EZKL generates. Both revert on a bad proof; see `ProofVerifier`.
interface IPlainVerifier {
    function verifyProof(bytes calldata proof, uint256[] calldata instances)
        external
        returns (bool);
}

/// @dev What this returns is no valid ABI encoding: never call it through the interface.
interface IReusableVerifier {
    function verifyProof(
        bytes calldata proof,
        uint256[] calldata instances,
        bytes32[] calldata vka
    ) external returns (bool, bytes32, int256[] memory);
}

/// @title Checks that a proof holds for its instances under a registered model.
/// @notice It says nothing about what the instances mean: the caller compares the input
/// and takes the outputs from them. Generated verifiers are given a calldata of our own
/// making, since they read proofs at fixed places and take trailing bytes, and are not
/// trusted in what they return.
contract ProofVerifier {
    ModelRegistry public immutable registry;

    error NoCircuit(bytes32 modelId);
    error WrongProofLength(uint256 found, uint256 expected);
    error WrongInstanceCount(uint256 found, uint256 expected);
    error InstanceOutOfField(uint256 index, uint256 value);
    error VkaDigestMismatch(bytes32 found, bytes32 expected);
    error VerifierChanged(bytes32 found, bytes32 expected);
    error ProofInvalid();
    error BadReturnData();

    constructor(ModelRegistry registry_) {
        registry = registry_;
    }

    /// @notice Check a proof; reverts unless it holds.
    /// @param modelId The model; it must be active.
    /// @param proof The proof, exactly as long as the model's proofs are.
    /// @param instances Field elements in their one spelling, as many as the model has.
    /// @param vka The model's artifact for a reusable verifier; empty for a plain one.
    function verify(
        bytes32 modelId,
        bytes calldata proof,
        uint256[] calldata instances,
        bytes32[] calldata vka
    ) external view {
        (
            address verifier,
            uint256 proofBytes,
            uint256 count,
            bytes32 codeHash,
            bytes32 vkaDigest
        ) = registry.circuit(modelId);
        if (verifier == address(0)) revert NoCircuit(modelId);
        if (verifier.codehash != codeHash) revert VerifierChanged(verifier.codehash, codeHash);
        if (proof.length != proofBytes) revert WrongProofLength(proof.length, proofBytes);
        if (instances.length != count) revert WrongInstanceCount(instances.length, count);
        for (uint256 i = 0; i < count; ++i) {
            if (instances[i] >= FIELD_ORDER) revert InstanceOutOfField(i, instances[i]);
        }
        _checkVka(vka, vkaDigest);
        if (vkaDigest == 0) {
            _call(verifier, abi.encodeCall(IPlainVerifier.verifyProof, (proof, instances)), 0);
        } else {
            bytes memory call =
                abi.encodeCall(IReusableVerifier.verifyProof, (proof, instances, vka));
            _call(verifier, call, vkaDigest);
        }
    }

    function _checkVka(bytes32[] calldata vka, bytes32 expected) private pure {
        bytes32 found = vka.length == 0 ? bytes32(0) : keccak256(abi.encodePacked(vka));
        if (found != expected) revert VkaDigestMismatch(found, expected);
    }

    /// @dev Copies at most two words of what comes back, however much it is. A plain
    /// verifier answers with the word 1; the reusable one with 1, the artifact's digest,
    /// and numbers that are not needed.
    function _call(address verifier, bytes memory data, bytes32 vkaDigest) private view {
        bool success;
        uint256 size;
        uint256 word0;
        bytes32 word1;
        assembly ("memory-safe") {
            success := staticcall(gas(), verifier, add(data, 0x20), mload(data), 0x00, 0x40)
            size := returndatasize()
            word0 := mload(0x00)
            word1 := mload(0x20)
        }
        if (!success) revert ProofInvalid();
        bool plain = vkaDigest == 0;
        bool sized = plain ? size == 0x20 : size >= 0x60;
        if (!sized || word0 != 1 || (!plain && word1 != vkaDigest)) revert BadReturnData();
    }
}
