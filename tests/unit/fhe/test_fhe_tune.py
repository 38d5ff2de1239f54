"""The tuner: what it tries, what it takes, what it says of it."""

from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from privacy.encoding import canonical_json
from privacy.errors import BackendError
from privacy.fhe import publish
from privacy.fhe.caveats import p_error_caveats
from privacy.fhe.compiled import Compiled
from privacy.fhe.options import FAST_P_ERROR, Options, parse_options
from privacy.fhe.publish import _near
from privacy.fhe.quantizers import Quantizer, SumSteps
from privacy.fhe.source import Source
from privacy.fhe.tree_choice import SUM_BITS
from privacy.fhe.tune import search, with_chosen
from privacy.fhe.tune.candidates import Candidate, Subject
from privacy.fhe.tune.memory import Memory
from privacy.fhe.yardstick import Yardstick
from privacy.publish.trees import tree_module
from privacy.publishing import PartResult
from privacy.trees import ensemble_of
from tests.support.dense_nets import trained_net

ROWS = np.linspace(-1, 1, 80)[:, None]
YARDSTICK = Yardstick(ROWS, 4 * ROWS, None, "none", "regression")


def compiled(complexity, **changes):
    made = Compiled(
        circuit="fhe-native",
        family="network",
        n_bits={},
        folder=Path(),
        program="",
        engine_program="",
        functions=(("run", 1),),
        source=Source(mlir="", options={}),
        features=1,
        quantizers=(Quantizer(0.5, 2, 0, 4),),
        output=SumSteps((1.0,), (0.0,), complement=False),
        theirs_quantize=lambda rows: rows,
        theirs_integers=lambda values: values,
        theirs_outputs=lambda integers: integers,
        exact=True,
        uncompressed_keys_bytes=0,
        complexity=complexity,
    )
    return replace(made, **changes)


def candidate(rank, error, name=""):
    return Candidate(
        name=name or f"{rank}",
        fit=lambda _: lambda rows: 4 * rows + error,
        compile=lambda: compiled(rank),
        rank=rank,
    )


def silent(_):
    pass


def test_what_a_cheaper_candidate_equals_is_not_compiled():
    found = [candidate(3, 0.1), candidate(1, 0.5), candidate(2, 0.7), candidate(4, 0.1)]
    kept = search._previewed(found, YARDSTICK, [], silent)
    assert [c.name for c, _ in kept] == ["1", "3"]
    assert len(kept[0][1]) == 4


def test_the_front_holds_what_nothing_cheaper_is_as_good_as():
    points = [
        search.Point(str(i), compiled(cost), (loss,))
        for i, (cost, loss) in enumerate([(5, 1.0), (1, 3.0), (2, 3.5), (9, 0.0)])
    ]
    assert [p.name for p in search._front(points)] == ["1", "0", "3"]


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"tune": "speed"}, 2.0),
        ({"tune": "balanced"}, 1.0),
        ({"tune": "accuracy"}, 0.0),
        ({"tune": "speed", "max_loss": 0.25}, 0.25),
    ],
)
def test_each_goal_has_its_loss_unless_another_is_given(given, allowed):
    assert search.allowed_loss(parse_options(given)) == allowed


def test_a_candidate_that_does_not_compile_or_has_huge_keys_is_named():
    def fails():
        raise BackendError("no parameters exist")

    big = compiled(1, uncompressed_keys_bytes=1 << 40)
    named = [
        (replace(candidate(1, 0.0), name="broken", compile=fails), (0.0,)),
        (replace(candidate(2, 0.0), name="large", compile=lambda: big), (0.0,)),
        (candidate(3, 0.0, "sound"), (0.0,)),
    ]
    refused: list[str] = []

    class Subject:
        options = Options()

    points = search._compiled(named, Subject, YARDSTICK, refused, silent)
    assert [p.name for p in points] == ["sound"]
    assert refused[0] == "broken: no parameters exist"
    assert refused[1].startswith("large: its evaluation keys take about")


