"""The tuner: what it expects, what it finds, and what it refuses, with the engine."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import zkml, zkml_search
from privacy.child import run_in_child
from privacy.errors import FormatError, LimitError
from privacy.zkml import choose
from privacy.zkml.candidates import GRADES, Grade
from privacy.zkml.choose import Checked, Circuit, judged
from privacy.zkml.srs import cache_folder
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFacts,
    CircuitFiles,
    CircuitSize,
    Visibility,
)
from privacy.zkml.tune import OBJECTIVES, TuneOptions, estimate, parse_options, search
from privacy.zkml.tune.cost import blocks, fits
from privacy.zkml.tune.layout import Candidate
from privacy.zkml.tune.machine import remember_speed, speed
from privacy.zkml.tune.options import parse_choices

# Measured with EZKL 23.0.5: base, inner columns, logrows, cells, hash rows; then
# columns of advice, fixed, selectors, and bytes of proving key and proof.
MEASURED = [
    (1016, 1, 10, 503, 0, 3, 3, 11, 2951715, 1952),
    (1024, 1, 11, 503, 0, 3, 3, 11, 5902243, 1952),
    (1024, 1, 11, 503, 1232, 6, 7, 14, 16651795, 2912),
    (512, 2, 11, 539, 1232, 9, 7, 19, 20585763, 3840),
    (512, 2, 11, 7235, 0, 12, 3, 32, 14167003, 5344),
    (512, 1, 12, 7106, 0, 6, 3, 22, 18101091, 3136),
    (512, 2, 11, 7235, 1232, 15, 7, 35, 29110683, 6080),
    (512, 1, 12, 7106, 1232, 9, 7, 25, 42482811, 3904),
    (512, 1, 12, 10143, 0, 9, 3, 33, 24398883, 4320),
    (512, 1, 11, 20307, 0, 30, 3, 110, 34245475, 12608),
    (128, 2, 10, 8003, 0, 24, 3, 64, 12793299, 9920),
    (1024, 3, 11, 7308, 0, 18, 3, 42, 19282515, 7552),
]


def choice(base: int = 512, inner: int = 1, logrows: int = 11) -> CircuitChoice:
    return CircuitChoice(9, base, 3, inner, 1, logrows)


@pytest.mark.parametrize("point", MEASURED)
def test_columns_and_sizes_are_as_the_engine_makes_them(point: Any) -> None:
    base, inner, logrows, cells, hashed, advice, fixed, selectors, key, proof = point
    size = CircuitSize(assignments=cells, hash_rows=hashed, lookups=False)
    cost = estimate(size, choice(base, inner, logrows))
    assert (cost.advice, cost.fixed, cost.selectors) == (advice, fixed, selectors)
    assert cost.proving_key_bytes == pytest.approx(key, rel=0.25)
    assert cost.proof_bytes == pytest.approx(proof, rel=0.2)


def test_what_does_not_fit_into_the_rows_is_not_laid_out() -> None:
    hashed = CircuitSize(assignments=500, hash_rows=1232, lookups=False)
    assert not fits(hashed, choice(logrows=10))
    assert fits(hashed, choice(logrows=11))
    assert not fits(hashed, choice(base=4096, logrows=11))
    assert fits(hashed, choice(base=2040, logrows=11))
    assert not fits(hashed, choice(base=2041, logrows=11)), "it would be split"
    assert blocks(CircuitSize(2042, 0, lookups=False), choice()) == 2
    assert blocks(CircuitSize(2041, 0, lookups=False), choice()) == 1


def test_more_rows_cost_more_time_key_and_memory() -> None:
    size = CircuitSize(assignments=500, hash_rows=0, lookups=False)
    small, large = (estimate(size, choice(logrows=n)) for n in (11, 15))
    assert large.prove_s > small.prove_s
    assert large.proving_key_bytes > 10 * small.proving_key_bytes
    assert large.memory_bytes > small.memory_bytes


def test_the_machines_speed_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert speed() == 1.0
    for took_s in (2.0, 3.0, 100.0):
        remember_speed(expected_s=1.0, took_s=took_s)
    assert speed() == 3.0
    (kept,) = cache_folder().glob("prove-speed-*.json")
    kept.write_text("[1, 2")
    assert speed() == 1.0


@pytest.mark.parametrize(
    "settings",
    [7, [7], [{}], [{"scale_bits": 9}], [{"logrows": 40}], "all"],
)
def test_settings_that_are_no_choices_are_refused(settings: Any) -> None:
    with pytest.raises(FormatError) as caught:
        parse_choices(settings)
    assert caught.value.code == "bad-option"


def tuned(request: dict[str, Any], **options: Any) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    found = run_in_child(
        "privacy.zkml.tune.child:handler",
        {**request, "options": options},
        timeout_s=250,
        progress=stages.append,
    )
    assert {"find scales", "prove"} <= {s["stage"] for s in stages} or found[
        "from_cache"
    ]
    return found


@pytest.fixture(scope="module")
def by_time(linear: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("none-yet")))
        return tuned(linear.request(tmp_path_factory.mktemp("out")))


def test_few_proofs_decide_among_many_layouts(by_time: dict[str, Any]) -> None:
    assert by_time["considered"] > 20
    assert 2 <= by_time["proofs"] <= 3, "layouts of one group answer alike"
    assert not by_time["from_cache"]
    assert by_time["chosen"] in [t["choice"] for t in by_time["tried"]]
    fastest = min(by_time["tried"], key=lambda t: t["cpu_s"])
    assert by_time["chosen"] == fastest["choice"]


def test_the_answers_are_kept(by_time: dict[str, Any]) -> None:
    assert by_time["accuracy"]["label_agreement"] == 1.0
    assert by_time["accuracy"]["max_error"] <= 0.005


def test_what_was_expected_is_what_was_made(by_time: dict[str, Any]) -> None:
    for tried in by_time["tried"]:
        expected = tried["expected"]
        assert tried["proving_key_bytes"] == pytest.approx(
            expected["proving_key_bytes"], rel=0.25
        )
        assert tried["proof_bytes"] == pytest.approx(expected["proof_bytes"], rel=0.25)


@pytest.fixture(scope="module")
def small_key(linear: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a search found, which is remembered."""
    return tuned(linear.request(tmp_path_factory.mktemp("out")), objective="key")


