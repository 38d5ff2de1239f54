"""Sealed models by hand: publish, broker, serve, infer, log, check, revoke."""

import json
import os
import signal
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from privacy.bundle import open_bundle
from privacy.client import Client
from privacy.publish import Seal, is_current, publish
from tests.support.live_gateway import ProcessGateway, free_port

pytestmark = pytest.mark.slow
PASSPHRASE = "passphrase of the broker"


@pytest.fixture
def privacy(tmp_path):
    """Run a command as the publisher; return its JSON."""
    environment = {
        **os.environ,
        "PRIVACY_HOME": str(tmp_path / "publisher"),
        "PRIVACY_PASSPHRASE": PASSPHRASE,
    }

    def privacy(*arguments, code=0, **more):
        run = subprocess.run(
            [sys.executable, "-m", "privacy", *arguments, "--json"],
            env=environment | more,
            capture_output=True,
            check=False,
        )
        assert run.returncode == code, (run.stdout, run.stderr)
        return json.loads(run.stdout)

    privacy.environment = environment
    return privacy


@pytest.fixture
def model(tmp_path):
    """A fitted classifier and its calibration rows, as files, too."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(200, 4))
    fitted = LogisticRegression().fit(rows, rows @ [1.7, -0.3, 0.9, 2.3] > 0)
    joblib.dump(fitted, tmp_path / "model.joblib")
    np.save(tmp_path / "rows.npy", rows)
    return fitted, rows


@pytest.fixture
def broker(privacy, tmp_path):
    """A broker process of the publisher's."""
    port, started = free_port(), []

    def start():
        arguments = "broker", "serve", "--json", "--port", str(port)
        with (tmp_path / "broker.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "privacy", *arguments],
                env=privacy.environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        started.append(process)
        lines = b""
        while not lines.rstrip().endswith(b"}"):
            lines += process.stdout.readline()
        return json.loads(lines)

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        with process:  # waits, and closes its output
            process.send_signal(signal.SIGTERM)


def test_a_model_is_sealed_served_logged_and_revoked(privacy, model, broker, tmp_path):
    fitted, rows = model
    url, start = broker
    store = tmp_path / "node" / "models"
    publish = ["publish", str(tmp_path / "model.joblib")]
    publish += ["--data", str(tmp_path / "rows.npy"), "--name", "secret"]
    publish += ["--store", str(store), "--seal", url, "--allow-simulated"]
    said = privacy(*publish)
    assert said["sealed"] == {
        "broker": url,
        "weights_in": {},
        "allow_simulated": True,
    }
    assert [m for m, p in said["modes"].items() if p["available"]] == ["tee"]
    bundle = open_bundle(store / "secret" / "1")
    assert set(bundle.manifest.files) == {"tee/model.sealed"}
    assert is_current(bundle)
    (kept,) = privacy("broker", "list")["keys"]
    assert (kept["model"], kept["allow_simulated"]) == ("secret/1", True)
    assert start()["keys"] == 1
    with ProcessGateway(
        tmp_path / "node" / "data", store, home=tmp_path / "publisher"
    ) as gateway:
        key = gateway.new_key("models:read", "jobs:read", "jobs:write")
        with Client(
            gateway.base_url, api_key=key, home=tmp_path / "owner", allow_simulated=True
        ) as client:
            answer = client.infer("secret", rows[:3].tolist(), mode="tee")
        got = np.array([row.probabilities for row in answer.rows])
        assert np.abs(got - fitted.predict_proba(rows[:3])).max() < 1e-4
    weights = open_bundle(store / "secret" / "1").path("tee/model.sealed").read_bytes()
    assert b"ir_version" not in weights
    for path in (tmp_path / "node").rglob("*"):
        if path.is_file():  # operators' names and doc strings are in every ONNX file
            assert b"ai.onnx" not in path.read_bytes(), path

    (decision,) = privacy("broker", "log", "--ear", str(tmp_path / "ear"))["decisions"]
    assert decision["released"]
    public = tmp_path / "broker.jwk"
    privacy("attest", "verifier-key", "--export", str(public))
    check = ["attest", "check-result", str(tmp_path / "ear"), "--verifier", str(public)]
    checked = privacy(*check, "--allow-simulated", "--at", decision["at"])
    assert checked["claims"]["model_sha256"] == bundle.sha256
    later = privacy(*check, "--allow-simulated", "--at", "2040-01-01T00:00:00Z", code=6)
    assert later["error"]["code"] == "result-expired"

    assert privacy("broker", "revoke", "secret/1")["revoked_at"]
    assert privacy("broker", "list")["keys"][0]["revoked_at"]
    log = (tmp_path / "broker.log").read_text()
    assert PASSPHRASE not in log


def test_the_store_never_holds_the_model_in_the_clear(model, tmp_path):
    """It may be the node operator's, who could look while publishing goes on."""
    store, home = tmp_path / "store", tmp_path / "home"
    at_home, in_store = set(), set()

    def look(_progress=None):
        at_home.update(home.rglob("*.onnx"))
        files = [path for path in store.rglob("*") if path.is_file()]
        in_store.update(p for p in files if b"ai.onnx" in p.read_bytes())

    publish(
        *model,
        name="secret",
        store=store,
        home=home,
        seal=Seal("http://broker", lambda _bundle, _key: None),
        progress=look,
    )
    assert at_home  # it was somewhere
    at_home.clear()
    look()
    assert (at_home, in_store) == (set(), set())


def test_what_sealing_needs_is_asked_for_before_the_long_work(privacy, model, tmp_path):
    publish = ["publish", str(tmp_path / "model.joblib")]
    publish += ["--data", str(tmp_path / "rows.npy"), "--name", "secret"]
    publish += ["--store", str(tmp_path / "store")]
    cases = [
        (["--seal", "ftp://x", "--allow-simulated"], {}, 2, "bad-broker"),
        (["--seal", "http://x", "--allow-simulated", "--mode", "fhe"], {}, 2, "usage"),
        (["--allow-simulated"], {}, 2, "usage"),
        (["--seal", "http://x"], {}, 2, "bad-policy"),
        (
            ["--seal", "http://x", "--allow-simulated"],
            {"PRIVACY_PASSPHRASE": ""},
            3,
            "passphrase-missing",
        ),
        (["--seal", "http://x", "--seal-policy", "nowhere"], {}, 2, "no-such-file"),
    ]
    for more, environment, code, slug in cases:
        said = privacy(*publish, *more, code=code, **environment)
        assert said["error"]["code"] == slug
    assert not list((tmp_path / "store").rglob("manifest.json"))
    empty = privacy("broker", "log", "--ear", str(tmp_path / "ear"), code=4)
    assert empty["error"]["code"] == "no-decision"
    assert (
        privacy("broker", "revoke", "nobody/1", code=4)["error"]["code"]
        == "unknown-key"
    )