def test_a_candidate_whose_engine_fails_is_named_and_the_next_one_runs(monkeypatch):
    def fails(_):
        raise ValueError("no such layer")

    refused: list[str] = []
    found = [replace(candidate(1, 0.0), fit=fails), candidate(2, 0.0)]
    kept = search._previewed(found, YARDSTICK, refused, silent)
    assert [c.name for c, _ in kept] == ["2"]
    assert "no such layer" in refused[0]

    def run(point, _):
        if point.name in {"0", "1"}:
            raise MemoryError("no room")
        return point

    monkeypatch.setattr(search, "_run", run)
    front = [search.Point(str(i), compiled(i), (0.5,)) for i in range(6)]
    subject = Subject(None, None, ROWS, Options(tune="speed"))
    ran = search._confirmed(front, subject, 1.0, refused, silent)
    assert [p.name for p in ran] == ["2", "3", "4"]
    assert refused[1:] == [
        f"{i}: it cannot be compiled and run encrypted (MemoryError: no room)"
        for i in (0, 1)
    ]


def test_a_report_follows_the_candidate_that_was_published():
    front = [{"name": "a", "loss": 0.5}, {"name": "b", "loss": 2.5}]
    report = {"front": front, "chosen": "a", "max_loss": 1.0, "loss": 0.5}
    told = with_chosen(report, "b")
    assert (told["chosen"], told["loss"], told["within"]) == ("b", 2.5, False)


def test_only_where_look_ups_err_by_choice_may_a_row_differ():
    made = compiled(1)
    values = np.arange(10)[:, None]
    differs = values + (values == 3)
    assert _near(made, values, values, values, 2.0**-40)
    assert not _near(made, values, values, differs, 2.0**-40)
    assert _near(made, values, values, differs, FAST_P_ERROR)
    assert not _near(made, values, values, values + 1, FAST_P_ERROR)


def test_answers_that_loose_bounds_hold_must_still_be_close():
    far = np.full((3, 1), 1000)
    made = compiled(1, exact=False, between=lambda _: (-far, far))
    values = np.arange(60)[:, None]
    few = values[:3]
    assert _near(made, values, values, few + 5, 2.0**-40)
    assert not _near(made, values, values, few + 40, 2.0**-40)
    assert not _near(made, values, values, few + 1001, 2.0**-40)


def test_where_nobody_says_how_far_rounding_misses_answers_must_still_be_close():
    made = compiled(1, exact=False)
    values = np.arange(60)[:, None]
    few = values[:3]
    assert _near(made, values, values, few + 5, 2.0**-40)
    for wrong in (few + 40, np.array([[51], [7], [33]]), np.full((3, 1), 1 << 12)):
        assert not _near(made, values, values, wrong, 2.0**-40)


def test_what_the_tuner_remembers_but_fails_now_is_searched_again(
    tmp_path, monkeypatch, tuned
):
    request = replace(tuned[0].request, cache=tmp_path)
    rows = np.load(request.calibration)
    subject = Subject(request, None, rows, Options(tune="speed"))
    memory = Memory(request, subject.options)
    found = PartResult(available=True, params={})
    monkeypatch.setattr(publish, "_searched", lambda *_: found)
    for remembered in ({"chosen": "no such candidate"}, {"chosen": 7}, {}):
        memory.keep(remembered)
        assert publish._tuned(subject, silent) is found


def test_a_larger_chance_of_error_is_a_caveat_and_the_default_is_none():
    assert p_error_caveats({"p_error": 2.0**-40}) == ()
    assert p_error_caveats({"p_error": "much"}) == p_error_caveats({}) == ()
    (words,) = p_error_caveats({"p_error": FAST_P_ERROR})
    assert "6e-05 instead of 9e-13" in words
    assert "IND-CPA-D" in words


# On the real engine


@pytest.fixture(scope="module")
def tuned(data, publisher, publish_onnx, tmp_path_factory):
    """A network of 30-4-2, tuned with labels and a large p_error, and its cache."""
    onnx, clear = trained_net(data, 4)
    cache = tmp_path_factory.mktemp("tuned")
    np.save(cache / "truth.npy", data[2].astype(np.int64))
    options = {"engine_rows": 2, "tune": "speed", "p_error": FAST_P_ERROR}
    extra = {"truth": cache / "truth.npy", "cache": cache}
    published = publish_onnx("tuned", onnx, clear, options=options, extra=extra)
    return published, cache


