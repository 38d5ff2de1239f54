"""client.json: read strictly, and telling no more than it must."""

import json

import pytest

from privacy.encoding import canonical_json
from privacy.errors import FormatError
from privacy.fhe.spec import parse_spec


def test_client_json_survives_being_read_and_written(tree):
    assert parse_spec(tree.client_json).to_bytes() == tree.client_json


def test_client_json_does_not_hold_the_training_range(tree):
    names = set(json.loads(tree.client_json)["quantizers"][0])
    assert names == {"scale", "zero_point", "low", "high"}
    assert b"rmax" not in tree.client_json
    assert b"rmin" not in tree.client_json


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", "privacy-compute/fhe-client/1"),
        ("backend", "os"),
        ("circuit", "other"),
        ("circuit", "fhe-native"),
        ("circuit", []),
        ("program", {}),
        ("features", "30"),
        ("features", 29),
        ("needs_keys", 1),
        ("quantizers", []),
        ("quantizers", None),
        ("keys", {}),
        ("output", {}),
        ("more", 1),
    ],
)
def test_a_changed_member_is_refused(tree, member, value):
    changed = json.loads(tree.client_json) | {member: value}
    with pytest.raises(FormatError):
        parse_spec(canonical_json(changed))


def test_a_missing_member_is_refused(tree):
    whole = json.loads(tree.client_json)
    for member in whole:
        rest = {k: v for k, v in whole.items() if k != member}
        with pytest.raises(FormatError):
            parse_spec(canonical_json(rest))


def test_another_encoding_of_the_same_circuit_is_refused(tree):
    with pytest.raises(FormatError, match="canonical"):
        parse_spec(json.dumps(json.loads(tree.client_json)).encode())


def test_a_native_circuits_client_json_is_as_strict(forest):
    whole = json.loads(forest.client_json)
    assert parse_spec(forest.client_json).to_bytes() == forest.client_json
    few, steps = whole["quantizers"][:-1], {**whole["output"], "scale": [0]}
    for change in (
        {"circuit": "concrete-ml"},
        {"quantizers": few},
        {"quantizers": whole["quantizers"][:1]},
        {"quantizers": [*few, {"edges": [1, 0]}]},
        {"quantizers": [*few, [0]]},
        {"output": steps},
    ):
        with pytest.raises(FormatError):
            parse_spec(canonical_json({**whole, **change}))
