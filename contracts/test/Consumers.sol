// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Answer, Order} from "../src/Types.sol";

interface ICoordinator {
    function request(Order calldata, uint256[] calldata) external payable returns (uint256);
    function deliver(uint256, Answer calldata) external;
    function refundExpired(uint256) external;
    function cancel(uint256) external;
    function withdraw(address payable) external;
    function allowRequester(address, bool) external;
}

/// @dev Asks and keeps what comes back.
contract Recorder {
    ICoordinator internal immutable coordinator;
    uint256 public calls;
    uint256 public lastRequest;
    bytes32 public lastModel;
    int256[] public outputs;

    constructor(ICoordinator coordinator_) payable {
        coordinator = coordinator_;
    }

    function ask(Order memory order, uint256[] calldata input) external payable returns (uint256) {
        order.callback = address(this);
        return coordinator.request{value: msg.value}(order, input);
    }

    function allow(address requester) external {
        coordinator.allowRequester(requester, true);
    }

    function nextInput(uint256, uint256 round) external view virtual returns (bytes32, uint256[] memory input) {
        return (bytes32(round), input);
    }

    function onInference(uint256 id, bytes32 model, int256[] calldata values) external virtual {
        _record(id, model, values);
    }

    function _record(uint256 id, bytes32 model, int256[] calldata values) internal {
        calls += 1;
        lastRequest = id;
        lastModel = model;
        outputs = values;
    }
}

/// @dev Does nothing: what the coordinator itself costs.
contract Silent is Recorder {
    constructor(ICoordinator c) Recorder(c) {}

    function onInference(uint256, bytes32, int256[] calldata) external override {}
}

contract Reverter is Recorder {
    constructor(ICoordinator c) Recorder(c) {}

    function onInference(uint256, bytes32, int256[] calldata) external pure override {
        revert("no");
    }
}

contract GasBurner is Recorder {
    constructor(ICoordinator c) Recorder(c) {}

    function onInference(uint256, bytes32, int256[] calldata) external override {
        while (true) calls += 1;
    }
}

/// @dev Returns, or reverts with, as much as its gas buys.
contract ReturnBomb is Recorder {
    bool private immutable _fails;

    constructor(ICoordinator c, bool fails) Recorder(c) {
        _fails = fails;
    }

    function onInference(uint256, bytes32, int256[] calldata) external view override {
        bool fails = _fails;
        assembly {
            if fails { revert(0, 1000000) }
            return(0, 1000000)
        }
    }
}

/// @dev Tries everything that could pay twice from within the callback.
contract Reenterer is Recorder {
    Answer private _answer;
    uint256 public refused;

    constructor(ICoordinator c) Recorder(c) {}

    receive() external payable {
        try coordinator.withdraw(payable(this)) {} catch { refused += 1; }
    }

    function arm(Answer calldata answer) external {
        _answer = answer;
    }

    function takeOut() external {
        coordinator.withdraw(payable(this));
    }

    function onInference(uint256 id, bytes32 model, int256[] calldata values) external override {
        _record(id, model, values);
        try coordinator.deliver(id, _answer) {} catch { refused += 1; }
        try coordinator.refundExpired(id) {} catch { refused += 1; }
        try coordinator.cancel(id) {} catch { refused += 1; }
        try coordinator.withdraw(payable(this)) {} catch { refused += 1; }
    }
}

/// @dev Cannot be paid.
contract Unpayable is Recorder {
    constructor(ICoordinator c) Recorder(c) {}

    function takeOut() external {
        coordinator.withdraw(payable(address(this)));
    }
}

/// @dev Gives a public input.
contract PublicSource is Recorder {
    constructor(ICoordinator c) Recorder(c) {}

    function nextInput(uint256, uint256 round)
        external
        pure
        override
        returns (bytes32 commitment, uint256[] memory input)
    {
        input = new uint256[](2);
        (input[0], input[1]) = (round, round + 1);
        return (commitment, input);
    }
}

/// @dev Names the same input in every round, and is not called back.
contract FixedSource {
    bytes32 private immutable _commitment;

    constructor(bytes32 commitment) {
        _commitment = commitment;
    }

    function nextInput(uint256, uint256)
        external
        view
        returns (bytes32 commitment, uint256[] memory input)
    {
        return (_commitment, input);
    }
}
