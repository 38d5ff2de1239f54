"""A node must not be able to hand out a circuit whose encryption it can break."""

import copy
import json
import math

import pytest

from privacy.encoding import canonical_json
from privacy.errors import FormatError
from privacy.fhe import FheClient
from privacy.fhe.keysets import TREES, shipped
from privacy.fhe.security import check_parameters
from privacy.fhe.spec import parse_program, parse_spec


@pytest.fixture
def program(tree):
    return parse_program(parse_spec(tree.client_json).program)


def test_parameters_that_concrete_chose_are_accepted(program):
    check_parameters(program)


def refuses(program, match):
    with pytest.raises(FormatError, match=match) as caught:
        check_parameters(program)
    assert caught.value.code == "fhe-weak-parameters"


@pytest.mark.parametrize("bits_less", [0.01, 1, 20])
def test_input_noise_below_the_curve_is_refused(program, bits_less):
    _input(program)["variance"] *= 2.0 ** (-2 * bits_less)
    refuses(program, "noise")


@pytest.mark.parametrize("kind", ["lweBootstrapKeys", "lweKeyswitchKeys"])
def test_evaluation_key_noise_below_the_curve_is_refused(program, kind):
    for i in range(len(program["keyset"][kind])):
        changed = copy.deepcopy(program)
        changed["keyset"][kind][i]["params"]["variance"] /= 2
        refuses(changed, "noise")


@pytest.mark.parametrize("variance", [0, -1e-20, math.nan, math.inf, "x", None, 2.0])
def test_impossible_noise_is_refused(program, variance):
    _input(program)["variance"] = variance
    refuses(program, "128 bits")


def test_a_short_secret_key_is_refused_even_if_all_agree_on_it(program):
    for key in program["keyset"]["lweSecretKeys"]:
        key["params"]["lweDimension"] = 10
    for key in program["keyset"]["lweKeyswitchKeys"]:
        key["params"] |= {"inputLweDimension": 10, "outputLweDimension": 10}
    for key in program["keyset"]["lweBootstrapKeys"]:
        key["params"] |= {"glweDimension": 1, "polynomialSize": 10}
        key["params"]["inputLweDimension"] = 10
    _input(program)["lweDimension"] = 10
    refuses(program, "dimension 10 with")


def test_a_secret_key_shorter_than_its_use_says_is_refused(program):
    for i in range(len(program["keyset"]["lweSecretKeys"])):
        changed = copy.deepcopy(program)
        changed["keyset"]["lweSecretKeys"][i]["params"]["lweDimension"] -= 1
        refuses(changed, "its use says")


@pytest.mark.parametrize("kind", ["lweBootstrapKeys", "lweKeyswitchKeys"])
@pytest.mark.parametrize("change", [-1, 1])
def test_evaluation_keys_for_input_of_another_dimension_are_refused(
    program, kind, change
):
    for i in range(len(program["keyset"][kind])):
        changed = copy.deepcopy(program)
        changed["keyset"][kind][i]["params"]["inputLweDimension"] += change
        refuses(changed, "its use says")


def test_evaluation_keys_from_a_key_that_is_not_there_are_refused(program):
    for at in (-1, 99, "0", None):
        changed = copy.deepcopy(program)
        changed["keyset"]["lweKeyswitchKeys"][0]["inputId"] = at
        refuses(changed, "cannot be read")


@pytest.mark.parametrize(
    "ids", [(1, 0), (0, 0), (1, 1), (1, 2), (0, 2), (0, -1), (0, None), ("0", "1")]
)
def test_secret_keys_whose_ids_are_not_their_positions_are_refused(ids):
    program = {"keyset": shipped(TREES[0]).keyset, "circuits": []}
    check_parameters(program)
    for key, number in zip(program["keyset"]["lweSecretKeys"], ids, strict=True):
        key["id"] = number
    refuses(program, "not numbered in order")


@pytest.mark.parametrize("order", [slice(None, None, -1), [0, 0, 1], [1, 0, 1]])
def test_secret_keys_out_of_order_or_twice_are_refused(order):
    program = {"keyset": shipped(TREES[0]).keyset, "circuits": []}
    keys = program["keyset"]["lweSecretKeys"]
    chosen = keys[order] if isinstance(order, slice) else [keys[i] for i in order]
    program["keyset"]["lweSecretKeys"] = chosen
    refuses(program, "not numbered in order")


@pytest.mark.parametrize("name", TREES)
def test_the_key_sets_that_ship_are_accepted(name):
    check_parameters({"keyset": shipped(name).keyset, "circuits": []})


@pytest.mark.parametrize("kind", ["ternary", "zero"])
def test_secret_keys_of_another_kind_are_refused(program, kind):
    program["keyset"]["lweSecretKeys"][0]["params"]["keyType"] = kind
    refuses(program, "not binary")


@pytest.mark.parametrize("member", ["keyset", "circuits"])
def test_a_program_without_parameters_is_refused(program, member):
    del program[member]
    refuses(program, "cannot be read")


def test_the_client_refuses_a_weak_circuit_before_it_makes_keys(tree, program):
    _input(program)["variance"] /= 4
    value = json.loads(tree.client_json)
    value["program"] = json.dumps(program)
    with pytest.raises(FormatError, match="do not encrypt"):
        FheClient(canonical_json(value))


def _input(program):
    gate = program["circuits"][0]["inputs"][0]
    return gate["typeInfo"]["lweCiphertext"]["encryption"]
