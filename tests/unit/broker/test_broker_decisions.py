"""The broker's log: every decision, in order, for good."""

from dataclasses import replace

import pytest

from privacy.broker import Decision, Decisions, decisions
from privacy.errors import FormatError

ONE = Decision(
    at="2026-01-02T03:04:05+00:00",
    model="demo/1",
    model_sha256="ab" * 32,
    released=True,
    code="ok",
    message="",
    ear="e.a.r",
)


def test_decisions_are_kept_in_order_and_for_their_owner_only(tmp_path):
    log = Decisions(tmp_path)
    assert log.all() == []
    second = replace(ONE, model="demo/2", released=False, code="no", message="why")
    for decision in (ONE, second):
        log.add(decision)
    assert Decisions(tmp_path).all() == [ONE, second]
    for name in ("releases", "refusals"):
        assert (tmp_path / f"broker/{name}.jsonl").stat().st_mode & 0o077 == 0


def test_refusals_that_grew_too_many_push_out_their_oldest_and_no_release(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(decisions, "_MAX_BYTES", 600)
    log = Decisions(tmp_path)
    for i in range(9):
        second = f"2026-01-02T03:04:{i:02}+00:00"
        log.add(replace(ONE, model=f"demo/{i}", at=second, released=False))
        log.add(replace(ONE, model=f"good/{i}", at=second))
    kept = [d.model for d in log.all()]
    assert [m for m in kept if m.startswith("good")] == [f"good/{i}" for i in range(9)]
    refused = [m for m in kept if m.startswith("demo")]
    assert refused == [f"demo/{i}" for i in range(9)][-len(refused) :]
    assert 2 <= len(refused) < 9
    assert [m[-1] for m in kept] == sorted(m[-1] for m in kept)


def test_a_damaged_log_says_so(tmp_path):
    Decisions(tmp_path).add(ONE)
    with (tmp_path / "broker/releases.jsonl").open("ab") as file:
        file.write(b'{"at": "now"}\n')
    with pytest.raises(FormatError) as caught:
        Decisions(tmp_path).all()
    assert caught.value.code == "log-damaged"
