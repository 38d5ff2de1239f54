"""The nodes of a Ray cluster, as nodes of a scheduler: they come and go."""

import asyncio
import base64
from collections.abc import Callable, Collection
from importlib.util import find_spec

import structlog

from gateway.executors.base import Done, Watch, Work
from gateway.executors.memory import gpus_needed, needed
from gateway.executors.ray.credentials import Credentials
from gateway.executors.ray.link import Link
from gateway.executors.scheduler import Scheduler
from gateway.settings import Settings
from privacy import __version__
from privacy.bundle import MANIFEST, SIGNATURE, Bundle
from privacy.encoding import Json
from privacy.errors import ConflictError, LimitError, PrivacyError, UnavailableError
from privacy.modes import Mode

_log = structlog.get_logger()
_PROVING = {Mode.ZKML, Mode.TEE_ZKML}


class RayNode:
    """One node of the cluster."""

    is_foreign = False

    def __init__(self, name: str, view: Json, link: Link, *, evidence: str) -> None:
        """Describe the node as the driver views it; see `labels.node_view`.

        Args:
            name: As receipts give it.
            view: The node, with its `status`.
            link: Leads there.
            evidence: What this gateway says that vouches for enclaves.
        """
        self._evidence = evidence
        self.name = name
        self.view = view
        self._link = link

    @property
    def gpus(self) -> int:
        """How many GPUs it has."""
        return int(self.view["gpus"])

    def refusal(self, mode: Mode, bundle: Bundle) -> PrivacyError | None:
        """Return why it can never run jobs of a model; see `Node`."""
        if not self.places(mode):
            msg = f"node {self.name} does not serve mode {mode}"
            return UnavailableError(msg, code="no-node")
        if self.view["version"] != __version__:
            msg = (
                f"node {self.name} runs version {self.view['version'] or 'unknown'}, "
                f"this gateway {__version__}: install the same on both"
            )
            return UnavailableError(msg, code="no-node")
        vouches = self.view["enclave_evidence"]
        if Mode.TEE in mode.parts and vouches != self._evidence:
            msg = (
                f"{vouches} vouches for enclaves of node {self.name}, this gateway's "
                f"enclave_evidence is {self._evidence}: set both alike"
            )
            return UnavailableError(msg, code="no-node")
        if gpus_needed(mode, bundle) > self.gpus:
            msg = f"node {self.name} has {self.gpus} GPUs: use a node with more"
            return LimitError(msg, code="gpu-needed")
        takes, has = needed(mode, bundle), self.view["memory_of_jobs"]
        if mode in _PROVING and takes > has:
            msg = (
                f"this job takes about {takes >> 20} MiB, node {self.name} has "
                f"{has >> 20} MiB for such jobs: use a node with more memory"
            )
            return LimitError(msg, code="circuit-too-large")
        return None

    def places(self, mode: Mode) -> int:
        """Return how many jobs of a mode run at once."""
        return int(self.view["modes"].get(mode, 0))

    def has(self, job_id: str) -> bool:
        """Whether it runs a job, or keeps its result; see `Node`."""
        return job_id in (self.view["status"] or {}).get("jobs", ())

    def warmth(self, mode: Mode, model_sha256: str, keys_sha256: str = "") -> int:
        """Return 2 if the keys are loaded, 1 if the model is, else 0; see `Node`."""
        status = self.view["status"] or {}
        warm = status.get("warm", {}).get(mode, [])
        return 2 if keys_sha256 in warm else int(model_sha256 in warm)

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        model, files = await asyncio.to_thread(_model, work.mode, work.bundle)
        files[work.input_sha256] = str(work.input)
        if work.keys:
            files[work.keys_sha256] = str(work.keys)
        request = {
            **model,
            "job_id": work.job_id,
            "input_sha256": work.input_sha256,
            "keys_sha256": work.keys_sha256,
        }
        words: asyncio.Queue[Json | None] = asyncio.Queue()
        telling = asyncio.create_task(_tell(watch, words))
        try:
            answer = await self._link.call(
                "run",
                event=words.put_nowait,
                node=self.view["id"],
                name=self.name,
                request=request,
                files=files,
                folder=str(work.folder.absolute()),
            )
        finally:  # the row says when it began before it says how it ended
            words.put_nowait(None)
            await telling
        kind = answer["kind"]
        evidence = work.folder / "evidence" if kind else None
        return Done(work.folder / "output", evidence, kind, self.name)

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        """Return fresh evidence of a model's enclave, started if need be."""
        model, files = await asyncio.to_thread(_model, mode, bundle)
        answer = await self._link.call(
            "evidence",
            node=self.view["id"],
            name=self.name,
            request={**model, "nonce": nonce.hex()},
            files=files,
        )
        return base64.b64decode(answer["evidence"])

    def cancel(self, job_id: str) -> None:
        """Stop a job if it waits or runs there."""
        self._link.tell("cancel", node=self.view["id"], name=self.name, job_id=job_id)

    def busy(self) -> dict[Mode, int]:
        """Return how many jobs of each mode ran there a moment ago, of all gateways."""
        status = self.view["status"] or {}
        modes = status.get("node", {}).get("modes", {})
        return {Mode(mode): said["busy"] for mode, said in modes.items()}

    async def close(self) -> None:
        """Do nothing: jobs there go on, and are found again by the next gateway."""

    def describe(self) -> Json:
        """Return the node as `/v1/nodes` shows it; see `Node`."""
        view, status = self.view, self.view["status"] or {}
        modes = status.get("node", {}).get("modes") or {
            mode: {"workers": n, "busy": 0, "time_limit_s": None}
            for mode, n in view["modes"].items()
        }
        shown = ("cpus", "gpus", "memory_bytes", "enclave_evidence")
        return {
            "name": self.name,
            "kind": "ray",
            **{name: view[name] for name in shown},
            "modes": modes,
        }


