// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @dev Order of BN254's scalar field: instances of a proof lie below it.
uint256 constant FIELD_ORDER =
    0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001;

/// @notice How the instances of an answer say which input it is about.
enum InputKind {
    Hash, // one instance: a hash of the input, which stays off chain
    Public // the quantised input itself, one instance a feature
}

/// @notice What a request wants an answer to come with.
enum Evidence {
    Proof,
    Attestation,
    ProofAndAttestation
}

/// @notice What a requester asks for.
/// @param modelId See `ModelRegistry`.
/// @param inputCommitment The input's hash for `InputKind.Hash`; zero for `Public`.
/// @param callback Called with the outputs; zero for no callback. It must be the caller,
/// or a contract that allowed the caller with `allowRequester`.
/// @param callbackGas How much gas the callback is given, no more and no less.
/// @param deadline Unix time after which the fee goes back.
/// @param owner Who may cancel, and who is refunded; zero for the caller.
/// @param provider Who alone may deliver; zero for whoever delivers first.
/// @param evidence What the answer must come with.
/// @param allowInsecureSrs Accept a model whose publisher could forge proofs.
/// @param allowSimulated Accept an attestation of a simulated enclave.
struct Order {
    bytes32 modelId;
    bytes32 inputCommitment;
    address callback;
    uint32 callbackGas;
    uint40 deadline;
    address owner;
    address provider;
    Evidence evidence;
    bool allowInsecureSrs;
    bool allowSimulated;
}

/// @notice An answer and its evidence.
/// @param proof The proof; empty if none is wanted.
/// @param instances What describes the input, then the outputs, as field elements.
/// @param vka The model's verifying-key artifact; empty for a plain verifier.
/// @param signature The enclave's, 65 bytes; empty if none is wanted.
struct Answer {
    bytes proof;
    uint256[] instances;
    bytes32[] vka;
    bytes signature;
}
