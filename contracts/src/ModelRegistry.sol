// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {InputKind} from "./Types.sol";

/// @title Models that contracts can ask, each bound to its verifier.
/// @notice A model's id names its publisher and its bundle: nobody can take it first, and
/// what it stands for never changes. A publisher's versions of a name only grow.
contract ModelRegistry {
    /// @notice One model.
    /// @param verifier Checks proofs; zero if the model has no circuit.
    /// @param proofBytes Length of every proof.
    /// @param inputs How many instances describe the input.
    /// @param outputs How many instances are outputs.
    /// @param outputScale Outputs are fixed-point numbers of so many binary digits.
    /// @param inputKind What the first instances are.
    /// @param insecureSrs The publisher made the SRS and could forge proofs.
    /// @param active Set by the registry.
    /// @param verifierCodeHash keccak-256 of the verifier's code.
    /// @param vkaDigest keccak-256 of the verifying-key artifact; zero: a plain verifier.
    /// @param manifestDigest SHA-256 of the bundle's manifest.
    /// @param srsDigest SHA-256 of the SRS.
    /// @param settingsDigest SHA-256 of the circuit's settings.
    /// @param publisher Set by the registry.
    struct Model {
        address verifier;
        uint32 proofBytes;
        uint16 inputs;
        uint16 outputs;
        uint8 outputScale;
        InputKind inputKind;
        bool insecureSrs;
        bool active;
        bytes32 verifierCodeHash;
        bytes32 vkaDigest;
        bytes32 manifestDigest;
        bytes32 srsDigest;
        bytes32 settingsDigest;
        address publisher;
    }

    /// @dev Longer rows would make a delivery cost more than a block holds.
    uint16 public constant MAX_INSTANCES = 4096;

    mapping(bytes32 modelId => Model) private _models;
    mapping(address publisher => mapping(bytes32 name => bytes32[])) private _versions;

    event Registered(
        bytes32 indexed modelId, address indexed publisher, bytes32 indexed name, uint256 version
    );
    event Deprecated(bytes32 indexed modelId);

    error UnknownModel(bytes32 modelId);
    error ModelInactive(bytes32 modelId);
    error ModelExists(bytes32 modelId);
    error NotPublisher(address caller, address publisher);
    error VerifierCodeMismatch(bytes32 found, bytes32 expected);
    error BadShape(uint256 inputs, uint256 outputs);

    /// @notice Register a model as the next version of one of the caller's names.
    /// @param name The model's name, as the publisher likes.
    /// @param model All about it; `active` and `publisher` are set here.
    /// @return modelId `modelIdOf(caller, model.manifestDigest)`.
    function register(bytes32 name, Model calldata model) external returns (bytes32 modelId) {
        modelId = modelIdOf(msg.sender, model.manifestDigest);
        if (_models[modelId].publisher != address(0)) revert ModelExists(modelId);
        _checkShape(model);
        _checkVerifier(model);
        _models[modelId] = model;
        _models[modelId].active = true;
        _models[modelId].publisher = msg.sender;
        _versions[msg.sender][name].push(modelId);
        emit Registered(modelId, msg.sender, name, _versions[msg.sender][name].length);
    }

    /// @notice End a model: it takes no requests, and its answers are refused. Open
    /// requests are refunded when they expire.
    function deprecate(bytes32 modelId) external {
        Model storage model = _models[modelId];
        address publisher = model.publisher;
        if (publisher == address(0)) revert UnknownModel(modelId);
        if (publisher != msg.sender) revert NotPublisher(msg.sender, publisher);
        if (!model.active) revert ModelInactive(modelId);
        model.active = false;
        emit Deprecated(modelId);
    }

    /// @notice Return an active model.
    function get(bytes32 modelId) external view returns (Model memory model) {
        model = _models[modelId];
        _checkActive(modelId, model.active, model.publisher);
    }

    /// @notice Return what checking a proof takes, and no more.
    function circuit(bytes32 modelId)
        external
        view
        returns (
            address verifier,
            uint256 proofBytes,
            uint256 instances,
            bytes32 codeHash,
            bytes32 vkaDigest
        )
    {
        Model storage model = _models[modelId];
        if (!model.active) _checkActive(modelId, false, model.publisher);
        verifier = model.verifier;
        proofBytes = model.proofBytes;
        instances = uint256(model.inputs) + model.outputs;
        codeHash = model.verifierCodeHash;
        vkaDigest = model.vkaDigest;
    }

    /// @notice Return a model also if it was deprecated.
    function find(bytes32 modelId) external view returns (Model memory model) {
        model = _models[modelId];
        if (model.publisher == address(0)) revert UnknownModel(modelId);
    }

    /// @notice Return the models that a publisher registered under a name, oldest first.
    function versionsOf(address publisher, bytes32 name) external view returns (bytes32[] memory) {
        return _versions[publisher][name];
    }

    /// @notice Return the id of a publisher's model.
    function modelIdOf(address publisher, bytes32 manifestDigest) public pure returns (bytes32) {
        return keccak256(abi.encode(publisher, manifestDigest));
    }

    function _checkActive(bytes32 modelId, bool active, address publisher) private pure {
        if (publisher == address(0)) revert UnknownModel(modelId);
        if (!active) revert ModelInactive(modelId);
    }

    function _checkShape(Model calldata model) private pure {
        uint256 all = uint256(model.inputs) + model.outputs;
        bool hashed = model.inputKind == InputKind.Hash;
        if (
            model.inputs == 0 || model.outputs == 0 || all > MAX_INSTANCES
                || (hashed && model.inputs != 1)
        ) revert BadShape(model.inputs, model.outputs);
    }

    function _checkVerifier(Model calldata model) private view {
        bytes32 expected = model.verifierCodeHash;
        if (model.verifier == address(0)) {
            if (expected != 0 || model.vkaDigest != 0) revert VerifierCodeMismatch(0, expected);
            return;
        }
        bytes32 found = model.verifier.codehash;
        if (found != expected || model.verifier.code.length == 0) {
            revert VerifierCodeMismatch(found, expected);
        }
    }
}
