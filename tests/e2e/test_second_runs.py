"""Verified FHE: honest nodes agree, a liar is found, and no more is claimed."""

import asyncio
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gateway.executors.base import Engines
from gateway.settings import Settings
from privacy.client import AsyncClient, Client, second_run, verify_saved
from privacy.errors import FormatError, NotFoundError, VerificationError
from tests.support.live_gateway import ProcessGateway, ThreadGateway

LIES = Engines("tests.support.swapping_worker:handler")


@pytest.fixture(scope="module")
def second(tmp_path_factory, models_dir, diagnosis):
    """Another operator's gateway: receipts signed by another key."""
    folder = tmp_path_factory.mktemp("second")
    with ProcessGateway(folder, models_dir, node_name="far") as running:
        yield running


@pytest.fixture(scope="module")
def liar(tmp_path_factory, models_dir, diagnosis):
    folder = tmp_path_factory.mktemp("liar")
    settings = Settings(data_dir=folder, models_dir=models_dir, node_name="liar")
    with ThreadGateway(settings, LIES) as running:
        yield running


@pytest.fixture(scope="module")
def rows(diagnosis):
    """Rows of both classes, the first and the last unlike."""
    labels = diagnosis.model.predict(diagnosis.rows)
    order = [int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)]
    return diagnosis.rows[[order[0], 5, 6, order[1]]].tolist()


@pytest.fixture
def client_of(tmp_path):
    opened = []

    def make(gateway):
        client = Client(gateway.base_url, api_key=gateway.admin_key, home=tmp_path)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


def checks(answer):
    return {c.name: c.detail for c in answer.checks}


def test_two_operators_that_answer_alike_are_named(
    client_of, gateway, second, diagnosis, rows
):
    mine, other = client_of(gateway), client_of(second)
    plain = mine.infer(diagnosis.name, rows, mode="fhe")
    answer = mine.infer(diagnosis.name, rows, mode="fhe", verify_with=[other])
    assert answer.rows == plain.rows
    detail = checks(answer)["second-run"]
    assert detail.startswith("4 of 4 rows")
    assert "node far" in detail
    assert "another key" in detail
    assert not any("second run" in c for c in answer.caveats)
    assert answer.bytes_up > plain.bytes_up
    assert "second run 1" in answer.seconds
    assert verify_saved(answer.receipt, home=mine.home).exit_code == 0


def test_both_runs_are_encrypted_anew_and_their_evidence_is_kept(
    client_of, gateway, second, diagnosis, rows, tmp_path
):
    mine, other = client_of(gateway), client_of(second)
    mine.infer(diagnosis.name, rows, mode="fhe", verify_with=[other], verify_runs=2)
    kept = [p.parent for p in (tmp_path / "receipts").glob("*/receipt.json")]
    inputs = {(folder / "input.bin").read_bytes() for folder in kept}
    assert len(kept) == len(inputs) == 3


def test_a_node_that_lies_is_found_and_both_receipts_are_kept(
    client_of, gateway, liar, diagnosis, rows, tmp_path
):
    honest, lying = client_of(gateway), client_of(liar)
    assert lying.infer(diagnosis.name, rows, mode="fhe").rows  # nothing shows it alone
    before = set((tmp_path / "receipts").iterdir())
    for first, again in ((lying, honest), (honest, lying)):
        with pytest.raises(VerificationError) as caught:
            first.infer(diagnosis.name, rows, mode="fhe", verify_with=[again])
        assert caught.value.code == "second-run-differs"
        assert "row 1 and 1 more rows" in caught.value.message
        folders = set((tmp_path / "receipts").iterdir()) - before
        before |= folders
        assert len(folders) == 2
        for folder in folders:
            assert str(folder) in caught.value.message
            receipt = folder / "receipt.json"
            assert verify_saved(receipt, home=honest.home).exit_code == 0


def test_a_second_run_on_the_same_node_says_how_little_it_shows(
    client_of, liar, diagnosis, rows
):
    lying = client_of(liar)
    answer = lying.infer(diagnosis.name, rows, mode="fhe", verify_runs=1)
    assert "the same node liar" in checks(answer)["second-run"]
    assert any("lies the same way twice" in c for c in answer.caveats)


