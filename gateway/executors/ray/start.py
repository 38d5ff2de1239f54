"""Starting and stopping this machine's node of a Ray cluster."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.executors.ray.credentials import Credentials
from gateway.executors.ray.labels import labels, resources
from gateway.settings import Settings
from privacy.bundle import check_name
from privacy.child import Progress, child_environment
from privacy.encoding import Json, canonical_json, parse_object
from privacy.errors import ConflictError, FormatError, NotFoundError, UnavailableError
from privacy.files import make_folder, write_atomic
from privacy.modes import Mode
from privacy.tee.process import ProcessIdentity, identify

PORT = 6379
LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 for "some address of this machine"; this one stays what it is."""
START_S = 120.0
_STOP_S = 30.0
_SLOW = "The current node timed out during startup"
"""Ray gives its own agents 15 s to begin, which is short where the machine is busy."""
_NODE_SETTINGS = (
    "fhe_execution",
    "fhe_workers",
    "zkml_workers",
    "zkml_memory_bytes",
    "tee_workers",
    "enclave_evidence",
    "simulated_gpu",
    "tsm_dir",
    "enclave_memory_bytes",
    "allow_weaker_sandbox",
    "worker_memory_bytes",
    "worker_warm_bytes",
    "fhe_time_limit_s",
    "zkml_time_limit_s",
    "tee_time_limit_s",
    "node_cache_bytes",
    "node_idle_s",
)
"""Of a gateway's settings, those that a node has, too; none of them is a secret."""
_STARTED = "Ray runtime started."
_OBJECTS_BYTES = 512 << 20
"""Files pass through Ray's store in pieces of 16 MB: it need not be large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A node to start.

    Attributes:
        join: HOST:PORT of the head; "" to be the head of a new cluster.
        host: The address that the others reach this machine under; "" for Ray to
            find it.
        port: That the head listens on.
        modes: Which jobs it runs; a machine with none is there for its gateway.
        cpus: Cores for jobs; 0 for all.
        gpus: GPUs for jobs.
        data: For keys, models and jobs under way.
    """

    name: str
    join: str
    host: str
    port: int
    modes: Collection[Mode]
    cpus: int
    gpus: int
    data: Path

    def command(self, settings: Settings) -> list[str]:
        """Return the `ray start` that starts it."""
        where = [
            "--head",
            f"--port={self.port}",
            f"--ray-client-server-port={_free_port()}",
            "--include-dashboard=false",
        ]
        return [
            str(Path(sys.executable).with_name("ray")),
            "start",
            *([f"--address={self.join}"] if self.join else where),
            *([f"--node-ip-address={self.host}"] if self.host else []),
            "--block",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            f"--num-cpus={self.cpus or settings.cores()}",
            f"--num-gpus={self.gpus}",
            f"--object-store-memory={_OBJECTS_BYTES}",
            f"--temp-dir={_temp_dir()}",
            "--resources="
            + json.dumps(resources({m: settings.workers(m) for m in self.modes})),
            "--labels=" + ",".join(f"{k}={v}" for k, v in self._labels(settings)),
        ]

    def _labels(self, settings: Settings) -> Collection[tuple[str, str]]:
        return labels(
            name=self.name,
            memory_bytes=settings.memory_of_jobs(Mode.ZKML),
            evidence=settings.enclave_evidence,
        ).items()


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node of this machine that was started; `process` keeps its other processes."""

    name: str
    address: str
    process: ProcessIdentity


def default_host(join: str) -> str:
    """Return the address of this machine if none is given: that of Ray's choice.

    Args:
        join: HOST:PORT of the head, which is on this machine if that is a loopback
            address; "" for a head of its own, which nobody else reaches.
    """
    host = join.rpartition(":")[0] if join else LOOPBACK
    return host if host.startswith("127.") else ""


def start_node(
    plan: NodePlan, credentials: Credentials, home: Path, *, progress: Progress
) -> RunningNode:
    """Return a node once it is part of its cluster; it goes on in the background.

    Args:
        plan: What to start.
        credentials: What lets it into the cluster.
        home: Where it is noted, for `stop_node`.
        progress: Told every second.

    Raises:
        ConflictError: A node of that name runs here.
        FormatError: A setting in the environment is not valid.
        NotFoundError: A file of the credentials is missing.
        UnavailableError: It did not start; the message holds Ray's last words.
    """
    check_name(plan.name)
    if any(node.name == plan.name for node in running_nodes(home)):
        msg = f"node {plan.name} runs here: `privacy node stop {plan.name}` first"
        raise ConflictError(msg, code="node-runs")
    make_folder(plan.data, private=True)
    try:
        settings = Settings(cpus=plan.cpus, data_dir=plan.data)
    except ValueError as exc:
        raise FormatError(f"a setting of the node is not valid: {exc}") from exc
    env = {
        **child_environment(),
        **_node_settings(plan),
        **credentials.environment(),
    }
    log = plan.data / "ray.log"
    process = _started(plan.command(settings), env, log, progress)
    found = identify(process.pid)
    if found is None:
        raise _not_started(log)
    node = RunningNode(plan.name, plan.join or f"{plan.host}:{plan.port}", found)
    write_atomic(_record(home, plan.name), canonical_json(asdict(node)))
    return node


def running_nodes(home: Path) -> list[RunningNode]:
    """Return the nodes of this machine that run."""
    found = []
    for path in sorted((home / "nodes").glob("*.json")):
        said = parse_object(path.read_bytes(), what=str(path))
        process = ProcessIdentity(**said["process"])
        if process.alive:
            found.append(RunningNode(said["name"], said["address"], process))
        else:
            path.unlink(missing_ok=True)
    return found


def stop_node(home: Path, name: str) -> RunningNode:
    """End a node of this machine; its jobs go on elsewhere.

    Raises:
        NotFoundError: None of that name runs here.
    """
    nodes = {node.name: node for node in running_nodes(home)}
    if name not in nodes:
        msg = f"no node {name!r} runs here; there is {', '.join(nodes) or 'none'}"
        raise NotFoundError(msg, code="unknown-node")
    node = nodes[name]
    os.kill(node.process.pid, signal.SIGTERM)  # Ray ends its other processes then
    until = time.monotonic() + _STOP_S
    while node.process.alive and time.monotonic() < until:
        time.sleep(0.05)
    if node.process.alive:
        os.killpg(node.process.pid, signal.SIGKILL)
    _record(home, name).unlink(missing_ok=True)
    return node


def _node_settings(plan: NodePlan) -> Mapping[str, str]:
    """Return settings of the node's actor, as `Settings` reads them."""
    names = [f"PRIVACY_GATEWAY_{name.upper()}" for name in _NODE_SETTINGS]
    return {
        **{name: os.environ[name] for name in names if name in os.environ},
        "PRIVACY_GATEWAY_DATA_DIR": str(plan.data.absolute()),
        "PRIVACY_GATEWAY_CPUS": str(plan.cpus),
    }


