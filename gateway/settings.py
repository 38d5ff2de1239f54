"""What an operator can set, from arguments or PRIVACY_GATEWAY_* variables."""

import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from gateway.identity.issuers import Issuer
from gateway.identity.rates import RateLimits
from gateway.webhooks.targets import Rules
from privacy.errors import FormatError
from privacy.files import default_home
from privacy.modes import Mode
from privacy.tee.configfs_tsm import ROOT as TSM_DIR
from privacy.tee.harden import Limits
from privacy.tee.sources import EvidenceSource
from privacy.tls import TlsFiles
from privacy.warm import BUDGET
from privacy.zkml.memory import installed_memory


class Settings(BaseSettings):
    """Settings of one gateway process and of the node it runs."""

    model_config = SettingsConfigDict(env_prefix="PRIVACY_GATEWAY_", frozen=True)

    data_dir: Path = Field(
        default=Path("var/gateway"),
        description="Database, blobs, receipt key, enclaves; one gateway at a time.",
    )
    database_url: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="postgresql+psycopg://USER:PASSWORD@HOST/NAME, which several "
        "gateways may share; a SQLite file in data_dir if empty.",
    )
    blobs_dir: Path | None = Field(
        default=None,
        description="Uploads, outputs and evidence; DATA_DIR/blobs if empty. Gateways "
        "that share a database need a folder that all of them see, or blobs_s3.",
    )
    blobs_s3: str = Field(
        default="",
        description="s3://BUCKET/PREFIX instead of a folder; credentials and address "
        "are boto3's usual ones.",
    )
    blobs_cache_bytes: int = Field(
        default=20 << 30,
        ge=0,
        description="With blobs_s3: what copies on this machine may take.",
    )
    lease_s: float = Field(
        default=10.0,
        ge=1,
        le=60,
        description="Other gateways on the same database take this one's jobs over if "
        "it does not say for so long that it lives.",
    )
    models_dir: Path = Field(
        default=Path("var/gateway/models"),
        description="Published bundles, NAME/VERSION/manifest.json.",
    )
    home: Path = Field(
        default_factory=default_home,
        description="Its publishers.json names whose bundles are loaded.",
    )
    trusted_publishers: tuple[Path, ...] = Field(
        default=(), description="Files with public keys of more publishers."
    )
    allow_unsigned_bundles: bool = False
    oidc_issuers: tuple[Issuer, ...] = Field(
        default=(),
        description="Whose tokens are taken beside API keys: a JSON list, see "
        "docs/identity.md.",
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    tls_cert: Path | None = Field(
        default=None, description="Serve https with this certificate (PEM)."
    )
    tls_key: Path | None = Field(default=None, description="Its private key.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="Serve only clients that show a certificate of these authorities.",
    )
    node_name: str = Field(default="local", min_length=1, max_length=63)
    local_modes: tuple[Mode, ...] = Field(
        default=tuple(Mode),
        description="Which modes this machine runs itself; [] for none.",
    )
    cpus: int = Field(
        default=0,
        ge=0,
        description="How many cores jobs may use here; 0 for all.",
    )
    gpus: int = Field(
        default=0,
        ge=0,
        description="How many GPUs jobs may use here, for models that need one.",
    )
    node_wait_s: float = Field(
        default=60.0,
        ge=0,
        description="How long a job waits for a node of the cluster that could run it "
        "to join, or to come back.",
    )
    node_idle_s: float = Field(
        default=600.0,
        gt=0,
        description="A cluster node's workers end after so long without a job.",
    )
    node_cache_bytes: int = Field(
        default=8 << 30,
        ge=1 << 20,
        description="Keys, inputs and models that a cluster node keeps.",
    )
    ray_address: str = Field(
        default="",
        description="The Ray cluster whose nodes run jobs, HOST:PORT of its head; "
        "empty for none. This machine must be a node of it.",
    )
    ray_credentials: Path | None = Field(
        default=None,
        description="Folder with the cluster's token and this machine's certificate; "
        "else HOME/cluster.",
    )
    fhe_execution: Literal["latency", "throughput"] = Field(
        default="latency",
        description="latency: one worker on all cores, the soonest answer to one job; "
        "throughput: a worker on each core, the most jobs.",
    )
    fhe_workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="0 for what fhe_execution says; they share the cores out.",
    )
    zkml_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Proofs side by side, as memory allows; they share the cores out.",
    )
    zkml_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="What proofs may take together; 0 for three quarters of what this "
        "machine has. A model that needs more is refused.",
    )
    tee_workers: int = Field(
        default=4, ge=1, le=64, description="Jobs at once over all enclaves."
    )
    enclave_evidence: Literal[
        "simulated-tdx", "simulated-snp", "simulated-nitro", "configfs-tsm"
    ] = Field(
        default="simulated-tdx",
        description="What vouches for enclaves: a simulated platform, which proves "
        "nothing, or the hardware below this TDX or SEV-SNP guest (configfs-tsm).",
    )
    simulated_gpu: bool = Field(
        default=False, description="Add a simulated GPU's report to simulated evidence."
    )
    tsm_dir: Path = Field(
        default=TSM_DIR, description="Where configfs-tsm keeps its entries."
    )
    enclave_memory_bytes: int = Field(
        default=8 << 30, ge=1 << 28, description="What one enclave may allocate."
    )
    allow_weaker_sandbox: bool = Field(
        default=False,
        description="Start enclaves without Landlock or seccomp where the kernel lacks "
        "it; clients refuse them unless the model's publisher allowed it.",
    )
    worker_memory_bytes: int = Field(
        default=16 << 30, ge=1 << 28, description="Address space of a worker process."
    )
    worker_warm_bytes: int = Field(
        default=2 << 30,
        ge=0,
        description="Memory that a worker's keys and engines may keep between jobs.",
    )
    fhe_time_limit_s: float = Field(default=900.0, gt=0)
    peers_file: Path | None = Field(
        default=None, description="Other operators' gateways that get jobs, TOML."
    )
    peer_max_hops: int = Field(
        default=1,
        ge=0,
        le=8,
        description="How many gateways may pass a job on; 1: none from a peer.",
    )
    peer_distrust_s: float = Field(
        default=3600.0, gt=0, description="How long a peer that lied gets no job."
    )
    zkml_time_limit_s: float = Field(default=3600.0, gt=0)
    tee_time_limit_s: float = Field(default=60.0, gt=0)
    max_upload_bytes: int = Field(default=2 << 30, ge=1)
    max_bytes_by_tenant: int = Field(
        default=16 << 30, ge=1, description="Of all uploads a tenant keeps here."
    )
    keys_ttl_s: float = Field(
        default=30 * 86400.0, gt=0, description="Evaluation keys, after their last use."
    )
    inputs_ttl_s: float = Field(
        default=86400.0, gt=0, description="Inputs, after their last use."
    )
    contract_inputs_ttl_s: float = Field(
        default=30 * 86400.0, gt=0, description="Inputs handed over for contracts."
    )
    receipt_key: Path | None = Field(
        default=None,
        description="File of the key that signs receipts; else DATA_DIR/receipt.key.",
    )
    log_every_s: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="How often receipts and acts enter their logs.",
    )
    tree_head_every_s: float = Field(
        default=600.0, gt=0, description="Sign a tree head at least so often."
    )
    audit_keep_s: float = Field(
        default=366 * 86400.0,
        gt=0,
        description="Audit entries in the database; older ones go to DATA_DIR/audit.",
    )
    results_ttl_s: float = Field(
        default=7 * 86400.0, gt=0, description="Outputs and evidence of finished jobs."
    )
    sweep_every_s: float = Field(
        default=600.0, gt=0, description="How often what has expired is removed."
    )
    verify_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Of jobs that are looked at twice: fhe on another node, others by "
        "their evidence. Requests may say `always` or `never`.",
    )
    quarantine_accusers: int = Field(
        default=1,
        ge=1,
        description="Tenants whose disputes a node must have lost to get no more jobs.",
    )
    max_queued_jobs: int = Field(
        default=256, ge=1, description="Waiting jobs of one mode."
    )
    max_queued_jobs_by_tenant: int = Field(
        default=128, ge=1, description="Of one mode and tenant."
    )
    oip: bool = Field(
        default=False,
        description="Serve the Open Inference Protocol at /v2, for mode zkml.",
    )
    allow_http_webhooks: bool = Field(
        default=False, description="Webhooks may have http addresses."
    )
    allow_private_webhooks: bool = Field(
        default=False,
        description="Webhooks may have addresses of private networks and this machine.",
    )
    webhook_key_file: Path | None = Field(
        default=None,
        description="What webhooks' secrets are derived from, 32 bytes, the same for "
        "all gateways of a database; webhooks.key in data_dir, made there, if not set.",
    )
    submits_per_minute: int = Field(
        default=12_000, ge=0, description="POST requests of one tenant; 0 for any."
    )
    uploads_per_minute: int = Field(
        default=12_000, ge=0, description="PUT and PATCH requests of one tenant."
    )
    reads_per_minute: int = Field(
        default=60_000, ge=0, description="Other requests of one tenant."
    )
    strangers_per_minute: int = Field(
        default=1_200,
        ge=0,
        description="Requests without a valid key or token from one address.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses and networks whose X-Forwarded-For is believed.",
    )
    head_timeout_s: float = Field(
        default=15.0, gt=0, description="In which a request's head has to come."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="In which a body that is no upload has to come."
    )
    max_connections_by_address: int = Field(
        default=250, ge=1, description="Open at once; trusted proxies may have more."
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Open at once, waiting requests and all."
    )
    min_free_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Room on its disks below which a gateway is not ready.",
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        description="How long jobs that run may take to end after SIGTERM.",
    )
    stop_grace_s: int = Field(
        default=5, ge=0, description="How long open requests may take at shutdown."
    )

    @field_validator("oidc_issuers")
    @classmethod
    def _are_different(cls, issuers: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
        if len({i.issuer for i in issuers}) != len(issuers):
            msg = "two entries have the same issuer: keep one"
            raise ValueError(msg)
        return issuers

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ip_network(proxy)
            except ValueError:
                msg = f"{proxy!r} is no address and no network such as 10.0.0.0/8"
                raise ValueError(msg) from None
        return proxies

    @property
    def cluster_credentials(self) -> Path:
        """The folder of what Ray needs; see `gateway.executors.ray.credentials`."""
        return self.ray_credentials or self.home / "cluster"

    @property
    def evidence_source(self) -> EvidenceSource:
        """What makes the evidence of enclaves.

        Raises:
            FormatError: A simulated GPU beside evidence of hardware.
        """
        return EvidenceSource(
            kind=self.enclave_evidence,
            simulated_gpu=self.simulated_gpu,
            tsm_root=self.tsm_dir.absolute(),
        )

    @property
    def webhook_rules(self) -> Rules:
        """Which addresses webhooks may have."""
        return Rules(
            allow_http=self.allow_http_webhooks,
            allow_private=self.allow_private_webhooks,
        )

    @property
    def tls(self) -> TlsFiles:
        """What the gateway serves https with; false if it serves http.

        Raises:
            FormatError: A certificate without its key.
        """
        return TlsFiles(
            trust=self.tls_client_ca, certificate=self.tls_cert, key=self.tls_key
        )

    @property
    def enclave_limits(self) -> Limits:
        """What enclaves may take, and may lack."""
        return Limits(
            memory_bytes=self.enclave_memory_bytes,
            allow_weaker_sandbox=self.allow_weaker_sandbox,
        )

    @property
    def rate_limits(self) -> RateLimits:
        """Requests a minute."""
        return RateLimits(
            submit=self.submits_per_minute,
            upload=self.uploads_per_minute,
            read=self.reads_per_minute,
            unauthenticated=self.strangers_per_minute,
        )

    def workers(self, mode: Mode) -> int:
        """Return how many jobs of a mode run at once."""
        in_turn = 1 if self.fhe_execution == "latency" else self.cores()
        return {
            Mode.FHE: self.fhe_workers or in_turn,
            Mode.ZKML: self.zkml_workers,
            Mode.TEE: self.tee_workers,
            Mode.TEE_ZKML: self.zkml_workers,
        }[mode]

    def worker_env(self, mode: Mode) -> dict[str, str]:
        """Return the environment variables of a mode's worker processes."""
        env = {BUDGET: str(self.worker_warm_bytes)}
        if mode in _THREADS:
            env[_THREADS[mode]] = str(max(1, self.cores() // self.workers(mode)))
        return env

    def cores(self) -> int:
        """Return how many cores jobs may use."""
        return self.cpus or _cores()

    def memory_of_jobs(self, mode: Mode) -> int:
        """Return what jobs of a mode may take together, by what models state."""
        if mode is Mode.ZKML:
            return self.zkml_memory_bytes or installed_memory() * 3 // 4
        return sys.maxsize  # what evaluation keys take is measured, not stated

    def time_limit_s(self, mode: Mode) -> float:
        """Return how long one attempt at a job of a mode may take."""
        return {
            Mode.FHE: self.fhe_time_limit_s,
            Mode.ZKML: self.zkml_time_limit_s,
            Mode.TEE: self.tee_time_limit_s,
            Mode.TEE_ZKML: self.zkml_time_limit_s,
        }[mode]


def load_settings(**chosen: Any) -> Settings:
    """Return the settings of the environment, but for those that are given.

    Raises:
        FormatError: Some are not valid; the message names them.
    """
    try:
        return Settings(**chosen)
    except ValidationError as exc:
        prefix = Settings.model_config["env_prefix"]
        wrong = [
            f"{prefix}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}"
            for e in exc.errors(include_url=False, include_input=False)
        ]
        why = "; ".join(wrong)
    except SettingsError as exc:
        why = f"{exc}: expected JSON"
    msg = f"a setting of the gateway is not valid: {why}; see docs/configuration.md"
    raise FormatError(msg, code="bad-setting")


_THREADS = {Mode.FHE: "OMP_NUM_THREADS", Mode.ZKML: "RAYON_NUM_THREADS"}


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
