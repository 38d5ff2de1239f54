"""Malformed FHE inputs through a live gateway, counted by what became of them.

Every input is uploaded and submitted as a job. It may be refused over HTTP (4xx),
refused by the job, crash a worker, or be computed, for the engine cannot tell a
changed random word from an honest one. What is computed so is garbage, and a **wrong
answer** is one that a client could take for the answer to something else: the receipt
of the job names another input or other keys than those uploaded, so that a client that
compares digests (ours does, always) would accept it; or an honest job in between, which
must decrypt to the known outputs, does not. Refusals must be typed: a problem with a
stable code, never `internal`.

A sample of such inputs, made for circuits of Concrete-ML's own, goes to that
library's `FHEModelServer.run`: its process's deaths and hangs are shown beside ours.
"""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from benchmarks.fhe_bad_bundles import bundles
from benchmarks.live import Live
from benchmarks.malformed_bare import bare
from benchmarks.malformed_inputs import Case, Honest, cases
from benchmarks.malformed_tally import DEATHS, Tally
from privacy.bundle import open_bundle
from privacy.encoding import Json, pack, parse_object, sha256_hex
from privacy.files import default_home
from privacy.modes import Mode
from privacy.publish import is_current, publish
from privacy.publisher import publisher_key

HONEST_EVERY = 50


