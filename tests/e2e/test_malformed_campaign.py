"""A campaign of malformed inputs and bundles against a live gateway.

Every input is refused with a stable code, or computed and bound by the receipt to its
own digest; the gateway never dies, and honest jobs in between are answered rightly.
"""

import pytest

from benchmarks.fhe_bad_bundles import bundles
from benchmarks.fhe_malformed import campaign, first_answer, published_alone
from benchmarks.malformed_bare import bare
from benchmarks.malformed_inputs import Honest
from privacy.encoding import pack
from privacy.fhe.runner import Runner
from privacy.files import default_home
from privacy.publisher import publisher_key


@pytest.fixture(scope="module")
def api(gateway):
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def honest(api, diagnosis, published):
    """A linear model, which needs no evaluation keys, and one that does."""
    models = (diagnosis, published("credit"))
    return [
        Honest.of(m.bundle.root, lambda one: first_answer(api, one)) for m in models
    ]


def run(gateway, api, honest, count, *, seed):
    pid = gateway.pid
    foreign = honest[1].evaluation_keys[:-8]
    tally = campaign(api, honest, count, seed=seed, foreign_keys=foreign)
    assert tally.inputs == count
    assert tally.wrong == []
    assert tally.untyped == []
    assert gateway.pid == pid
    assert gateway.process.poll() is None
    assert api.get("/readyz").is_success
    return tally


def test_a_sample_of_malformed_inputs_is_refused_or_bound(gateway, api, honest):
    tally = run(gateway, api, honest, 120, seed=11)
    assert tally.honest_jobs == 4
    assert {outcome for _, outcome in tally.outcomes} >= {
        "refused over HTTP",
        "refused by the job",
        "computed, bound to its own digest",
    }


def test_no_malformed_bundle_is_served(api, honest, models_dir):
    key = publisher_key(default_home())
    tally = bundles(api, honest[0], models_dir, key, 19, seed=11)
    assert tally.inputs == 19
    assert tally.wrong == tally.untyped == []
    assert tally.worker_deaths == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_thousand_malformed_inputs_kill_nothing(gateway, api, honest):
    tally = run(gateway, api, honest, 5000, seed=12)
    assert tally.inputs >= 5000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_concrete_mls_own_server_is_the_yardstick(tmp_path):
    def answered(one):
        (tmp_path / "sent").write_bytes(one.evaluation_keys)
        keys = tmp_path / "sent" if one.evaluation_keys else None
        blob = pack([one.ciphertext])
        return Runner(one.bundle).run(blob, keys, lambda _: None).output

    roots = [published_alone(tmp_path / "store", n) for n in ("linear", "foreign")]
    theirs = [Honest.of(root, answered) for root in roots]
    (tmp_path / "scratch").mkdir()
    found = bare(theirs, 40, tmp_path / "scratch", seed=13)  # honest inputs compute
    assert sum(found["outcomes"].values()) == found["inputs"] == 40
    assert any(outcome.startswith("keys ") for outcome in found["outcomes"])
    assert any(outcome.endswith(" died") for outcome in found["outcomes"])
