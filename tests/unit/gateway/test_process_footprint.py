"""The gateway process stays small: engines load in workers only."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gateway.app import create_app, run
from gateway.settings import Settings
from privacy.cli import operator
from privacy.errors import ConflictError, PrivacyError, UnavailableError
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ProcessGateway, free_port, wait_until

ENGINES = (
    "torch",
    "concrete",
    "mlir",
    "ezkl",
    "onnxruntime",
    "onnx",
    "sklearn",
    "pandas",
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGateway]:
    folder = tmp_path_factory.mktemp("process")
    write_bundle(folder / "models")
    with ProcessGateway(folder / "data", folder / "models") as process:
        yield process


def test_a_served_gateway_rests_below_150_megabytes(process: ProcessGateway):
    with process.client() as api:
        for _ in range(50):
            api.get("/v1/models").raise_for_status()
            api.get("/openapi.json").raise_for_status()
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident_kb = int(status.split("VmRSS:")[1].split()[0])
    assert resident_kb < 150_000


def test_a_served_gateway_maps_no_library_of_an_engine(process: ProcessGateway):
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "sqlite3" in maps
    for engine in ENGINES:
        assert f"site-packages/{engine}/" not in maps, engine


def test_importing_the_application_imports_no_engine(tmp_path: Path):
    code = (
        "import json, sys, gateway.app, gateway.settings, privacy.tee.host\n"
        f"s = gateway.settings.Settings(data_dir={str(tmp_path)!r})\n"
        "gateway.app.create_app(s).openapi()\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    loaded = set(json.loads(answer.stdout))
    assert {"fastapi", "sqlalchemy"} <= loaded
    assert not loaded & set(ENGINES)


@pytest.mark.parametrize("failure", [ConflictError("taken", code="taken"), KeyError()])
def test_who_serves_is_told_why_a_start_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    def fail(*_: object, **__: object) -> NoReturn:
        raise failure

    for name in ("configure_logs", "start_traces", "stop_traces"):
        monkeypatch.setattr(f"gateway.app.{name}", lambda: None)
    monkeypatch.setattr("gateway.node.Membership", fail)
    settings = Settings(data_dir=tmp_path, port=free_port(), local_modes=())
    with pytest.raises(PrivacyError) as refusal:
        run(settings, announce=lambda _: None)
    assert refusal.value.code == getattr(failure, "code", "not-started")


def test_two_gateways_never_share_a_data_folder(process: ProcessGateway):
    settings, announced = Settings(data_dir=process._data_dir), []
    with pytest.raises(UnavailableError) as refusal:
        run(settings, announce=announced.append)
    assert refusal.value.code == "data-dir-locked"
    assert not announced
    second = subprocess.run(
        [sys.executable, "-m", "gateway"],
        env=process._env,
        capture_output=True,
        check=False,
    )
    assert second.returncode == UnavailableError.exit_code
    assert b"another gateway" in second.stderr
    assert b"Traceback" not in second.stderr
    with process.client() as api:
        assert api.get("/readyz").is_success


def test_making_the_application_touches_no_folder(tmp_path: Path):
    create_app(Settings(data_dir=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_secrets_on_disk_are_private_to_the_owner(process: ProcessGateway):
    data = process._data_dir
    for name in ("receipt.key", "gateway.sqlite", "gateway-id"):
        assert (data / name).stat().st_mode & 0o077 == 0, name


def _logged(process: ProcessGateway, path: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    return [line for line in lines if line.get("path") == path]


def test_logs_are_json_lines_without_keys_or_bodies(process: ProcessGateway):
    with process.client() as api:
        api.put("/v1/blobs/" + "0" * 64, content=b"patient-4711")
        api.post("/v1/jobs", json={"model": "patient-4712"})
    last = wait_until(lambda: _logged(process, "/v1/jobs"))[-1]
    assert last["status"] == 422
    assert last["key_id"].startswith("key_")
    assert {"request_id", "method", "ms", "timestamp", "level"} <= set(last)
    text = process.log.read_text()
    for secret in ("patient-47", process.admin_key, "Bearer"):
        assert secret not in text


def test_the_defaults_are_those_of_the_command_line():
    serve = {p.name: p.default for p in signature(operator.serve).parameters.values()}
    settings = Settings()
    assert settings.data_dir == operator.DEFAULT_DATA == serve["data"]
    assert settings.models_dir == operator.DEFAULT_DATA / "models"
    assert (settings.host, settings.port) == (serve["host"], serve["port"])


def test_more_connections_than_allowed_are_refused_and_the_rest_go_on(tmp_path: Path):
    write_bundle(tmp_path / "models")
    module = "tests.support.gateway_with_fakes"
    process = ProcessGateway(
        tmp_path / "data", tmp_path / "models", module=module, max_connections=8
    )
    with process, process.client() as api, ExitStack() as stack:
        job = api.order({"do": "sleep", "seconds": 2}).json()
        for _ in range(7):
            watcher = stack.enter_context(process.client())
            stack.enter_context(watcher.stream("GET", job["links"]["events"]))
        with process.client() as late:
            assert late.get("/healthz").status_code == 503
        stack.close()
        assert api.finished(job["id"])["status"] == "succeeded"