def test_only_sampled_rows_are_asked_again(
    client_of, gateway, second, diagnosis, rows, monkeypatch
):
    draws = iter([0.1, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    monkeypatch.setattr(second_run._random, "random", lambda: next(draws))
    mine, other = client_of(gateway), client_of(second)
    half = {"mode": "fhe", "verify_share": 0.5, "verify_with": [other]}
    answer = mine.infer(diagnosis.name, rows, **half)
    assert checks(answer)["second-run"].startswith("2 of 4 rows")
    answer = mine.infer(diagnosis.name, rows, **half)
    assert "second-run" not in checks(answer)
    assert any("compared nothing: none of 4 rows" in c for c in answer.caveats)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "zkml", "verify_runs": 1},
        {"mode": "fhe", "verify_runs": 11},
        {"mode": "fhe", "verify_runs": -1},
        {"mode": "fhe", "verify_runs": 1, "verify_share": 0.0},
        {"mode": "fhe", "verify_runs": 1, "verify_share": 1.1},
        {"mode": "fhe", "verify_runs": 1, "verify_share": float("nan")},
        {"mode": "fhe", "verify_runs": 1, "verify_tolerance": -1.0},
        {"mode": "fhe", "verify_runs": 1, "verify_tolerance": float("nan")},
        {"mode": "fhe", "verify_runs": 1, "verify_tolerance": float("inf")},
    ],
)
def test_second_runs_that_make_no_sense_are_refused(
    client_of, gateway, diagnosis, rows, wrong
):
    with pytest.raises(FormatError):
        client_of(gateway).infer(diagnosis.name, rows, **wrong)


def test_a_gateway_that_lacks_the_model_is_no_second(
    client_of, gateway, diagnosis, rows, tmp_path
):
    with (
        ProcessGateway(tmp_path / "empty", tmp_path / "none") as empty,
        pytest.raises(NotFoundError),
    ):
        client_of(gateway).infer(
            diagnosis.name, rows, mode="fhe", verify_with=[client_of(empty)]
        )


def test_the_asynchronous_client_compares_too(
    gateway, second, diagnosis, rows, tmp_path
):
    def client(at):
        return AsyncClient(at.base_url, api_key=at.admin_key, home=tmp_path)

    async def ask():
        async with client(gateway) as mine, client(second) as other:
            return await mine.infer(
                diagnosis.name, rows, mode="fhe", verify_with=[other]
            )

    assert "node far" in checks(asyncio.run(ask()))["second-run"]


@pytest.mark.slow
def test_the_command_line_compares_with_a_named_gateway(
    gateway, second, liar, diagnosis, rows, tmp_path
):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    env = {**os.environ, "PRIVACY_HOME": str(tmp_path / "home")}

    def run(*args, **more):
        command = [sys.executable, "-m", "privacy", *map(str, args), "--json"]
        done = subprocess.run(
            command, env={**env, **more}, capture_output=True, text=True, check=False
        )
        return done.returncode, json.loads(done.stdout)

    for at, name in (
        (gateway, ()),
        (second, ("--name", "far")),
        (liar, ("--name", "l")),
    ):
        key = {"PRIVACY_API_KEY": at.admin_key}
        assert run("login", at.base_url, *name, **key)[0] == 0
    ask = ("infer", diagnosis.name, "--mode", "fhe", "--input", file)
    code, answer = run(*ask, "--verify-share", "1", "--second-gateway", "far")
    assert code == 0, answer
    assert (
        "node far" in {c["name"]: c["detail"] for c in answer["checks"]}["second-run"]
    )
    code, answer = run(*ask, "--second-gateway", "l")
    assert (code, answer["error"]["code"]) == (6, "second-run-differs")
    code, answer = run(*ask, "--second-gateway", "http://127.0.0.1:9")
    assert (code, answer["error"]["code"]) == (3, "unauthenticated")
