"""`privacy nodes` and what `privacy node` refuses before it starts anything."""

import json
from pathlib import Path

import pytest

from privacy.cli import run
from tests.support.live_gateway import ThreadGateway


def test_nodes_lists_the_machines_of_a_gateway(
    gateway: ThreadGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    where = ["--gateway", gateway.base_url, "--api-key", gateway.admin_key]
    where += ["--home", str(tmp_path)]
    assert run(["nodes", *where, "--json"]) == 0
    printed = capsys.readouterr().out  # the gateway logs there, too
    (node,) = json.loads(printed[printed.index("{\n") :])["nodes"]
    assert (node["name"], node["kind"], node["state"]) == ("local", "local", "ready")
    assert run(["nodes", *where]) == 0
    shown = capsys.readouterr().out
    assert "local" in shown
    assert "zkml 0/2" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        ([], "usage", 2),
        (["--head", "--join", "10.0.0.5:6379"], "usage", 2),
        (["--join", "10.0.0.5:6379"], "cluster-credentials", 4),
        (["--join", "10.0.0.5:6379", "--modes", "fhe,magic"], "unknown-mode", 4),
    ],
)
def test_a_node_is_not_started_in_vain(
    words: list[str],
    code: str,
    exit_code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    home = ["--home", str(tmp_path), "--json"]
    assert run(["node", "start", *words, *home]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert run(["node", "stop", *home]) == 2
    assert "0 nodes run here" in capsys.readouterr().out
    assert not list(tmp_path.glob("nodes/*"))