class RayCluster:
    """Keeps a scheduler's nodes those of a cluster."""

    def __init__(self, settings: Settings, *, worker_target: str) -> None:
        """Describe it; `start` connects.

        Raises:
            NotFoundError: A file of the credentials is missing.
            UnavailableError: Ray is not installed here.
        """
        if find_spec("ray") is None:
            msg = "Ray is not installed: pip install 'privacy-compute[gateway,ray]'"
            raise UnavailableError(msg, code="engine-missing")
        host = settings.ray_address.rpartition(":")[0]
        self._evidence = settings.enclave_evidence
        self._scheduler: Scheduler | None = None
        self._reserved: Callable[[], Collection[str]] = frozenset
        self._nodes: dict[str, RayNode] = {}
        self._refused: set[str] = set()
        self._link = Link(
            address=settings.ray_address,
            node_ip=host if host.startswith("127.") else "",
            worker_target=worker_target,
            env=Credentials(settings.cluster_credentials).environment(),
            nodes=self._take,
        )

    def start(
        self, scheduler: Scheduler, *, reserved: Callable[[], Collection[str]]
    ) -> None:
        """Connect, and keep a scheduler's nodes those of the cluster.

        Args:
            scheduler: Gives jobs to them.
            reserved: Gives the names of gateways: receipts and quarantine go by names,
                so a node that has one of these gets no job.
        """
        self._scheduler, self._reserved = scheduler, reserved
        self._link.start()

    async def close(self) -> None:
        """Let go of the cluster; its jobs go on."""
        await self._link.close()

    def _take(self, views: list[Json]) -> None:
        """Bring the scheduler's nodes up to date."""
        scheduler = self._scheduler
        if scheduler is None:
            return
        found = {view["id"]: view for view in views}
        reserved = self._reserved()
        for node_id in self._nodes.keys() - found:
            gone = self._nodes.pop(node_id)
            _log.warning("node-left", node=gone.name)
            scheduler.remove(gone.name)
        for node_id, view in found.items():
            node = self._nodes.get(node_id)
            if view["name"] in reserved:
                self._refuse(scheduler, view, _gateways_name(view["name"]))
            elif node:
                node.view = view
            else:
                self._join(scheduler, view)
        self._refused &= set(found)
        scheduler.changed()

    def _join(self, scheduler: Scheduler, view: Json) -> None:
        """Give a scheduler a node, unless another has its name; then once that left."""
        node = RayNode(view["name"], view, self._link, evidence=self._evidence)
        try:
            scheduler.add(node)
        except ConflictError as exc:
            self._refuse(scheduler, view, exc)
            return
        self._refused.discard(view["id"])
        self._nodes[view["id"]] = node
        _log.info("node-joined", node=node.name, modes=list(view["modes"]))

    def _refuse(self, scheduler: Scheduler, view: Json, why: ConflictError) -> None:
        """Give a node no job, and say so once."""
        if node := self._nodes.pop(view["id"], None):
            scheduler.remove(node.name)
        if view["id"] not in self._refused:
            _log.error(
                "node-refused",
                node=view["name"],
                id=view["id"],
                code=why.code,
                why=why.message,
            )
        self._refused.add(view["id"])


def _gateways_name(name: str) -> ConflictError:
    msg = (
        f"a gateway of this database is called {name!r}: start the node under another "
        "name (`privacy node start --name`)"
    )
    return ConflictError(msg, code="node-name-taken")


async def _tell(watch: Watch, words: "asyncio.Queue[Json | None]") -> None:
    """Pass on words about a job in their order, until None; to start may block."""
    while word := await words.get():
        if "progress" in word:
            watch.progress(word["progress"])
        else:
            await asyncio.to_thread(watch.started)


def _model(mode: Mode, bundle: Bundle) -> tuple[Json, dict[str, str]]:
    """Return what a node is told of a model, and where the files lie, by digest."""
    signature, root = bundle.root / SIGNATURE, bundle.root.absolute()
    wanted = tuple(f"{part}/" for part in mode.parts)
    files = {
        entry.sha256: str(root / name)
        for name, entry in bundle.manifest.files.items()
        if name.startswith(wanted)
    }
    told = {
        "mode": mode,
        "model_sha256": bundle.sha256,
        "publisher": bundle.publisher,
        "signature": signature.read_text() if signature.exists() else "",
    }
    return told, {**files, bundle.sha256: str(root / MANIFEST)}