def test_what_was_found_is_found_at_once_again(
    linear: Any, small_key: dict[str, Any], tmp_path: Path
) -> None:
    again = tuned(linear.request(tmp_path), objective="key")
    assert again["from_cache"]
    assert again["proofs"] == 1
    assert again["chosen"] == small_key["chosen"]
    smallest = min(small_key["tried"], key=lambda t: t["proving_key_bytes"])
    assert small_key["chosen"] == smallest["choice"]


@pytest.mark.usefixtures("small_key")
def test_a_circuit_too_large_is_refused_with_the_estimate(
    linear: Any, tmp_path: Path
) -> None:
    """Also where it was found before, when there was more memory."""
    options = {"objective": "key", "memory_bytes": 1 << 20}
    with pytest.raises(LimitError) as caught:
        tuned(linear.request(tmp_path), **options)
    assert caught.value.code == "circuit-too-large"
    assert "MiB" in caught.value.message


def test_what_was_found_and_holds_no_more_is_searched_again(
    linear: Any, small_key: dict[str, Any], tmp_path: Path
) -> None:
    for kept in (cache_folder() / "tuned").glob("*.json"):
        kept.write_text(json.dumps({**small_key["chosen"], "decomp_legs": 1}))
    assert not tuned(linear.request(tmp_path), objective="key")["from_cache"]


LEAST_GAS, MORE_GAS = 400_000, 500_000


def _laid_out(*, gas: int, memory_bytes: int = 1 << 28) -> Candidate:
    size = CircuitSize(assignments=500, hash_rows=0, lookups=False)
    cost = estimate(size, choice())
    return Candidate(choice(), replace(cost, verify_gas=gas, memory_bytes=memory_bytes))


def _asking(**options: Any) -> Any:
    return SimpleNamespace(options=TuneOptions(**options), short_of_memory=False)


def test_layouts_beyond_the_most_gas_are_left_out() -> None:
    cheap, dear = _laid_out(gas=LEAST_GAS), _laid_out(gas=MORE_GAS)
    for gas, left in (
        (None, [cheap, dear]),
        (MORE_GAS, [cheap, dear]),
        (MORE_GAS - 1, [cheap]),
    ):
        asked = _asking(memory_bytes=1 << 30, max_gas=gas)
        assert search._affordable(asked, [cheap, dear]) == left
        assert not asked.short_of_memory
    asked = _asking(memory_bytes=1 << 30, max_gas=LEAST_GAS - 1)
    with pytest.raises(LimitError, match="about 400,000 gas, 399,999") as caught:
        search._affordable(asked, [cheap, dear])
    assert caught.value.code == "too-much-gas"


def test_what_too_little_memory_decided_is_not_remembered() -> None:
    small, large = (_laid_out(gas=1, memory_bytes=n) for n in (1 << 20, 1 << 30))
    asked = _asking(memory_bytes=1 << 25)
    assert search._affordable(asked, [small, large]) == [small]
    assert asked.short_of_memory


@pytest.mark.parametrize("gas", [0, -1, 1.5, "500000", True])
def test_a_limit_of_gas_that_is_none_is_refused(gas: Any) -> None:
    with pytest.raises(FormatError) as caught:
        parse_options({"max_gas": gas}, Visibility())
    assert caught.value.code == "bad-option"


