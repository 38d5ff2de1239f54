"""Handlers for child processes that misbehave on command."""

import os
import signal
import sys
import time

from privacy.errors import FormatError


def handler():
    return serve


def babbler():
    return babble


def babble(request, progress):
    os.write(int(sys.argv[2]), request["line"].encode() + b"\n")
    return {"answer": "of the call that babbled"}


def serve(request, progress):
    what = request["do"]
    if what == "echo":
        names = sorted(os.environ)
        return {"echo": request["value"], "pid": os.getpid(), "names": names}
    if what == "progress":
        for i in range(3):
            progress({"done": i})
        return {}
    if what == "typed":
        raise FormatError("bad value", code="special")
    if what == "secret":
        raise RuntimeError(f"could not parse {request['value']}")
    if what == "exit":
        os._exit(3)
    if what == "sleep":
        time.sleep(60)
    os.kill(os.getpid(), getattr(signal, what))
    return {}
