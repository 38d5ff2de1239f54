// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Signing keys of attested enclaves, vouched for by an authority.
/// @notice The authority (the owner) checks an enclave's evidence off chain and registers
/// its signing key with the digest of the attestation result. Consumers of attested
/// answers trust the authority, and the hardware it accepts.
contract AttestationVerifier is Ownable2Step {
    /// @param modelId The one model that the enclave serves.
    /// @param resultDigest SHA-256 of the attestation result the authority holds.
    /// @param expires Unix time after which the key is worth nothing.
    /// @param simulated The enclave is simulated: its operator can read and forge.
    /// @param revoked It was withdrawn.
    struct Enclave {
        bytes32 modelId;
        bytes32 resultDigest;
        uint40 expires;
        bool simulated;
        bool revoked;
    }

    mapping(address key => Enclave) public enclaves;

    event EnclaveRegistered(
        address indexed key, bytes32 indexed modelId, bytes32 resultDigest, uint40 expires, bool simulated
    );
    event EnclaveRevoked(address indexed key);

    error UnknownEnclave(address key);
    error EnclaveExists(address key);
    error EnclaveExpired(address key, uint40 expires);
    error EnclaveIsRevoked(address key);
    error EnclaveServesAnother(address key, bytes32 modelId);
    error SimulatedEnclave(address key);
    error BadSignature();

    constructor(address authority) Ownable(authority) {}

    /// @notice Vouch for an enclave's key. A key is registered once, so a revoked one
    /// stays revoked.
    function register(
        address key,
        bytes32 modelId,
        bytes32 resultDigest,
        uint40 expires,
        bool simulated
    ) external onlyOwner {
        if (key == address(0)) revert UnknownEnclave(key);
        if (enclaves[key].expires != 0) revert EnclaveExists(key);
        if (expires <= block.timestamp) revert EnclaveExpired(key, expires);
        enclaves[key] = Enclave(modelId, resultDigest, expires, simulated, false);
        emit EnclaveRegistered(key, modelId, resultDigest, expires, simulated);
    }

    /// @notice Withdraw an enclave's key, for good.
    function revoke(address key) external onlyOwner {
        if (enclaves[key].expires == 0) revert UnknownEnclave(key);
        enclaves[key].revoked = true;
        emit EnclaveRevoked(key);
    }

    /// @notice Check an enclave's signature; reverts unless it holds.
    /// @param digest What was signed (EIP-712).
    /// @param signature 65 bytes, the lower of both s.
    /// @param modelId The model that the enclave must serve.
    /// @param allowSimulated Whether a simulated enclave will do.
    function check(
        bytes32 digest,
        bytes calldata signature,
        bytes32 modelId,
        bool allowSimulated
    ) external view {
        (address key, ECDSA.RecoverError failure,) = ECDSA.tryRecover(digest, signature);
        if (failure != ECDSA.RecoverError.NoError) revert BadSignature();
        Enclave memory enclave = enclaves[key];
        if (enclave.expires == 0) revert UnknownEnclave(key);
        if (enclave.revoked) revert EnclaveIsRevoked(key);
        if (enclave.expires < block.timestamp) revert EnclaveExpired(key, enclave.expires);
        if (enclave.modelId != modelId) revert EnclaveServesAnother(key, enclave.modelId);
        if (enclave.simulated && !allowSimulated) revert SimulatedEnclave(key);
    }
}