def campaign(
    api: httpx.Client,
    honest: list[Honest],
    count: int,
    *,
    seed: int,
    foreign_keys: bytes = b"",
) -> Tally:
    """Send malformed inputs, and honest jobs in between; return what happened."""
    tally, rng = Tally(), random.Random(seed)  # noqa: S311 - to repeat it
    wanted = cases(honest, rng, foreign_keys=foreign_keys)
    for i, case in zip(range(count), wanted, strict=False):
        if i % len(_REQUESTS) == 0:
            _request(api, i // len(_REQUESTS), case, tally)
        else:
            _send(api, case, tally)
        if i % HONEST_EVERY == HONEST_EVERY - 1:
            for one in honest:
                _send_honest(api, one, tally)
    return tally


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    store, home = folder / "malformed", default_home()
    roots = {name: published_alone(store, name) for name in _MODELS}
    inputs, damaged, sample = (300, 38, 60) if quick else (5000, 190, 400)
    with Live(folder, store) as live, live.http() as api:
        pid = live.pid
        linear, tree, theirs = (
            Honest.of(roots[name], lambda one: first_answer(api, one))
            for name in ("linear", "tree", "foreign")
        )
        honest, foreign_keys = [linear, tree], theirs.evaluation_keys
        tally = campaign(api, honest, inputs, seed=1, foreign_keys=foreign_keys)
        key = publisher_key(home)
        bad = bundles(api, honest[0], store, key, damaged, seed=1)
        alive = live.pid == pid and api.get("/readyz").is_success
    with tempfile.TemporaryDirectory() as scratch:
        there = bare(
            [linear, theirs],
            sample,
            Path(scratch),
            seed=1,
            foreign_keys=tree.evaluation_keys,
        )
    return {
        "gateway_deaths": int(not alive),
        "inputs": tally.as_json(),
        "bundles": bad.as_json(),
        "wrong": [*tally.wrong, *bad.wrong],
        "untyped": [*tally.untyped, *bad.untyped],
        "bare_library": there,
    }


_MODELS: dict[str, tuple[str, Json]] = {
    "linear": ("linear", {}),
    "tree": ("tree", {}),
    "foreign": ("tree", {"circuit": "concrete-ml", "n_bits": 4, "engine_rows": 2}),
}


def published_alone(store: Path, name: str) -> Path:
    """Return a model of breast-cancer data, published once, for `fhe` alone."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    root = store / name / "1"
    if root.is_dir() and is_current(open_bundle(root)):
        return root
    shutil.rmtree(root, ignore_errors=True)
    rows, labels = load_breast_cancer(return_X_y=True)
    family, options = _MODELS[name]
    core = (
        LogisticRegression(max_iter=1000)
        if family == "linear"
        else DecisionTreeClassifier(max_depth=3, random_state=0)
    )
    model = make_pipeline(StandardScaler(), core).fit(rows, labels)
    return publish(
        model,
        rows,
        name=name,
        version="1",
        store=store,
        modes=(Mode.FHE,),
        options={Mode.FHE: options},
    ).root


def _send(api: httpx.Client, case: Case, tally: Tally) -> None:
    reply = _submit(api, case.honest.name, case.blob, case.keys)
    if reply.is_client_error:
        problem = reply.json()
        tally.check_typed(case.kind, problem)
        tally.add(case.kind, "refused over HTTP", problem.get("code", ""))
    elif reply.is_success:
        _judge(api, case, reply.json(), tally)
    else:
        tally.untyped.append(f"{case.kind}: HTTP {reply.status_code}")
        tally.add(case.kind, "HTTP error")
    if case.keys != case.honest.evaluation_keys and case.keys:
        api.delete(f"/v1/keys/{sha256_hex(case.keys)}")


def _judge(api: httpx.Client, case: Case, job: Json, tally: Tally) -> None:
    problem = job["problem"]
    died = bool(problem) and problem["code"] in DEATHS
    tally.worker_deaths += job["attempts"] if died else max(0, job["attempts"] - 1)
    if problem:
        tally.check_typed(case.kind, problem)
        outcome = "killed a worker" if died else "refused by the job"
        tally.add(case.kind, outcome, problem["code"])
        return
    receipt = _receipt(api, job["id"])
    sent = sha256_hex(case.blob), sha256_hex(case.keys) if case.keys else ""
    if (receipt["input_sha256"], receipt["keys_sha256"]) != sent:
        tally.wrong.append(f"{case.kind}: the receipt names another input")
    tally.add(case.kind, "computed, bound to its own digest")


def _send_honest(api: httpx.Client, one: Honest, tally: Tally) -> None:
    tally.honest_jobs += 1
    blob = one.keys.encrypt(one.row)
    reply = _submit(api, one.name, blob, one.evaluation_keys)
    job = reply.json()
    if job.get("status") != "succeeded":
        tally.wrong.append(f"an honest job of {one.name} was not answered: {job}")
        return
    output = api.get(f"/v1/jobs/{job['id']}/result").content
    found = one.keys.decrypt(output, 1)
    if not np.allclose(found, one.outputs, atol=1e-3):
        tally.wrong.append(f"an honest job of {one.name} decrypts wrongly")


def _submit(api: httpx.Client, model: str, blob: bytes, keys: bytes) -> httpx.Response:
    digest = sha256_hex(blob)
    put = api.put(f"/v1/blobs/{digest}", content=blob)
    if put.is_error:
        return put
    body = {"model": model, "mode": "fhe", "input": digest}
    if keys:
        body["keys"] = sha256_hex(keys)
        head = api.head(f"/v1/keys/{body['keys']}")
        if head.is_error:
            put = api.put(f"/v1/keys/{body['keys']}", content=keys)
            if put.is_error:
                return put
    return api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})


def _request(api: httpx.Client, turn: int, case: Case, tally: Tally) -> None:
    """Send a request that is wrong in itself, whatever the bytes."""
    kind = list(_REQUESTS)[turn % len(_REQUESTS)]
    one, absent = case.honest, "0" * 64
    blob = pack([one.ciphertext])
    body: Json = {"model": one.name, "mode": "fhe", "input": sha256_hex(blob)}
    if one.evaluation_keys:
        body["keys"] = sha256_hex(one.evaluation_keys)
    api.put(f"/v1/blobs/{body['input']}", content=blob).raise_for_status()
    body |= _REQUESTS[kind](body, absent)
    if kind == "request: bytes of another digest":
        reply = api.put(f"/v1/blobs/{absent}", content=case.blob or b"x")
    else:
        reply = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    problem = reply.json()
    if reply.is_client_error:
        tally.check_typed(kind, problem)
        tally.add(kind, "refused over HTTP", problem.get("code", ""))
    else:
        tally.wrong.append(f"{kind}: HTTP {reply.status_code}")
        tally.add(kind, "accepted")


_REQUESTS: dict[str, Callable[[Json, str], Json]] = {
    "request: bytes of another digest": lambda _, __: {},
    "request: an input nobody sent": lambda _, absent: {"input": absent},
    "request: keys nobody sent": lambda _, absent: {"keys": absent},
    "request: swapped": lambda body, _: {"keys": body["input"]},
    "request: another model's digest": lambda _, absent: {"model_sha256": absent},
    "request: keys in another mode": lambda body, _: {
        "mode": "zkml",
        "keys": body["input"],
    },
    "request: no digest": lambda _, __: {"input": "../../etc/hostname"},
    "request: an unknown model": lambda _, __: {"model": "nobody"},
}


def _receipt(api: httpx.Client, job_id: str) -> Json:
    raw = api.get(f"/v1/jobs/{job_id}/receipt").raise_for_status().content
    receipt: Json = parse_object(raw, what="receipt")["receipt"]
    return receipt


def first_answer(api: httpx.Client, one: Honest) -> bytes:
    """Return the output of an honest job."""
    job = _submit(api, one.name, pack([one.ciphertext]), one.evaluation_keys)
    job_id = job.raise_for_status().json()["id"]
    return api.get(f"/v1/jobs/{job_id}/result").raise_for_status().content
