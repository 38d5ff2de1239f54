"""A job by the command line under every source of evidence, and its receipt offline."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from gateway.executors.base import Engines
from gateway.settings import Settings
from privacy.cli import run
from privacy.errors import UnavailableError
from privacy.files import default_home
from tests.support.fake_tsm import IMAGE
from tests.support.live_gateway import ProcessGateway, wait_until
from tests.support.tee_bundle import write_tee_bundle
from tests.support.tee_models import WEIGHTS
from tests.support.tsm_folder import tsm_folder

ROWS = [[0.5, -1.0, 2.0], [3.0, 0.25, -4.0]]
ON_HARDWARE = f"""
allow_any_report_data = true
[measurements."tdx-v4"]
mrtd = "{IMAGE.mrtd.hex()}"
rtmr2 = "{IMAGE.rtmr2.hex()}"
[measurements."snp-v3"]
measurement = "{IMAGE.mrtd.hex()}"
"""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory, home_of_this_run):
    """A store with one tiny model in mode tee."""
    store = tmp_path_factory.mktemp("models")
    write_tee_bundle(store, default_home())
    return store


@pytest.fixture
def tsm(request, tmp_path):
    """A guest's configfs-tsm, emulated over FUSE."""
    folder = tmp_path / "report"
    folder.mkdir()
    with tsm_folder(folder, request.param):
        yield folder


@pytest.fixture
def ask(models_dir, tmp_path, capsys):
    """Infer and verify by the command line; return both answers."""

    def both(*options, **settings):
        home = tmp_path / "home"
        rows = tmp_path / "rows.json"
        rows.write_text(json.dumps(ROWS))
        common = ["--home", str(home), "--json", *map(str, options)]
        with ProcessGateway(tmp_path / "data", models_dir, **settings) as gateway:
            with gateway.client() as api:
                (node,) = api.get("/v1/nodes").json()["nodes"]
            login = ["--gateway", gateway.base_url, "--api-key", gateway.admin_key]
            words = ["infer", "demo", "--mode", "tee", "--input", str(rows)]
            code = run([*words, *login, *common])
        answer = json.loads(capsys.readouterr().out)
        if code:
            return code, answer
        assert node["enclave_evidence"] == settings["enclave_evidence"]
        code = run(["verify", answer["receipt"], *common])
        return code, answer, json.loads(capsys.readouterr().out)

    return both


def check(code, answer, verdict):
    assert code == 0, verdict
    assert answer["simulated"]
    got = np.array([row["outputs"] for row in answer["rows"]])
    assert np.allclose(got, np.array(ROWS) @ WEIGHTS, atol=1e-5)
    assert {step["verdict"] for step in verdict["steps"]} == {"ok"}


@pytest.mark.parametrize(
    ("kind", "gpu"),
    [
        ("simulated-snp", True),
        pytest.param("simulated-nitro", False, marks=pytest.mark.slow),
        pytest.param("simulated-tdx", True, marks=pytest.mark.slow),
    ],
)
def test_a_simulated_source_serves_jobs_that_verify_here_and_offline(ask, kind, gpu):
    found = ask("--allow-simulated", enclave_evidence=kind, simulated_gpu=gpu)
    check(*found)


@pytest.mark.slow
def test_a_simulated_source_is_refused_unless_allowed(ask):
    code, answer = ask(enclave_evidence="simulated-snp")
    assert (code, answer["error"]["code"]) == (6, "simulated-evidence")


@pytest.mark.parametrize(
    "tsm",
    [pytest.param("tdx_guest", marks=pytest.mark.slow), "sev_guest"],
    indirect=True,
)
def test_a_guest_with_a_policy_on_its_image_serves_jobs_that_verify(ask, tsm, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(ON_HARDWARE)
    found = ask(
        "--allow-simulated",
        "--platform-policy",
        policy,
        enclave_evidence="configfs-tsm",
        tsm_dir=tsm,
    )
    check(*found)
    assert not list(Path(tsm).iterdir())
    wait_until(lambda: not helpers_of(tsm), what="the end of the enclave's helper")


def helpers_of(tsm):
    """The processes that ask this kernel for reports."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"privacy.tee.quoter" in words and str(tsm).encode() in words:
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tsm", ["tdx_guest"], indirect=True)
def test_a_guest_with_another_image_is_refused(ask, tsm, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(ON_HARDWARE.replace(IMAGE.mrtd.hex(), "00" * 48))
    code, answer = ask(
        "--allow-simulated",
        "--platform-policy",
        policy,
        enclave_evidence="configfs-tsm",
        tsm_dir=tsm,
    )
    assert (code, answer["error"]["code"]) == (6, "measurement-mismatch")


def test_a_gateway_whose_kernel_makes_no_reports_does_not_start(tmp_path):
    from gateway.node import Gateway

    chosen = Settings(
        data_dir=tmp_path / "data",
        models_dir=tmp_path / "models",
        enclave_evidence="configfs-tsm",
        tsm_dir=tmp_path / "report",
    )
    with pytest.raises(UnavailableError) as caught:
        Gateway(chosen, Engines()).open()
    assert caught.value.code == "tsm-missing"
