"""The data owner's side, on the real engine."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from privacy.activations import activate
from privacy.encoding import pack, unpack
from privacy.errors import FormatError
from privacy.fhe import FheClient
from privacy.fhe.runner import Runner
from privacy.runs import MAX_ROWS

HEAVY = ["torch", "concrete", "sklearn", "concrete.ml", "concrete.fhe", "onnx"]


def run(published, blob, keys=None):
    return Runner(published.bundle).run(blob, keys, lambda _: None).output


@pytest.fixture
def keys(linear_keys):
    return linear_keys


@pytest.fixture
def client(linear):
    return FheClient(linear.client_json)


@pytest.fixture
def output(linear, keys):
    return run(linear, keys.encrypt(linear.held[:2]))


def test_decrypted_outputs_are_the_clear_models_margins(linear, keys):
    outputs = keys.decrypt(run(linear, keys.encrypt(linear.held[:8])), 8)
    assert outputs.shape == (8, 1)
    np.testing.assert_allclose(outputs, linear.clear[:8], atol=2e-3)
    labels = activate(outputs, "sigmoid").argmax(axis=1)
    assert labels.tolist() == activate(linear.clear[:8], "sigmoid").argmax(1).tolist()


def test_values_beyond_the_range_are_refused_or_clipped_not_wrapped(linear, keys):
    """The circuit is wide enough for the worst corner of its input range."""
    program_range = linear.client_json
    spec = json.loads(program_range)["quantizers"][0]
    weights = np.sign(_coefficients(linear))
    for sign in (1, -1):
        rows = sign * weights * 1e6
        ends = np.where(rows > 0, spec["high"], spec["low"])
        clipped = (ends - spec["zero_point"]) * spec["scale"]
        expected = clipped @ _coefficients(linear).T + _intercept(linear)
        with pytest.raises(FormatError, match="of 30 values lie beyond") as caught:
            keys.encrypt(rows)
        assert caught.value.code == "out-of-range"
        blob = keys.encrypt(rows, allow_clipped=True)
        outputs = keys.decrypt(run(linear, blob), 1)
        np.testing.assert_allclose(outputs[0], expected[0], rtol=1e-3)


def _coefficients(linear):
    import joblib

    return joblib.load(linear.request.estimator).coef_


def _intercept(linear):
    import joblib

    return joblib.load(linear.request.estimator).intercept_


def test_the_same_row_is_never_encrypted_to_the_same_bytes(linear, keys):
    row = linear.held[:1]
    assert keys.encrypt(row) != keys.encrypt(row)


def test_two_key_sets_differ(client, linear, keys):
    other = client.generate_keys()
    outputs = other.decrypt(run(linear, keys.encrypt(linear.held[:2])), 2)
    assert np.abs(outputs - linear.clear[:2]).max() > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_encrypt_refuses_values_that_are_not_finite(linear, keys, bad):
    rows = linear.held[:3]
    rows[1, 4] = bad
    with pytest.raises(FormatError, match="row 2, column 5") as caught:
        keys.encrypt(rows)
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("shape", [(2, 29), (2, 31), (30,), (1, 1, 30)])
def test_encrypt_refuses_another_number_of_features(keys, shape):
    with pytest.raises(FormatError) as caught:
        keys.encrypt(np.zeros(shape))
    assert caught.value.code == "wrong-feature-count"


@pytest.mark.parametrize(("rows", "code"), [(0, "no-rows"), (257, "too-many-rows")])
def test_encrypt_refuses_no_rows_and_too_many(keys, rows, code):
    assert MAX_ROWS == 256
    with pytest.raises(FormatError) as caught:
        keys.encrypt(np.zeros((rows, 30)))
    assert caught.value.code == code


def test_kept_keys_decrypt_what_they_encrypted(client, linear, keys, output):
    found = client.load_keys(keys.to_bytes()).decrypt(output, 2)
    np.testing.assert_allclose(found, linear.clear[:2], atol=2e-3)


def test_loading_refuses_keys_of_another_model(tree, keys):
    with pytest.raises(FormatError, match="generate keys for it") as caught:
        FheClient(tree.client_json).load_keys(keys.to_bytes())
    assert caught.value.code == "fhe-keys-mismatch"


def test_loading_refuses_every_kind_of_damage_before_the_engine_reads(client, keys):
    whole = keys.to_bytes()
    rng = random.Random(1)
    damaged = [b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0"]
    damaged += [rng.randbytes(len(whole)), pack(unpack(whole, what="keys")[:1])]
    for _ in range(50):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(changed))
    for raw in damaged:
        with pytest.raises(FormatError):
            client.load_keys(raw)


def test_decrypt_refuses_a_truncated_result(keys, output):
    frames = unpack(output, what="output")
    for raw in (output[:-1], pack([frames[0], frames[1][:-8]]), b""):
        with pytest.raises(FormatError):
            keys.decrypt(raw, 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_decrypt_refuses_another_number_of_results(keys, output, rows):
    with pytest.raises(FormatError, match="holds 2 results") as caught:
        keys.decrypt(output, rows)
    assert caught.value.code == "fhe-result-mismatch"


def test_decrypt_refuses_an_input_sent_back_as_the_result(linear, keys):
    blob = keys.encrypt(linear.held[:2])
    with pytest.raises(FormatError) as caught:
        keys.decrypt(blob, 2)
    assert caught.value.code == "fhe-result-mismatch"


def test_whatever_bytes_come_the_engine_reads_a_result_of_the_circuits_structure(
    linear, keys, output
):
    frame = unpack(output, what="output")[0]
    batch = json.loads(linear.client_json)["batches"][0]
    free = batch["result"]["size"] // 8 - len(batch["result"]["at"])
    assert len(frame) == free * batch["word_bytes"]
    rng = random.Random(2)
    for other in (bytes(len(frame)), b"\xff" * len(frame), rng.randbytes(len(frame))):
        assert np.isfinite(keys.decrypt(pack([other]), 1)).all()


def test_keys_may_be_used_from_several_threads(linear, keys):
    def once(i):
        return keys.decrypt(run(linear, keys.encrypt(linear.held[i : i + 1])), 1)

    with ThreadPoolExecutor(4) as pool:
        outputs = np.concatenate(list(pool.map(once, range(12))))
    np.testing.assert_allclose(outputs, linear.clear[:12], atol=2e-3)


def test_the_client_loads_no_engine_until_it_is_used_and_no_training_library_ever(
    linear, tmp_path
):
    script = f"""
