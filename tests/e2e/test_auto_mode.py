"""`mode="auto"` and estimates against real engines."""

import json

import pytest

from privacy.choose import Policy
from privacy.cli.app import run
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.modes import Mode
from privacy.receipt import parse_receipt


@pytest.fixture(scope="module")
def rows(diagnosis):
    return diagnosis.rows[:2].tolist()


def test_a_policy_chooses_the_mode_and_the_receipt_says_so(owner, diagnosis, rows):
    policy = Policy(hide_input_from="everyone", max_latency_s=30)
    answer = owner.infer(diagnosis.name, rows, mode="auto", policy=policy)
    assert answer.mode is Mode.FHE
    assert "the input is hidden from everyone, enclaves too" in answer.chosen
    receipt, _ = parse_receipt(answer.receipt.read_bytes())
    wished = {"hide_input_from": "everyone", "max_latency_s": 30}
    assert receipt.options == {"mode": "auto", "policy": wished}
    named = owner.infer(diagnosis.name, rows, mode="fhe")
    assert named.chosen == ()
    assert named.rows == answer.rows


def test_the_choice_follows_what_is_wanted_and_says_why_not_the_others(
    owner, diagnosis
):
    chosen = owner.choose(diagnosis.name, Policy(prove_answer_to="contract"))
    assert chosen.mode is Mode.ZKML
    assert chosen.others["fhe"][0] == "nothing proves its answer"
    both = Policy(hide_input_from="operator", prove_answer_to="anyone")
    chosen = owner.choose(diagnosis.name, both)
    assert chosen.mode is Mode.TEE_ZKML
    assert any("SIMULATED" in line for line in chosen.why)
    assert chosen.others["zkml"] == ("the input is seen by: node, operator",)


def test_nothing_is_sent_when_no_mode_fits(owner, diagnosis, rows):
    before = owner.jobs()
    policy = Policy(hide_input_from="everyone", prove_answer_to="anyone")
    with pytest.raises(NotFoundError, match="no mode fits") as caught:
        owner.infer(diagnosis.name, rows, mode="auto", policy=policy)
    assert all(f"{mode}: " in caught.value.message for mode in Mode)
    assert owner.jobs() == before


def test_a_policy_and_the_mode_auto_come_together(owner, diagnosis, rows):
    for wrong in (
        {"mode": "auto"},
        {"mode": "fhe", "policy": Policy(prove_answer_to="me")},
    ):
        with pytest.raises(FormatError, match="give both or neither"):
            owner.infer(diagnosis.name, rows, **wrong)


def test_the_command_chooses_and_estimates(
    gateway, owner, diagnosis, rows, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PRIVACY_API_KEY", owner.api_key)
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    at = ("--gateway", gateway.base_url, "--home", str(owner.home.root), "--json")

    def told(*arguments):
        code = run([*arguments, *at])
        return code, json.loads(capsys.readouterr().out)

    wish = ("--hide-input-from", "operator", "--prove-answer", "--max-latency", "5m")
    allow = ("--allow-simulated", "--allow-insecure-srs")
    code, choice = told("choose", diagnosis.name, "--input", str(file), *wish, *allow)
    assert (code, choice["mode"], choice["rows"]) == (0, "tee+zkml", 2)
    assert choice["policy"]["prove_answer_to"] == "anyone"
    code, refusal = told("choose", diagnosis.name, *wish)
    assert (code, refusal["error"]["code"]) == (4, "no-mode-fits")
    code, found = told("estimate", diagnosis.name, "--rows", "3", "--mode", "fhe")
    assert code == 0
    assert found["modes"][0]["basis"] == "measured"
    ask = ("infer", diagnosis.name, "--mode", "auto", "--input", str(file))
    code, answer = told(*ask, "--hide-input-from", "everyone")
    assert (code, answer["mode"]) == (0, "fhe")
    assert answer["chosen"]
    code, refusal = told(*ask)
    assert (code, refusal["error"]["code"]) == (2, "empty-policy")


def test_a_gateway_that_changes_what_the_receipt_says_was_chosen_is_found(
    owner, diagnosis, rows, monkeypatch
):
    from privacy.client import infer

    honest = infer.verify_receipt

    def forgetful(raw, trusted):
        receipt = honest(raw, trusted)
        receipt.options.clear()
        return receipt

    monkeypatch.setattr(infer, "verify_receipt", forgetful)
    with pytest.raises(VerificationError, match="option mode"):
        owner.infer(
            diagnosis.name,
            rows,
            mode="auto",
            policy=Policy(hide_input_from="everyone"),
        )


@pytest.mark.slow
def test_estimates_are_within_a_factor_of_what_jobs_take(owner, diagnosis):
    """Of the time at the gateway; the machine may be busy, so the factor is wide."""
    for mode in ("fhe", "zkml", "tee"):
        for count in (1, 4, 8, 1, 4, 8, 1, 4, 8):
            owner.infer(diagnosis.name, diagnosis.rows[:count].tolist(), mode=mode)
        (told,) = owner.estimate(diagnosis.name, rows=6, mode=mode)["modes"]
        assert told["basis"] == "measured"
        answer = owner.infer(diagnosis.name, diagnosis.rows[:6].tolist(), mode=mode)
        took = answer.seconds["job"]
        assert told["latency_s"] / 3 < took < told["slow_latency_s"] * 3
        (told_up, told_down) = (told["bytes_up"], told["bytes_down"])
        assert told_up / 1.5 < answer.bytes_up < told_up * 1.5 + 5000
        assert told_down / 1.5 < answer.bytes_down < told_down * 1.5 + 20_000
