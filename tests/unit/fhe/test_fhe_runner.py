"""The node's side, on the real engine; hostile bytes run in a child process."""

import random
import signal
from dataclasses import replace

import numpy as np
import pytest

from privacy.bundle import Bundle, ModePart
from privacy.child import Child, ChildDied
from privacy.encoding import pack, unpack
from privacy.errors import FormatError, NotFoundError, PrivacyError, UnavailableError
from privacy.fhe import FheClient
from privacy.fhe.runner import Runner
from privacy.runs import RowStore
from privacy.warm import Warm


@pytest.fixture
def runner(tree):
    return Runner(tree.bundle, warm=Warm(4 << 30))


@pytest.fixture(scope="session")
def keys_file(tree_keys, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_bytes(tree_keys.evaluation_keys())
    return path


@pytest.fixture(scope="session")
def blob(tree, tree_keys):
    return tree_keys.encrypt(tree.held[:1])


def silent(_):
    pass


def test_a_job_gives_the_clear_models_probabilities(tree, tree_keys, runner, keys_file):
    seen = []
    result = runner.run(tree_keys.encrypt(tree.held[:3]), keys_file, seen.append)
    outputs = tree_keys.decrypt(result.output, 3)
    assert outputs.shape == (3, 2)
    np.testing.assert_allclose(outputs, tree.clear[:3], atol=0.05)
    assert outputs.argmax(1).tolist() == tree.clear[:3].argmax(1).tolist()
    assert seen == [{"stage": "run", "done": i, "total": 3} for i in (1, 2, 3)]
    assert (result.evidence, result.evidence_kind) == (b"", "")


def test_a_process_that_ran_a_circuit_survives_a_broken_connection(
    worker, tree, keys_file, blob, tmp_path
):
    given = tmp_path / "input"
    given.write_bytes(blob)
    request = {
        "bundle": str(tree.bundle.root),
        "input": str(given),
        "keys": str(keys_file),
        "output": str(tmp_path / "output"),
    }
    mask = worker.call(request)["ignored_signals"]
    assert mask >> (signal.SIGPIPE - 1) & 1


def test_a_linear_model_needs_no_keys_but_takes_them(linear, linear_keys, tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(linear_keys.evaluation_keys())
    runner = Runner(linear.bundle)
    for given in (None, path):
        result = runner.run(linear_keys.encrypt(linear.held[:1]), given, silent)
        found = linear_keys.decrypt(result.output, 1)
        np.testing.assert_allclose(found, linear.clear[:1], atol=2e-3)


def test_a_tree_needs_keys(runner, blob):
    with pytest.raises(FormatError, match="upload those for tree 1") as caught:
        runner.run(blob, None, silent)
    assert caught.value.code == "keys-missing"


def test_a_circuit_compiled_for_another_machine_is_not_loaded(tree):
    part = tree.bundle.manifest.modes["fhe"]
    params = {**part.params, "machine": "riscv64"}
    with pytest.raises(UnavailableError, match="compiled for riscv64"):
        Runner(_with_part(tree.bundle, replace(part, params=params)))


def test_a_bundle_that_does_not_offer_fhe_is_refused(tree):
    with pytest.raises(NotFoundError, match="too wide"):
        Runner(_with_part(tree.bundle, ModePart(available=False, reason="too wide")))


def _with_part(bundle, part) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, modes={"fhe": part}))


class CountingCircuit:
    """Counts how often keys are unpacked; the engine itself is not asked."""

    def __init__(self, runner):
        self.batch = runner._spec.batches[0]
        self.loaded = []

    def load_keys(self, raw):
        self.loaded.append(raw[:64])
        return raw[:64]

    def run(self, function, ciphertext, evaluation_keys):
        return self.result(0)

    def result(self, number):
        """Return a result as the engine's, made of one number."""
        return number.to_bytes() * self.batch.result.size