def test_a_layout_that_answers_otherwise_than_its_group_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of a group is checked, the others must say the same."""
    layouts = [_laid_out(gas=n) for n in range(3)]
    facts = CircuitFacts(11, 0, input_scale_bits=9, output_scale_bits=9)
    circuit = Circuit(choice(), facts, CircuitFiles(Path()), salted=False)
    said = iter([np.array([[1.0]]), np.array([[2.0]])])
    checked = Checked({"rows": 1}, np.array([[1.0]]))
    monkeypatch.setattr(search, "compile_circuit", lambda *_: circuit)
    monkeypatch.setattr(search, "check", lambda *_: checked)
    monkeypatch.setattr(search, "answers", lambda *_: next(said))
    monkeypatch.setattr(search, "_prove", lambda _search, passed, _cost: passed)
    refused: list[str] = []
    asked: Any = SimpleNamespace(
        backend=None,
        model=SimpleNamespace(corners=None),
        options=TuneOptions(memory_bytes=1 << 30),
        considered=3,
        fresh=lambda: None,
        progress=lambda _: None,
        refuse=lambda _choice, reason: refused.append(reason),
    )
    assert len(search._prove_passing(asked, layouts, GRADES[0])) == 2
    assert len(refused) == 1
    assert "another layout answers otherwise" in refused[0]


def test_objectives_are_named() -> None:
    assert OBJECTIVES == ("time", "key", "gas")


@pytest.mark.slow
def test_gas_is_wanted_where_gas_is_the_objective(linear: Any, tmp_path: Path) -> None:
    found = tuned(linear.request(tmp_path), objective="gas")
    cheapest = min(found["tried"], key=lambda t: t["verify_gas"])
    assert found["chosen"] == cheapest["choice"]
    assert cheapest["expected"]["advice"] == 6  # hashed: no fewer can be had
    for one in found["tried"]:
        expected = one["expected"]["verify_gas"]
        assert one["verify_gas"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("bad", "ran"), [(0, 5), (12, 15), (29, 30)])
def test_a_row_that_cannot_be_made_good_ends_the_check(
    monkeypatch: pytest.MonkeyPatch, bad: int, ran: int
) -> None:
    clear = np.linspace(-2.0, 2.0, 30)[:, None]
    asked: list[float] = []

    def answers(_backend: Any, _circuit: Any, rows: Any) -> Any:
        asked.extend(rows[:, 0])
        return np.where(rows == clear[bad], 9.0, rows)

    monkeypatch.setattr(choose, "answers", answers)
    model: Any = SimpleNamespace(activation="sigmoid", task="classification")
    nothing: Any = None
    with pytest.raises(FormatError, match="keep their label") as caught:
        judged(nothing, nothing, model, clear, clear, GRADES[0])
    assert caught.value.code == "inaccurate"
    assert len(asked) == ran
    asked.clear()
    made = judged(nothing, nothing, model, clear, clear, Grade(part=1.0, share=0.9))
    assert (made != clear).sum() == 1
    assert len(asked) == len(clear)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tuned_circuits_beat_the_engines_defaults_with_the_same_answers() -> None:
    for found in zkml.measure(quick=True)["models"].values():
        tuned_side = found["tuned"]
        assert tuned_side["rows"] == 100
        assert tuned_side["label_agreement"] == 1.0
        assert tuned_side["max_error"] <= 0.005
        assert tuned_side["proofs"] <= 3
        assert found["cpu_ratio"] >= 5
        assert found["key_ratio"] >= 8
        assert found["memory_ratio"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", zkml_search.NAMES)
def test_three_proofs_find_what_all_proofs_would(name: str) -> None:
    found = zkml_search.compare(name)
    assert found["layouts"] >= 20
    assert found["ratio"] <= 1.3


@pytest.mark.slow
def test_a_network_is_tuned_to_hold_its_whole_range(tmp_path: Path) -> None:
    """Values grow from layer to layer; the corners must fit, twice over."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(30, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 2),
    )
    torch.onnx.export(
        net,
        (torch.zeros(1, 30),),
        str(tmp_path / "model.onnx"),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}},
    )
    rows = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    np.save(tmp_path / "calibration.npy", rows[:100])
    np.save(tmp_path / "held.npy", rows[100:])
    with torch.no_grad():
        clear = net(torch.tensor(rows[100:])).numpy().astype(np.float64)
    np.save(tmp_path / "clear.npy", clear)
    paths = {n: str(tmp_path / f"{n}.npy") for n in ("calibration", "held", "clear")}
    found = tuned(
        {
            "out": str(tmp_path),
            "onnx": str(tmp_path / "model.onnx"),
            "estimator": None,
            "outputs": 2,
            "activation": "softmax",
            "task": "classification",
            **paths,
        }
    )
    assert found["proofs"] <= 3
    assert found["accuracy"]["max_error"] <= 0.005
    assert found["chosen"]["scale_rebase_multiplier"] == 10