import sys, numpy
from pathlib import Path
from privacy.fhe import FheClient
assert not [m for m in sys.modules if m.startswith(("concrete", "mlir"))]
keys = FheClient(Path(sys.argv[1]).read_bytes()).generate_keys()
keys.encrypt(numpy.zeros((1, 30)))
assert "mlir" in sys.modules
assert not [m for m in {HEAVY!r} if m in sys.modules]
"""
    path = str(linear.bundle.path("fhe/client.json"))
    subprocess.run([sys.executable, "-c", script, path], check=True)


def test_a_process_that_ran_a_circuit_ends_with_its_own_status(linear):
    code = (
        "import sys, pathlib, numpy\n"
        "from privacy.bundle import open_bundle\n"
        "from privacy.fhe import FheClient\n"
        "from privacy.fhe.runner import Runner\n"
        "bundle = open_bundle(pathlib.Path(sys.argv[1]))\n"
        "client = FheClient(bundle.path('fhe/client.json').read_bytes())\n"
        "rows = numpy.zeros((1, client.spec.features))\n"
        "blob = client.generate_keys().encrypt(rows)\n"
        "Runner(bundle).run(blob, None, lambda _: None)\n"
        "sys.exit(6)\n"
    )
    command = [sys.executable, "-c", code, str(linear.bundle.root)]
    assert subprocess.run(command, check=False).returncode == 6
