from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.store.database import Database
from privacy.cli.app import run
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ThreadGateway, printed_json
from tests.support.postgres import migrated

Command = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    write_bundle(folder / "models")
    write_bundle(folder / "models", name="keyless", needs_keys=False)
    write_bundle(folder / "models", name="no-fhe", fhe_reason="too deep")
    with ThreadGateway.fake(
        folder, max_upload_bytes=1 << 20, zkml_workers=2, zkml_time_limit_s=15, gpus=1
    ) as gateway:
        yield gateway


@pytest.fixture
def api(gateway: ThreadGateway) -> Iterator[Api]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def stranger(gateway: ThreadGateway) -> Iterator[Api]:
    """Another tenant, with every scope but admin."""
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="other")
    with gateway.client(key) as client:
        yield client


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Our empty tables, on each kind of database."""
    is_file = request.param == "sqlite"
    database = Database(tmp_path / "db.sqlite" if is_file else migrated())
    yield database
    database.close()


@pytest.fixture
def privacy(
    gateway: ThreadGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command against the gateway; return its exit code and JSON."""
    monkeypatch.setenv("PRIVACY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PRIVACY_GATEWAY", gateway.base_url)
    monkeypatch.setenv("PRIVACY_API_KEY", gateway.admin_key)

    def call(*words: object) -> tuple[int, Any]:
        code = run([*map(str, words), "--json"])
        return code, printed_json(capsys.readouterr().out)

    return call