def _started(
    command: list[str],
    env: Mapping[str, str],
    log: Path,
    progress: Progress,
    *,
    tries: int = 2,
) -> "subprocess.Popen[bytes]":
    """Return Ray's process once it is up."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - of this installation
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        _wait(process, log, progress)
    except BaseException as exc:
        _end(process)
        was_slow = isinstance(exc, UnavailableError) and _SLOW in log.read_text(
            errors="replace"
        )
        if not was_slow or tries == 1:
            raise
    else:
        return process
    return _started(command, env, log, progress, tries=tries - 1)


def _wait(process: "subprocess.Popen[bytes]", log: Path, progress: Progress) -> None:
    until = time.monotonic() + START_S
    while _STARTED not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > until:
            raise _not_started(log)
        progress({"stage": "start ray"})
        time.sleep(0.2)


def _not_started(log: Path) -> UnavailableError:
    said = [line for line in log.read_text(errors="replace").splitlines() if line]
    last = " ".join(said[-3:])[-500:]
    msg = f"Ray did not start (see {log}): {last or 'it said nothing'}"
    return UnavailableError(msg, code="ray-start")


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _free_port() -> int:
    """Return a port for what Ray starts unasked, so that two heads do not collide."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def _temp_dir() -> str:
    """Return a folder with a short name, for sockets whose names are limited.

    Ray opens it to every user of the machine, and with it the sockets that inputs pass
    through: so it lies in one that only we can enter.

    Raises:
        UnavailableError: Others can enter that one, or it is theirs.
    """
    folder = Path(tempfile.gettempdir()) / f"privacy-node-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        msg = f"{folder} is open to other users: remove it, or set TMPDIR"
        raise UnavailableError(msg, code="ray-start")
    return str(folder / "ray")


def _record(home: Path, name: str) -> Path:
    make_folder(home / "nodes", private=True)
    return home / "nodes" / f"{name}.json"


def describe(node: RunningNode) -> Json:
    """Return a node as `--json` shows it."""
    return {"name": node.name, "address": node.address, "pid": node.process.pid}
