import json
import os
import select
import time

import pytest

from privacy.child import Child, ChildDied, run_in_child
from privacy.errors import BackendError, FormatError

TARGET = "tests.support.child_handlers:handler"


@pytest.fixture
def child(repository_on_path):
    with Child(TARGET, env=repository_on_path) as running:
        yield running


def test_a_child_answers_in_another_process_and_stays_warm(child):
    first = child.call({"do": "echo", "value": [1, "é"]})
    again = child.call({"do": "echo", "value": 2})
    assert first["echo"] == [1, "é"]
    assert first["pid"] == again["pid"] == child.pid != os.getpid()


def test_a_child_gets_no_secret_of_its_parents_environment(
    repository_on_path, monkeypatch
):
    secrets = {
        "PRIVACY_API_KEY",
        "PRIVACY_GATEWAY_DATABASE_URL",
        "PRIVACY_PASSPHRASE",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
    }
    for name in (*secrets, "PRIVACY_HOME", "LANG"):
        monkeypatch.setenv(name, "something")
    with Child(TARGET, env={**repository_on_path, "ADDED_TOKEN": "x"}) as running:
        names = set(running.call({"do": "echo", "value": 0})["names"])
    assert not secrets & names
    assert {"PRIVACY_HOME", "LANG", "ADDED_TOKEN"} <= names


def test_progress_arrives_in_order(child):
    seen = []
    child.call({"do": "progress"}, progress=seen.append)
    assert seen == [{"done": 0}, {"done": 1}, {"done": 2}]


def test_a_typed_error_arrives_as_itself_and_the_child_lives(child):
    with pytest.raises(FormatError, match="bad value") as caught:
        child.call({"do": "typed"})
    assert caught.value.code == "special"
    assert child.alive


def test_an_engines_own_message_is_not_passed_on(child):
    with pytest.raises(BackendError) as caught:
        child.call({"do": "secret", "value": "patient 17"})
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGILL"])
def test_a_crash_is_told_from_a_kill(child, name):
    with pytest.raises(ChildDied, match=name) as caught:
        child.call({"do": name})
    assert caught.value.by_itself


def test_a_kill_is_told_from_a_crash(child):
    with pytest.raises(ChildDied, match="SIGKILL") as caught:
        child.call({"do": "SIGKILL"})
    assert not caught.value.by_itself


def test_an_exit_is_a_death(child):
    with pytest.raises(ChildDied, match="status 3"):
        child.call({"do": "exit"})


def test_a_call_past_its_time_is_ended(child):
    started = time.monotonic()
    with pytest.raises(ChildDied, match="SIGKILL"):
        child.call({"do": "sleep"}, timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_a_child_ends_with_its_parent(child):
    pid = child.pid
    child._socket.close()
    child._lines.close()
    child._process.wait(10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_ends_with_a_parent_that_never_read_its_answer(child):
    request = {"id": 1, "request": {"do": "echo", "value": 1}}
    child._socket.sendall(json.dumps(request).encode() + b"\n")
    assert select.select([child._socket], [], [], 20)[0]  # answered, and left unread
    child._lines.close()
    child._socket.close()
    assert child._process.wait(10) == 0


def test_a_missing_engine_says_so():
    with pytest.raises(BackendError, match="not installed"):
        run_in_child("no.such.module:handler", {}, timeout_s=30)


@pytest.fixture
def babbler(repository_on_path):
    target = "tests.support.child_handlers:babbler"
    with Child(target, env=repository_on_path) as running:
        yield running


@pytest.mark.parametrize(
    "line",
    ["not JSON", "[]", "{}", '{"id": 1}', '{"id": 7, "result": {}}', '{"result": {}}'],
)
def test_a_child_that_babbles_is_ended(babbler, line):
    with pytest.raises(ChildDied):
        babbler.call({"line": line})
    assert not babbler.alive


def test_what_a_child_says_late_answers_no_later_call(babbler):
    early = '{"id": 1, "result": {"answer": "early"}}'
    assert babbler.call({"line": early}) == {"answer": "early"}
    with pytest.raises(ChildDied):
        babbler.call({"line": '{"id": 2, "progress": {}}'})


def test_a_caller_that_stops_listening_ends_the_child(child):
    def stop_listening(_):
        raise KeyError("listener")

    with pytest.raises(KeyError):
        child.call({"do": "progress"}, progress=stop_listening)
    with pytest.raises(ChildDied):
        child.call({"do": "echo", "value": 2})
