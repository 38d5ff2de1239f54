"""What `deploy/` says agrees with the code; nothing of it is run here."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.api.metrics import _STATES
from gateway.executors.ray.start import RunningNode, _record
from gateway.metrics import REGISTRY
from gateway.settings import Settings
from privacy.cli import app
from privacy.encoding import canonical_json
from privacy.files import write_atomic
from privacy.tee.process import identify

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PREFIX = Settings.model_config["env_prefix"]


def _documents(path: Path) -> list[Any]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def _all_files() -> list[Path]:
    return [p for p in DEPLOY.rglob("*") if p.is_file()]


@pytest.mark.parametrize("path", _all_files(), ids=lambda p: p.name)
def test_every_setting_that_is_named_exists(path: Path):
    named = re.findall(rf"\b{PREFIX}([A-Z0-9_]+)", path.read_text())
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("path", _all_files(), ids=lambda p: p.name)
def test_every_command_that_is_named_exists(path: Path):
    groups = {g.name: g.typer_instance for g in app.registered_groups}
    top = {c.name for c in app.registered_commands}
    pattern = r"(?:`|\n +|#   |; )privacy ([a-z-]+)(?: ([a-z-]+))?"
    for first, second in re.findall(pattern, path.read_text()):
        if first in groups:
            assert second in {c.name for c in groups[first].registered_commands}
        else:
            assert first in top, first


def test_what_the_image_copies_exists_and_is_not_ignored():
    text = (DEPLOY / "Dockerfile").read_text()
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        for source in line.split():
            assert (DEPLOY.parent / source).exists(), source
            assert f"!{source}" in ignored, source
    assert re.search(r"(?m)^USER 10001", text)
    images = re.findall(r"(?m)^FROM (\S+)", text)
    assert set(images) == {"${BASE}"}


def test_the_images_packages_are_whole_pinned_and_without_pytorch():
    text = (DEPLOY.parent / "requirements" / "server.txt").read_text()
    names = set(re.findall(r"(?m)^([a-z0-9.-]+)(?:\[[^\]]*\])?==", text))
    needed = {"fastapi", "ezkl", "concrete-python", "onnxruntime", "ray", "boto3"}
    assert needed | {"psycopg", "alembic", "prometheus-client"} <= names
    assert not names & {"torch", "concrete-ml", "pytest"}
    assert text.count("--hash=sha256:") >= len(names)
    everything = (DEPLOY.parent / "requirements" / "all.txt").read_text()
    for pin in re.findall(r"(?m)^[a-z0-9.-]+(?:\[[^\]]*\])?==[^ ;\\]+", text):
        assert pin.partition("[")[0] in everything or pin in everything, pin


def test_compose_gives_each_gateway_a_folder_of_its_own_and_shares_the_rest():
    [compose] = _documents(DEPLOY / "compose.yaml")
    mounts = [
        {v.split(":")[1]: v.split(":")[0] for v in compose["services"][name]["volumes"]}
        for name in ("gateway-1", "gateway-2")
    ]
    assert mounts[0]["/data"] != mounts[1]["/data"]
    for shared in ("/blobs", "/keys", "/models"):
        assert mounts[0][shared] == mounts[1][shared]
    named = {m for found in mounts for m in found.values()}
    assert named <= set(compose["volumes"])
    for name in ("gateway-1", "gateway-2"):
        service = compose["services"][name]
        grace = int(service["stop_grace_period"].rstrip("s"))
        assert grace > float(service["environment"][f"{PREFIX}DRAIN_S"]) + 5
        assert all(p.startswith("127.0.0.1:") for p in service["ports"])


def test_the_image_has_every_folder_that_gateways_write_to():
    """A volume takes the owner of the image's folder; without one it is root's."""
    [compose] = _documents(DEPLOY / "compose.yaml")
    image = (DEPLOY / "Dockerfile").read_text()
    [made] = re.findall(r"--owner privacy --group privacy --mode 0700 ([^\\]+)", image)
    for name in ("gateway-1", "gateway-2"):
        mounts = [v.split(":") for v in compose["services"][name]["volumes"]]
        written = {parts[1] for parts in mounts if parts[2:] != ["ro"]}
        assert written <= set(made.split())


def test_systemd_lets_enclaves_make_their_sandbox():
    unit = (DEPLOY / "privacy-gateway.service").read_text()
    lists = re.findall(r"(?m)^SystemCallFilter=(.+)$", unit)
    allowed = {call for found in lists for call in found.split()}
    assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"} <= allowed


def _kubernetes() -> dict[tuple[str, str], Any]:
    found = [d for path in KUBERNETES for d in _documents(path)]
    return {(d["kind"], d.get("metadata", {}).get("name", "")): d for d in found}


def test_kubernetes_manifests_name_one_another():
    found = _kubernetes()
    pod = found["StatefulSet", "gateway"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for kind, name in (("Service", "gateway"), ("Service", "gateway-pods")):
        assert found[kind, name]["spec"]["selector"].items() <= labels.items()
    budget = found["PodDisruptionBudget", "gateway"]["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels.items()
    [container] = pod["spec"]["containers"]
    volumes = {v["name"] for v in pod["spec"]["volumes"]} | {"data"}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    claims = {
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert all(("PersistentVolumeClaim", claim) in found for claim in claims)
    listed = found["Kustomization", ""]["resources"]
    files = {path.name for path in KUBERNETES} - {"kustomization.yaml", "ray.yaml"}
    assert set(listed) == files


def test_every_pod_is_confined():
    found = _kubernetes()
    ray = found["RayCluster", "nodes"]["spec"]
    specs = [
        found["StatefulSet", "gateway"]["spec"]["template"]["spec"],
        ray["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in ray["workerGroupSpecs"]),
    ]
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["capabilities"]["drop"] == ["ALL"]
            mounted = {m["name"] for m in container["volumeMounts"]}
            has = {v["name"] for v in spec["volumes"]} | {"data"}
            assert mounted <= has


def test_a_ray_pod_is_restarted_once_its_ray_has_ended(tmp_path: Path):
    ray = _kubernetes()["RayCluster", "nodes"]["spec"]
    groups = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    [probe] = {
        tuple(container[f"{kind}Probe"]["exec"]["command"])
        for group in groups
        for container in group["template"]["spec"]["containers"]
        for kind in ("startup", "liveness", "readiness")
    }

    def is_well() -> bool:
        env = {**os.environ, "PRIVACY_HOME": str(tmp_path), "POD_NAME": "pod-1"}
        return subprocess.run(probe, env=env, check=False).returncode == 0

    assert not is_well()
    with subprocess.Popen(["sleep", "60"]) as process:
        found = identify(process.pid)
        assert found
        node = asdict(RunningNode("pod-1", "127.0.0.1:6379", found))
        write_atomic(_record(tmp_path, "pod-1"), canonical_json(node))
        assert is_well()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_well()  # though nobody has asked yet how it ended
    assert not is_well()


def test_a_pod_has_time_to_drain():
    spec = _kubernetes()["StatefulSet", "gateway"]["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in spec["containers"][0]["env"]}
    grace = spec["terminationGracePeriodSeconds"]
    assert grace > float(env[f"{PREFIX}DRAIN_S"]) + Settings().stop_grace_s


def _expressions() -> list[str]:
    [alerts] = _documents(DEPLOY / "prometheus" / "alerts.yaml")
    rules = [r for group in alerts["groups"] for r in group["rules"]]
    board = json.loads((DEPLOY / "grafana" / "gateways.json").read_text())
    targets = [t for panel in board["panels"] for t in panel["targets"]]
    return [r["expr"] for r in rules] + [t["expr"] for t in targets]


def test_alerts_and_dashboard_ask_for_metrics_and_labels_that_exist():
    known: dict[str, set[str]] = {}
    for collector, names in REGISTRY._collector_to_names.items():
        labels = set(getattr(collector, "_labelnames", ()))
        known |= dict.fromkeys(names, labels)
    ours = {"instance", "le"}
    for expression in _expressions():
        asked = set(re.findall(r"\bprivacy_\w+", expression))
        assert asked, expression
        assert asked <= set(known), expression
        allowed = ours.union(*(known[name] for name in asked))
        by = re.findall(r"by \(([^)]*)\)", expression)
        grouped = {label.strip() for group in by for label in group.split(",")}
        matched = set(re.findall(r"(\w+)=", expression))
        assert grouped | matched <= allowed, expression
    states = re.findall(r'state="(\w+)"', " ".join(_expressions()))
    assert set(states) <= set(_STATES)


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / "privacy-gateway.service"
    text = (DEPLOY / "privacy-gateway.service").read_text()
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text)
    unit.write_text(re.sub(r"(?m)^(User|Group)=privacy$", r"\1=root", text))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "privacy-gateway" in line]
    assert (done.returncode, said) == (0, [])
