"""Estimates: a line through what runs took, and the publisher's figures before that."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimates import from_publisher, from_runs, line_through, quantile
from gateway.executors.base import Done, Watch, Work
from gateway.jobs.meter import RunMeter
from gateway.store.database import Database
from gateway.store.measures import MOST, Measure, Measures
from privacy.bundle import ModePart
from privacy.encoding import sha256_hex
from privacy.modes import Mode
from tests.support.hand_made_bundle import write_bundle


def run(rows=1, run_s=1.0, **more):
    given = {
        "model_sha256": "m",
        "mode": "fhe",
        "node": "local",
        "rows": rows,
        "queue_s": 0.0,
        "load_s": 0.0,
        "run_s": run_s,
        "bytes_up": 100 * rows,
        "bytes_down": 10 + 5 * rows,
        "memory_bytes": 0,
    }
    return Measure(**{**given, **more})


def test_runs_of_different_sizes_give_a_fixed_part_and_one_for_each_row():
    runs = [run(rows, 0.5 + 0.1 * rows) for rows in (1, 2, 10, 20)] * 10
    found = from_runs(runs, 100, waiting_s=0.0)
    assert found.latency_s == pytest.approx(10.5)
    assert 10.5 <= found.slow_latency_s < 11.1
    assert (found.bytes_up, found.bytes_down) == (10_000, 510)
    assert (found.basis, found.runs) == ("measured", 40)


def test_runs_of_one_size_bound_what_other_sizes_take():
    runs = [run(10, 2.0)] * 50
    assert from_runs(runs, 10, waiting_s=0.0).latency_s == pytest.approx(2.0)
    assert from_runs(runs, 1, waiting_s=0.0).latency_s == pytest.approx(2.0)
    assert from_runs(runs, 30, waiting_s=0.0).latency_s == pytest.approx(6.0)


def test_one_run_says_little_about_slow_ones_and_many_say_more():
    few, many = ([run(run_s=1.0)] * n for n in (1, 100))
    assert from_runs(few, 1, waiting_s=0.0).slow_latency_s == pytest.approx(3.0)
    assert from_runs(many, 1, waiting_s=0.0).slow_latency_s == pytest.approx(1.02)


def test_loading_and_the_queue_are_part_of_the_latency_and_shown_apart():
    warm, cold = run(run_s=1.0, queue_s=0.5), run(run_s=1.0, load_s=8.0, queue_s=0.5)
    found = from_runs([warm] * 9 + [cold], 1, waiting_s=0.0)
    assert found.load_s == 8.0
    assert found.queue_s == 0.5
    assert 1.4 < found.latency_s < 2.0
    assert found.slow_latency_s > 5.0
    assert from_runs([warm] * 9, 1, waiting_s=4.0).latency_s == pytest.approx(5.0)


@given(
    st.lists(
        st.tuples(st.integers(1, 256), st.floats(0, 1e6, allow_subnormal=False)),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 256),
)
def test_any_history_gives_estimates_that_are_not_negative(points, rows):
    assert line_through(points).at(rows) >= 0
    found = from_runs([run(r, s) for r, s in points], rows, waiting_s=0.0)
    assert 0 <= found.latency_s <= found.slow_latency_s


def test_a_quantile_lies_between_its_neighbours():
    assert quantile([4.0, 1.0, 3.0, 2.0, 5.0], 0.5) == 3.0
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert quantile([7.0], 0.95) == 7.0


def test_the_publishers_figures_stand_in_and_batches_count():
    cost = {"latency_s": 1.0, "input_bytes": 1000, "output_bytes": 50}
    part = ModePart(available=True, cost=cost)
    found = from_publisher(part, columns=3, rows=8, waiting_s=0.0)
    assert (found.basis, found.runs) == ("publisher", 0)
    assert found.latency_s == pytest.approx(8.02)
    assert found.slow_latency_s == pytest.approx(3 * 8.02)
    assert (found.bytes_up, found.bytes_down) == (9500, 1900)
    batched = ModePart(available=True, cost={**cost, "batches": {"4": 1.5}})
    found = from_publisher(batched, columns=3, rows=8, waiting_s=2.0)
    assert found.latency_s == pytest.approx(5.02)


@pytest.mark.parametrize(
    "cost", [{}, {"latency_s": "fast"}, {"latency_s": -1}, {"latency_s": True}]
)
def test_without_a_figure_there_is_no_estimate(cost):
    part = ModePart(available=True, cost=cost)
    found = from_publisher(part, columns=3, rows=8, waiting_s=0.0)
    assert (found.basis, found.latency_s, found.bytes_up) == ("none", None, None)


def test_the_newest_runs_of_each_node_stay(tmp_path):
    measures = Measures(Database(tmp_path / "gateway.sqlite"))
    for i in range(MOST + 20):
        measures.note(run(run_s=float(i)))
    measures.note(run(node="far"))
    assert measures.write() == MOST + 21
    assert measures.write() == 0
    kept = measures.of("m", "fhe")
    assert [m.node for m in kept] == ["far"] + ["local"] * MOST
    assert [m.run_s for m in kept[1:]] == [float(i) for i in range(MOST + 19, 19, -1)]
    assert measures.of("m", "zkml") == []


def test_a_meter_hears_loading_and_rows_and_forgets_an_attempt_that_was_lost(tmp_path):
    now = [0.0]
    meter = RunMeter(clock=lambda: now[0])
    told = []
    watch = meter.around(Watch(lambda: told.append("started"), told.append))

    def pass_s(seconds, event=None):
        now[0] += seconds
        watch.progress(event) if event else watch.started()

    pass_s(1.0)
    pass_s(1.0, {"stage": "load"})
    pass_s(1.0)  # another attempt, on a warm worker
    pass_s(0.0, {"stage": "load"})
    pass_s(2.0, {"stage": "loaded"})
    pass_s(4.0, {"stage": "run", "done": 7, "total": 7})
    for name in ("input", "output"):
        (tmp_path / name).write_bytes(b"12345")
    bundle = write_bundle(tmp_path / "models")
    work = Work(
        job_id="j",
        mode=Mode.FHE,
        bundle=bundle,
        input=tmp_path / "input",
        keys=None,
        folder=tmp_path,
        input_sha256="",
        keys_sha256="",
    )
    done = Done(tmp_path / "output", None, "", node="n", memory_bytes=9)
    found = meter.measure(done, work)
    assert (found.queue_s, found.load_s, found.run_s) == (3.0, 2.0, 4.0)
    assert (found.rows, found.bytes_up, found.bytes_down) == (7, 5, 5)
    assert (found.node, found.memory_bytes) == ("n", 9)
    assert told.count("started") == 2


def test_estimates_over_http_begin_with_the_publishers_and_follow_runs(gateway, api):
    body = {"model": "demo", "rows": 2}
    found = api.post("/v1/estimates", json=body).raise_for_status().json()
    assert [m["mode"] for m in found["modes"]] == ["fhe", "zkml", "tee", "tee+zkml"]
    fhe, _, tee, both = found["modes"]
    assert (fhe["basis"], fhe["latency_s"]) == ("none", None)
    assert tee["simulated"] is True
    assert both["reason"] == "it was not published"
    order = {"do": "progress", "total": 2, "seconds": 0.05}
    for _ in range(3):
        api.order(order, wait=20).raise_for_status()
    chosen = {**body, "modes": ["zkml"]}
    (zkml,) = api.post("/v1/estimates", json=chosen).json()["modes"]
    assert (zkml["basis"], zkml["runs"]) == ("measured", 3)
    assert 0.1 <= zkml["latency_s"] <= zkml["slow_latency_s"]
    assert [n["node"] for n in zkml["nodes"]] == [gateway.settings.node_name]
    sent = len(json.dumps(order).encode())
    assert zkml["bytes_up"] == sent


def test_an_estimate_knows_whether_this_tenant_has_uploaded_the_keys(
    gateway, api, stranger
):
    keyset, raw = "a" * 64, b"evaluation keys of a set"
    params = {"keyset_sha256": keyset}
    write_bundle(gateway.settings.models_dir, name="keyed", fhe_params=params)
    body = {"model": "keyed", "rows": 1, "modes": ["fhe"]}

    def uploaded(client):
        (fhe,) = client.post("/v1/estimates", json=body).json()["modes"]
        return fhe["keys_uploaded"]

    assert not uploaded(api)
    path = f"/v1/keys/{sha256_hex(raw)}?keyset={keyset}"
    api.put(path, content=raw).raise_for_status()
    assert uploaded(api)
    assert not uploaded(stranger)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"rows": 0}, 422),
        ({"rows": 257}, 422),
        ({"rows": "2"}, 422),
        ({"modes": ["ocr"]}, 404),
        ({"model": "nope"}, 404),
        ({"other": 1}, 422),
    ],
)
def test_estimates_of_nonsense_are_refused(api, change, status):
    answer = api.post("/v1/estimates", json={"model": "demo", "rows": 1, **change})
    assert answer.status_code == status
    assert answer.json()["code"]
