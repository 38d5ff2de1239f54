"""What the gateway adds to the bare library, by mode, in one run.

For each mode the same input is computed by
- `bare`: the mode's own runner in a warm process of its own, no gateway;
- `job`: upload, submit and wait, download, through a gateway process;
- `answer`: the SDK's `infer`, with key handling, sealing and every check.
The three alternate. `added` is the difference of medians between `job` and `bare`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.fhe_malformed import published_alone
from benchmarks.live import Live, published
from benchmarks.measure import Timing, interleaved, rss_bytes
from privacy.bundle import Bundle, open_bundle, standardise
from privacy.child import Child
from privacy.client import Client
from privacy.client.context import Context, Prepared
from privacy.client.drive import SyncDriver
from privacy.client.sessions import session_for
from privacy.encoding import Json, sha256_hex
from privacy.modes import Mode
from privacy.publisher import signer_of

TIMES = {Mode.FHE: 100, Mode.ZKML: 10, Mode.TEE: 200}


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    bundle, rows = published(folder)
    tree = open_bundle(published_alone(folder / "models", "tree"))
    with Live(folder, bundle.root.parents[1]) as live:
        time.sleep(2)  # at rest: started, nothing done yet
        rest = rss_bytes(live.pid)
        modes = {
            str(mode): of_mode(live, bundle, rows, mode, 5 if quick else TIMES[mode])
            for mode in TIMES
            if bundle.manifest.modes[mode].available
        }
        modes["fhe, a tree"] = of_mode(live, tree, rows, Mode.FHE, 5 if quick else 30)
        after = rss_bytes(live.pid)
    return {
        "model": bundle.manifest.name,
        "gateway_rss_at_rest_bytes": rest,
        "gateway_rss_after_bytes": after,
        "modes": modes,
    }


def of_mode(live: Live, bundle: Bundle, rows: Any, mode: Mode, times: int) -> Json:
    """Return the figures of one mode at a gateway that runs."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(
            Client(
                live.url,
                api_key=live.key,
                home=home,
                allow_plaintext_keys=True,
                allow_simulated=True,
                allow_insecure_srs=True,
            )
        )
        http = stack.enter_context(live.http())
        client.infer(bundle.manifest.name, rows, mode=mode)
        prepared = _prepare(client, live, bundle, rows, mode)
        bare, bare_pid = stack.enter_context(_bare(live, bundle, mode, prepared))
        calls: dict[str, Callable[[], object]] = {
            "bare": bare,
            "job": lambda: _job(http, bundle, mode, prepared),
            "answer": lambda: client.infer(bundle.manifest.name, rows, mode=mode),
        }
        timings = interleaved(calls, times=times)
        return {
            "rows": len(rows),
            "times": times,
            **{name: _figures(t) for name, t in timings.items()},
            "added_p50_s": timings["job"].p50 - timings["bare"].p50,
            "added_ratio": timings["job"].p50 / timings["bare"].p50,
            "bare_rss_bytes": rss_bytes(bare_pid),
        }


def _figures(timing: Timing) -> Json:
    return {"p50_s": timing.p50, "p95_s": timing.p95}


def _prepare(
    client: Client, live: Live, bundle: Bundle, rows: Any, mode: Mode
) -> Prepared:
    context = Context(
        client.home,
        live.url,
        lambda _: None,
        allow_simulated=True,
        allow_insecure_srs=True,
    )
    session = session_for(mode, context, client.model(bundle.manifest.name))
    standard = standardise(rows, bundle.manifest.columns)
    with SyncDriver(live.url, live.key) as driver:
        return driver.run(session.prepare(standard))


def _job(http: httpx.Client, bundle: Bundle, mode: Mode, prepared: Prepared) -> bytes:
    digest = sha256_hex(prepared.blob)
    http.put(f"/v1/blobs/{digest}", content=prepared.blob).raise_for_status()
    body = {"model": bundle.manifest.name, "mode": str(mode), "input": digest}
    if prepared.keys_sha256:
        body["keys"] = prepared.keys_sha256
    reply = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    job = reply.raise_for_status().json()
    if job["status"] != "succeeded":
        raise RuntimeError(str(job["problem"]))
    return http.get(f"/v1/jobs/{job['id']}/result").raise_for_status().content


@contextmanager
def _bare(
    live: Live, bundle: Bundle, mode: Mode, prepared: Prepared
) -> Iterator[tuple[Callable[[], object], int]]:
    """Give the bare call of a mode, and the process that computes it."""
    if mode == Mode.TEE:
        from privacy.tee.host import Enclave

        # The gateway's own enclave: the input is sealed to it.
        run_dir = live.data / "enclaves" / "tee" / bundle.sha256[:16]
        enclave = Enclave.attach(run_dir)
        if enclave is None:
            raise RuntimeError("the gateway has no enclave for this model")
        yield lambda: enclave.infer(prepared.blob, timeout_s=30), enclave.pid
        enclave.detach()
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("gateway.executors.worker:handler") as child,
    ):
        folder, keys = Path(scratch), prepared.keys_sha256
        uploaded = live.data / "blobs"
        (folder / "input").write_bytes(prepared.blob)
        request = {
            "mode": str(mode),
            "bundle": str(bundle.root),
            "model_sha256": bundle.sha256,
            "publisher": signer_of(bundle),
            "input": str(folder / "input"),
            "keys": str(uploaded / keys[:2] / keys) if keys else None,
            "rows": None,
            "output": str(folder / "output"),
            "evidence": str(folder / "evidence"),
        }
        yield lambda: child.call(request), child.pid


def machine() -> Json:
    """Return what the figures were taken on."""
    return {
        "cpus": os.cpu_count(),
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