def test_a_network_is_tuned_to_the_fastest_within_the_loss(tuned):
    params = tuned[0].result.params
    report = params["tuned"]
    assert (report["goal"], report["measures"]) == ("speed", "accuracy")
    assert report["within"]
    assert report["loss"] <= report["max_loss"] == 2.0
    assert report["candidates"] == 27
    chosen = next(p for p in report["front"] if p["name"] == report["chosen"])
    ran = [p["latency_s"] for p in report["front"] if "latency_s" in p]
    assert chosen["latency_s"] == min(ran) > 0
    assert chosen["n_bits"] == params["n_bits"]
    assert params["p_error"] == FAST_P_ERROR
    canonical_json(params)


def test_a_second_publish_remembers_the_search(tuned, publisher, tmp_path):
    (tmp_path / "out").mkdir()
    request = replace(tuned[0].request, out=tmp_path / "out")
    stages = []
    answer = publisher.call(
        request.to_json(), timeout_s=250, progress=lambda p: stages.append(p["stage"])
    )
    assert answer["params"]["tuned"] == tuned[0].result.params["tuned"]
    assert "preview" not in stages


def test_only_the_very_same_question_is_remembered(tuned, tmp_path):
    request, options = tuned[0].request, Options(tune="speed")
    Memory(request, options).keep({"chosen": "a"})
    assert Memory(request, options).find() == {"chosen": "a"}
    assert Memory(request, Options(tune="accuracy")).find() is None
    assert Memory(replace(request, calibration=request.held), options).find() is None
    assert Memory(replace(request, activation="margin"), options).find() is None
    assert Memory(replace(request, cache=None), options).find() is None
    for path in tuned[1].glob("*.json"):
        path.write_bytes(b"torn")
    assert Memory(request, options).find() is None


def exported(module, tmp_path):
    """Return the ONNX file that publishing would have beside the estimator."""
    path = tmp_path / "core.onnx"
    axes = {"input": {0: "rows"}, "output": {0: "rows"}}
    names = {"input_names": ["input"], "output_names": ["output"]}
    zeros = torch.zeros(1, 30)
    torch.onnx.export(
        module, zeros, str(path), dynamic_axes=axes, opset_version=14, **names
    )
    return path


def tuned_by(publisher, request, tmp_path, module, **options):
    (tmp_path / "out").mkdir()
    onnx = exported(module, tmp_path)
    request = replace(request, out=tmp_path / "out", onnx=onnx, options=options)
    answer = publisher.call(request.to_json(), timeout_s=200)
    assert answer["available"], answer["reason"]
    return answer["params"]


def test_a_linear_model_is_tuned_over_concrete_mls_bits(linear, publisher, tmp_path):
    model = joblib.load(linear.request.estimator)
    layer = torch.nn.Linear(30, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(model.coef_))
        layer.bias.copy_(torch.tensor(model.intercept_))
    params = tuned_by(publisher, linear.request, tmp_path, layer, tune="accuracy")
    report = params["tuned"]
    assert report["measures"] == "label_agreement"
    assert report["candidates"] == 5
    assert report["loss"] == 0.0
    assert {p["circuit"] for p in report["front"]} == {"concrete-ml"}


@pytest.mark.filterwarnings("ignore:Using len to get tensor shape")
def test_trees_are_tuned_over_bins_and_sums(forest, publisher, tmp_path):
    ensemble = ensemble_of(joblib.load(forest.request.estimator))
    module = tree_module(ensemble)
    options = {"tune": "balanced", "splits": "revealed", "engine_rows": 2}
    params = tuned_by(publisher, forest.request, tmp_path, module, **options)
    report = params["tuned"]
    assert report["candidates"] == len(SUM_BITS)
    assert report["within"]
    assert report["chosen"].startswith("fhe-native, exact bins")
    assert params["circuit"] == "fhe-native"
