"""Commands of nodes: start and stop this machine's, list all of a gateway's."""

import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.certs import Certificates
from privacy.cli.app import ApiKey, AsJson, Gateway, HomeDir, command
from privacy.cli.output import out, print_json, print_one, progress, safe, size, table
from privacy.client import Client
from privacy.client.wire import Call, told
from privacy.encoding import Json
from privacy.errors import FormatError, UnavailableError
from privacy.files import default_home
from privacy.modes import Mode, parse_mode

Name = Annotated[str | None, typer.Option(help="The node's; else the machine's.")]


@command("node start")
def start(
    head: Annotated[
        bool, typer.Option("--head", help="Begin a new cluster with this machine.")
    ] = False,
    join: Annotated[str, typer.Option(help="HOST:PORT of the cluster's head.")] = "",
    modes: Annotated[
        str, typer.Option(help="Which jobs it runs: fhe,zkml,tee,tee+zkml; '' none.")
    ] = "fhe,zkml",
    gpu: Annotated[bool, typer.Option("--gpu", help="It has a GPU for jobs.")] = False,
    gpus: Annotated[int, typer.Option(min=0, help="So many GPUs.")] = 0,
    cpus: Annotated[int, typer.Option(min=0, help="Cores for jobs; 0 for all.")] = 0,
    name: Name = None,
    host: Annotated[
        str, typer.Option(help="Address that other machines reach this one under.")
    ] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the head.")] = 6379,
    data: Annotated[
        Path | None, typer.Option(help="For keys, models and jobs; else HOME/node.")
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="Token and certificate; else HOME/cluster.")
    ] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make this machine a node of a Ray cluster, in the background."""
    if head == bool(join):
        raise FormatError("give either --head or --join HOST:PORT", code="usage")
    ray = _ray()
    where = home or default_home()
    chosen = name or _machine()
    address = host or ray.default_host(join)
    files = ray.Credentials(credentials or where / "cluster")
    if head:
        files.make(Certificates(where / "certs"), name=chosen, hosts=[address])
    plan = ray.NodePlan(
        name=chosen,
        join=join,
        host=address,
        port=port,
        modes=_modes(modes),
        cpus=cpus,
        gpus=gpus or int(gpu),
        data=data or where / "node" / chosen,
    )
    with progress(quiet=as_json) as notify:
        node = ray.start_node(plan, files, where, progress=notify)
    text = (
        f"node [bold]{safe(node.name)}[/] runs in the cluster at {safe(node.address)}"
    )
    if head:
        text += (
            f"\nothers join with: privacy node start --join {safe(node.address)}\n"
            f"after you have copied {safe(files.folder / 'token')} to them, and a "
            "certificate: privacy certs issue NAME --kind node --host ADDRESS"
        )
    print_one(ray.describe(node), text, as_json=as_json)


@command("node stop")
def stop(
    name: Annotated[
        str | None, typer.Argument(help="Which; else the only one that runs here.")
    ] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Take this machine out of its cluster; its jobs go on elsewhere."""
    ray = _ray()
    where = home or default_home()
    running = [node.name for node in ray.running_nodes(where)]
    if name is None and len(running) != 1:
        msg = f"{len(running)} nodes run here ({', '.join(running)}): name one"
        raise FormatError(msg, code="usage")
    node = ray.stop_node(where, name or running[0])
    print_one(ray.describe(node), f"node {safe(node.name)} stopped", as_json=as_json)


@command("nodes")
def nodes(
    gateway: Gateway = None,
    api_key: ApiKey = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """List the machines that run a gateway's jobs."""
    with Client(gateway, api_key=api_key, home=home) as client:
        found = client.run(told(Call("GET", "/v1/nodes")))
    if as_json:
        print_json(found)
        return
    columns = ["name", "kind", "state", "cpus", "gpus", "memory", "busy of places"]
    table("", columns, [_row(node) for node in found["nodes"]])
    if not found["nodes"]:
        out.print("this gateway has no node now: jobs wait for one to join")


def _row(node: Json) -> list[str]:
    modes = node["modes"].items()
    return [
        node["name"],
        node["kind"],
        ": ".join(filter(None, [node["state"], node["detail"]])),
        str(node["cpus"]),
        str(node["gpus"]),
        size(node["memory_bytes"]),
        ", ".join(f"{mode} {it['busy']}/{it['workers']}" for mode, it in modes),
    ]


def _modes(text: str) -> list[Mode]:
    return [parse_mode(word.strip()) for word in text.split(",") if word.strip()]


def _machine() -> str:
    """Return this machine's name as a node's: lowercase, without its domain."""
    return socket.gethostname().partition(".")[0].lower()[:40] or "node"


def _ray() -> Any:
    try:
        import ray as _installed  # noqa: F401

        from gateway.executors.ray import start
    except ImportError as exc:
        msg = "Ray is not installed: pip install 'privacy-compute[gateway,ray]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    return start