def test_unpacked_keys_are_kept_and_the_oldest_dropped(tree, blob, tree_keys, tmp_path):
    resident = [0]
    runner = Runner(tree.bundle, warm=Warm(4 << 40, resident=lambda: resident[0]))
    circuit = runner._circuit = CountingCircuit(runner)
    raw = tree_keys.evaluation_keys()
    fixed = {i for i, _ in runner._spec.keys.words}
    free = next(i for i in range(runner._spec.keys.size // 8) if i not in fixed)
    paths = [tmp_path / str(i) for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(raw[: free * 8] + bytes([i]) * 8 + raw[free * 8 + 8 :])
    for i in (0, 0, 1, 0, 2, 3, 0):
        runner.run(blob, paths[i], silent)
    assert len(circuit.loaded) == 4
    resident[0] = 5 << 40  # more than the budget, however few are left
    runner._warm.settle()
    assert len(runner._warm) == 1
    runner.run(blob, paths[0], silent)  # used last before, so still there
    assert len(circuit.loaded) == 4


def test_keys_of_one_key_set_are_unpacked_once_for_all_models(
    tree, blob, keys_file, tmp_path
):
    warm = Warm(4 << 30)
    runners = [Runner(tree.bundle, warm=warm) for _ in range(2)]
    circuit = CountingCircuit(runners[0])
    for runner in runners:
        runner._circuit = circuit
        runner.run(blob, keys_file, silent)
    assert len(circuit.loaded) == 1


def test_a_key_file_that_was_replaced_is_read_again(runner, blob, tree_keys, tmp_path):
    circuit = runner._circuit = CountingCircuit(runner)
    path = tmp_path / "keys"
    for _ in range(2):
        path.write_bytes(tree_keys.evaluation_keys())
        runner.run(blob, path, silent)
        path.rename(tmp_path / "old")
    assert len(circuit.loaded) == 2


class DyingCircuit(CountingCircuit):
    """Dies at the third row, once."""

    def __init__(self, runner):
        super().__init__(runner)
        self.ran = 0

    def run(self, function, ciphertext, evaluation_keys):
        self.ran += 1
        if self.ran == 3:
            raise KeyboardInterrupt
        return self.result(self.ran)


def test_rows_done_before_a_death_are_not_computed_again(
    runner, tree, tree_keys, keys_file, tmp_path
):
    circuit = runner._circuit = DyingCircuit(runner)
    many, rows = tree_keys.encrypt(tree.held[:5]), RowStore(tmp_path / "rows")
    with pytest.raises(KeyboardInterrupt):
        runner.run(many, keys_file, silent, rows)
    (tmp_path / "rows" / "1").write_bytes(b"torn")  # as a power cut leaves it
    seen = []
    output = runner.run(many, keys_file, seen.append, RowStore(tmp_path / "rows"))
    found = unpack(output.output, what="output")
    ran = [circuit.batch.pack(circuit.result(i)) for i in (1, 4, 5, 6, 7)]
    assert found == ran
    assert [report["done"] for report in seen] == [1, 2, 3, 4, 5]


# Hostile bytes


@pytest.fixture(scope="module")
def worker(repository):
    with Child(
        "tests.unit.fhe.fhe_worker:handler",
        memory_bytes=16 << 30,
        env={"PYTHONPATH": repository},
    ) as child:
        yield child


@pytest.fixture(scope="module")
def repository():
    from pathlib import Path

    return str(Path(__file__).resolve().parents[3])


@pytest.fixture
def job(worker, tree, tmp_path):
    def run(input_blob, keys):
        (tmp_path / "input").write_bytes(input_blob)
        if keys is not None:
            (tmp_path / "keys").write_bytes(keys)
        request = {
            "bundle": str(tree.bundle.root),
            "input": str(tmp_path / "input"),
            "keys": str(tmp_path / "keys") if keys is not None else None,
            "output": str(tmp_path / "output"),
        }
        worker.call(request, timeout_s=60)
        return (tmp_path / "output").read_bytes()

    return run


def flipped(raw, at, bit=0):
    changed = bytearray(raw)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_malformed_keys_are_refused_and_the_worker_lives(
    job, worker, tree_keys, linear_keys, blob, runner
):
    whole = tree_keys.evaluation_keys()
    rng = random.Random(2)
    hostile = [
        b"",
        linear_keys.evaluation_keys(),
        whole[:-8],
        whole[: len(whole) // 2],
        whole + bytes(8),
        bytes(len(whole)),
        rng.randbytes(len(whole)),
        unpack(blob, what="input")[0],
    ]
    words = rng.sample(runner._spec.keys.words, 8)
    hostile += [flipped(whole, i * 8 + i % 8, i % 8) for i, _ in words]
    for keys in hostile:
        with pytest.raises(FormatError, match="make keys for tree 1") as caught:
            job(blob, keys)
        assert caught.value.code == "fhe-keys-mismatch"
    assert worker.alive


@pytest.fixture
def foreign(linear, linear_keys):
    return unpack(linear_keys.encrypt(linear.held[:1]), what="input")[0]


def test_malformed_ciphertexts_are_refused_and_the_worker_lives(
    job, worker, tree_keys, foreign, blob, runner, keys_file
):
    frame = unpack(blob, what="input")[0]
    keys = tree_keys.evaluation_keys()
    result = unpack(runner.run(blob, keys_file, silent).output, what="output")[0]
    rng = random.Random(3)
    hostile = [
        b"",
        foreign,
        frame[:-8],
        frame + bytes(8),
        bytes(len(frame)),
        rng.randbytes(len(frame)),
        result,
        keys[:4096],
    ]
    hostile += [
        flipped(frame, i * 8, i % 8)
        for i, _ in runner._spec.batches[0].ciphertext.words
    ]
    for ciphertext in hostile:
        with pytest.raises(FormatError, match="encrypt for tree 1") as caught:
            job(pack([frame, ciphertext]), keys)
        assert caught.value.code == "fhe-ciphertext-mismatch"
    assert worker.alive


def test_blobs_that_are_not_packed_lists_are_refused(job, tree_keys, blob):
    keys = tree_keys.evaluation_keys()
    many = pack(unpack(blob, what="input") * 257)
    for raw in (b"", b"PCF1", blob[:-1], blob + b"\0", many):
        with pytest.raises(FormatError):
            job(raw, keys)


def test_another_clients_keys_give_garbage_never_an_answer_or_a_crash(
    job, worker, tree, tree_keys, blob
):
    other = FheClient(tree.client_json).generate_keys()
    output = job(blob, other.evaluation_keys())
    assert worker.alive
    found = tree_keys.decrypt(output, 1)
    assert np.abs(found - tree.clear[:1]).max() > 0.05


def test_random_words_in_free_places_do_not_crash_the_worker(
    job, worker, tree, tree_keys, blob, runner
):
    """What the templates let through is garbage to the engine, not poison."""
    keys = _scrambled(tree_keys.evaluation_keys(), runner._spec.keys, seed=4)
    frame = unpack(blob, what="input")[0]
    scrambled = _scrambled(frame, runner._spec.batches[0].ciphertext, seed=5)
    for raw, with_keys in (
        (pack([scrambled]), tree_keys.evaluation_keys()),
        (blob, keys),
    ):
        output = job(raw, with_keys)
        assert tree_keys.decrypt(output, 1).shape == (1, 2)
    assert worker.alive


def _scrambled(raw, template, *, seed):
    words = np.random.default_rng(seed).integers(
        0, 2**64, size=len(raw) // 8, dtype=np.uint64
    )
    index = [i for i, _ in template.words]
    words[index] = [v for _, v in template.words]
    return words.tobytes()


@pytest.mark.slow
def test_no_single_bit_flip_in_keys_kills_the_worker(job, tree_keys, blob, runner):
    whole = tree_keys.evaluation_keys()
    rng = random.Random(6)
    outcomes = {"refused": 0, "ran": 0, "died": 0}
    for _ in range(40):
        try:
            job(blob, flipped(whole, rng.randrange(len(whole)), rng.randrange(8)))
            outcomes["ran"] += 1
        except ChildDied:
            outcomes["died"] += 1
            break
        except PrivacyError:
            outcomes["refused"] += 1
    assert outcomes["died"] == 0, outcomes
    assert outcomes["ran"] > 0, outcomes
