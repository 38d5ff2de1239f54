"""A worker handler that does what the input says, to try what engines really do.

The input blob is JSON: `{"do": …, "log": path?, "seconds": s?, "times": n?}`. Each run
adds a line to `log`, so tests can count runs across processes. With `times`, only the
first n runs misbehave. With `keeps`, all but the last n things it loaded are dropped.
"""

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import FormatError


def handler() -> Handler:
    def run(request: Json, progress: Progress) -> Json:
        order = json.loads(Path(request["input"]).read_bytes())
        runs = _note(order)
        if runs <= order.get("times", 1 << 30):
            _obey(order, progress)
        keys = Path(request["keys"]).read_bytes() if request["keys"] else b""
        answer = {"echo": order, "keys_bytes": len(keys), "pid": os.getpid()}
        Path(request["output"]).write_bytes(json.dumps(answer).encode())
        kind = "proof" if request["mode"] == "zkml" else ""
        Path(request["evidence"]).write_bytes(b"fake proof" if kind else b"")
        return {"evidence_kind": kind, "warm": _kept(request, order)}

    return run


_LOADED: list[str] = []


def _kept(request: Json, order: Json) -> list[str]:
    """Return what it has loaded, what was used last at the end."""
    for name in (request["model_sha256"], Path(request["keys"] or "").name):
        if name in _LOADED:
            _LOADED.remove(name)
        if name:
            _LOADED.append(name)
    del _LOADED[: max(0, len(_LOADED) - order.get("keeps", len(_LOADED)))]
    return list(_LOADED)


def _note(order: Json) -> int:
    if "log" not in order:
        return 1
    with Path(order["log"]).open("a+") as log:
        log.write(f"{os.getpid()}\n")
        log.seek(0)
        return len(log.readlines())


def _obey(order: Json, progress: Progress) -> None:
    if order["do"] == "progress":
        for done in range(1, order["total"] + 1):
            progress({"stage": "prove", "done": done, "total": order["total"]})
            time.sleep(order["seconds"])
    else:
        _ORDERS[order["do"]](order)


def _refuse(_order: Json) -> None:
    raise FormatError("the ciphertext is for another model", code="fake-refusal")


def _fail(_order: Json) -> None:
    raise RuntimeError("this message quotes a secret")


_ORDERS: dict[str, Callable[[Json], object]] = {
    "echo": lambda _: None,
    "sleep": lambda order: time.sleep(order["seconds"]),
    "segfault": lambda _: ctypes.string_at(0),
    "be-killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "allocate": lambda order: bytearray(order["bytes"]),
    "refuse": _refuse,
    "fail": _fail,
}
