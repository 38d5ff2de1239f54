"""What is decided about a cluster's nodes without Ray."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.executors.ray import cluster as cluster_module
from gateway.executors.ray.cluster import RayCluster, RayNode
from gateway.executors.ray.credentials import Credentials
from gateway.executors.ray.labels import labels, node_view, resources
from gateway.executors.ray.start import (
    NodePlan,
    RunningNode,
    default_host,
    running_nodes,
    start_node,
    stop_node,
)
from gateway.executors.scheduler import Scheduler
from gateway.settings import Settings
from privacy.certs import Certificates
from privacy.errors import LimitError, NotFoundError, UnavailableError
from privacy.modes import Mode
from tests.support.hand_made_bundle import write_bundle


def raw(name: str = "far", node_id: str = "abc123", **more: Any) -> dict[str, Any]:
    """Return a node as `ray.nodes()` gives it."""
    return {
        "NodeID": node_id,
        "Alive": True,
        "Resources": {
            "CPU": 4.0,
            "GPU": 1.0,
            "memory": float(8 << 30),
            **resources({Mode.ZKML: 2, Mode.TEE_ZKML: 1}),
        },
        "Labels": labels(name=name, memory_bytes=6 << 30, evidence="simulated-tdx"),
        **more,
    }


def view(**more: Any) -> dict[str, Any]:
    found = node_view(raw())
    assert found
    return {**found, "status": None, **more}


def test_a_node_says_what_it_is_and_is_understood():
    found = view()
    assert found["name"] == "far"
    assert found["modes"] == {"zkml": 2, "tee+zkml": 1}
    assert (found["cpus"], found["gpus"]) == (4, 1)
    assert found["memory_of_jobs"] == 6 << 30


def test_dead_nodes_and_those_of_others_are_left_out():
    assert node_view(raw(Alive=False)) is None
    assert node_view(raw(Labels={})) is None
    assert node_view(raw(Resources={"CPU": 4.0})) is None


def _refusal(bundle: Any, mode: Mode = Mode.ZKML, **more: Any) -> Any:
    return _node(**more).refusal(mode, bundle)


def _node(**more: Any) -> RayNode:
    link: Any = None  # nothing is asked of it here
    return RayNode("far", view(**more), link, evidence="simulated-tdx")


def test_a_node_refuses_what_it_can_never_run(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    cost = bundle.manifest.modes["zkml"].cost
    assert _refusal(bundle) is None
    assert isinstance(_refusal(bundle, Mode.FHE), UnavailableError)
    assert "install the same" in _refusal(bundle, version="0.0.1").message
    other = _refusal(bundle, Mode.TEE_ZKML, enclave_evidence="configfs-tsm")
    assert "set both alike" in other.message
    assert _refusal(bundle, Mode.TEE_ZKML) is None
    cost["gpus"] = 2
    assert _refusal(bundle).code == "gpu-needed"
    cost.update(gpus=1, memory_bytes=7 << 30)
    refusal = _refusal(bundle)
    assert isinstance(refusal, LimitError)
    assert refusal.code == "circuit-too-large"


def test_warm_keys_and_load_are_what_the_node_said_last(tmp_path: Path):
    busy = {"modes": {"zkml": {"workers": 2, "busy": 1, "time_limit_s": 9.0}}}
    warm = {"zkml": ["m" * 64, "k" * 64]}
    status = {"warm": warm, "node": busy, "jobs": ["job_1"]}
    node = _node(status=status)
    warmth = [node.warmth(Mode.ZKML, "m" * 64, keys) for keys in ("k" * 64, "other")]
    assert [*warmth, node.warmth(Mode.ZKML, "x" * 64)] == [2, 1, 0]
    assert node.busy() == {Mode.ZKML: 1}
    assert [node.has(job_id) for job_id in ("job_1", "job_2")] == [True, False]
    assert node.describe()["modes"] == busy["modes"]
    cold = _node()
    assert (cold.warmth(Mode.ZKML, "m" * 64), cold.busy()) == (0, {})
    assert cold.describe()["modes"]["zkml"]["workers"] == 2


@pytest.fixture
def cluster(tmp_path: Path) -> RayCluster:
    """Return a cluster that nobody asks, with a scheduler for its nodes."""
    credentials = Credentials(tmp_path / "cluster")
    credentials.make(Certificates(tmp_path / "certs"), name="head", hosts=["127.0.0.2"])
    settings = Settings(ray_address="127.0.0.2:1", ray_credentials=credentials.folder)
    cluster = RayCluster(settings, worker_target="x:y")
    cluster._scheduler = Scheduler()
    return cluster


def test_nodes_of_the_cluster_come_and_go_at_the_scheduler(cluster: RayCluster):
    scheduler = cluster._scheduler
    assert scheduler
    cluster._take([view(), view(id="def456789abc")])
    assert set(scheduler.nodes()) == {"far"}
    assert scheduler.describe()[0]["cpus"] == 4  # the first one's
    cluster._take([view(id="def456789abc", cpus=2)])
    assert scheduler.describe()[0]["cpus"] == 2  # it has the name now
    cluster._take([])
    assert not scheduler.nodes()


def test_a_node_called_like_a_gateway_gets_no_job_until_that_one_has_left(
    cluster: RayCluster,
):
    scheduler, gateways = cluster._scheduler, {"here"}
    assert scheduler
    cluster._reserved = lambda: gateways
    cluster._take([view()])
    assert set(scheduler.nodes()) == {"far"}
    gateways.add("far")  # it starts while the node has jobs
    with capture_logs() as said:
        for _ in range(2):
            cluster._take([view()])
            assert not scheduler.nodes()
    (line,) = said
    assert (line["event"], line["code"]) == ("node-refused", "node-name-taken")
    gateways.remove("far")
    cluster._take([view()])
    assert set(scheduler.nodes()) == {"far"}


def test_a_gateway_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_module, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError) as refusal:
        RayCluster(Settings(ray_address="127.0.0.2:1"), worker_target="x:y")
    assert refusal.value.code == "engine-missing"
    assert "pip install" in refusal.value.message


def test_a_head_makes_what_it_lacks_and_keeps_what_it_has(tmp_path: Path):
    authority = Certificates(tmp_path / "certs")
    credentials = Credentials(tmp_path / "cluster")
    with pytest.raises(NotFoundError) as refusal:
        credentials.environment()
    assert refusal.value.code == "cluster-credentials"
    assert "privacy certs issue" in refusal.value.message
    credentials.make(authority, name="head", hosts=["127.0.0.2"])
    before = {p.name: p.read_bytes() for p in credentials.folder.iterdir()}
    assert set(before) == {"token", "tls.crt", "tls.key", "trust.pem"}
    for secret in ("token", "tls.key"):
        assert (credentials.folder / secret).stat().st_mode & 0o077 == 0
    credentials.make(authority, name="head", hosts=["127.0.0.2"])
    assert {p.name: p.read_bytes() for p in credentials.folder.iterdir()} == before
    env = credentials.environment()
    assert (env["RAY_AUTH_MODE"], env["RAY_USE_TLS"]) == ("token", "1")
    assert before["token"].decode() not in env.values()  # by path, not by value


def _plan(tmp_path: Path, **changes: Any) -> NodePlan:
    chosen = {
        "name": "far",
        "join": "10.0.0.5:6379",
        "host": "10.0.0.7",
        "port": 6379,
        "modes": [Mode.ZKML],
        "cpus": 2,
        "gpus": 1,
        "data": tmp_path / "data",
    }
    return NodePlan(**{**chosen, **changes})


def test_nodes_are_started_without_dashboards_and_statistics(tmp_path: Path):
    joined = _plan(tmp_path).command(Settings(zkml_workers=3))
    assert "--address=10.0.0.5:6379" in joined
    assert "--node-ip-address=10.0.0.7" in joined
    assert "--disable-usage-stats" in joined
    assert "--num-gpus=1" in joined
    assert any('"privacy-zkml": 3' in word for word in joined)
    head = _plan(tmp_path, join="").command(Settings())
    assert {"--head", "--port=6379", "--include-dashboard=false"} <= set(head)
    assert not any(word.startswith("--address") for word in head)


def test_rays_sockets_lie_where_no_other_user_of_the_machine_can_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = _plan(tmp_path).command(Settings())
    (inner,) = [w.partition("=")[2] for w in command if w.startswith("--temp-dir=")]
    folder = Path(inner).parent
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # somebody else's, or one that somebody else may have filled
    with pytest.raises(UnavailableError) as refusal:
        _plan(tmp_path).command(Settings())
    assert refusal.value.code == "ray-start"


_TWICE = """
echo try >> {tries}
[ $(wc -l < {tries}) = {needed} ] || {{ echo "{said}"; exit 1; }}
echo "Ray runtime started."
sleep 60
"""


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize(
    ("said", "needed", "tries"),
    [
        ("The current node timed out during startup.", 2, 2),
        ("The current node timed out during startup.", 3, 2),
        ("the token is wrong", 2, 1),
    ],
    ids=["it was busy once", "it is busy", "no use in trying again"],
)
def test_a_node_whose_machine_was_too_busy_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, needed: int, tries: int
):
    credentials = Credentials(tmp_path / "cluster")
    credentials.make(Certificates(tmp_path / "certs"), name="head", hosts=["127.0.0.2"])
    log = tmp_path / "tries"
    script = _TWICE.format(tries=log, needed=needed, said=said)
    monkeypatch.setattr(NodePlan, "command", lambda *_: ["sh", "-c", script])

    def start() -> RunningNode:
        plan = _plan(tmp_path)
        return start_node(plan, credentials, tmp_path, progress=lambda _: None)

    if needed == tries:
        assert start().process.alive
        assert stop_node(tmp_path, "far").name == "far"
    else:
        with pytest.raises(UnavailableError, match="Ray did not start"):
            start()
    assert len(log.read_text().splitlines()) == tries


def test_without_an_address_a_head_is_for_this_machine_only():
    assert default_host("") == "127.0.0.2"
    assert default_host("127.0.0.2:6379") == "127.0.0.2"
    assert default_host("10.0.0.5:6379") == ""


def test_only_nodes_that_were_started_here_are_stopped(tmp_path: Path):
    assert running_nodes(tmp_path) == []
    with pytest.raises(NotFoundError) as refusal:
        stop_node(tmp_path, "far")
    assert refusal.value.code == "unknown-node"
