// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @dev Stand-ins for generated verifiers. A plain one accepts a proof whose first word is
/// the keccak-256 of its instances, so that tests can make "proofs" of any shape.
contract HashVerifier {
    function verifyProof(bytes calldata proof, uint256[] calldata instances)
        external
        pure
        returns (bool)
    {
        require(bytes32(proof[:32]) == keccak256(abi.encodePacked(instances)));
        return true;
    }
}

contract ReturnsWords {
    bytes private _said;

    constructor(bytes memory said) {
        _said = said;
    }

    fallback() external {
        bytes memory said = _said;
        assembly {
            return(add(said, 32), mload(said))
        }
    }
}

contract ReturnsBomb {
    fallback() external {
        assembly {
            mstore(0, 1)
            return(0, 1000000)
        }
    }
}

contract BurnsGas {
    fallback() external {
        while (true) {}
    }
}

contract WritesState {
    uint256 private _calls;

    fallback() external {
        _calls += 1;
        assembly {
            mstore(0, 1)
            return(0, 32)
        }
    }
}
