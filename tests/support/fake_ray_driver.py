"""A driver without Ray: `python -m tests.support.fake_ray_driver FD LOG MODE …`.

It notes each start in LOG, reports one node, and does what each call says.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    log, mode = Path(sys.argv[2]), sys.argv[3]
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")

    def send(**message: Any) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    if mode == "unreachable":
        send(failed="ConnectionError: nobody is there")
        return
    if mode != "silent":
        send(nodes=[{"id": "n1", "token": os.environ.get("RAY_AUTH_TOKEN_PATH", "")}])
    for line in connection.makefile("rb"):
        call = json.loads(line)
        if call["op"] == "die":
            os._exit(1)
        elif call["op"] == "babble":
            connection.sendall(b"no json\n")
        for message in _answers(call):
            send(id=call["id"], **message)


def _answers(call: dict[str, Any]) -> list[dict[str, Any]]:
    said = {"family": "FormatError", "code": "bad", "message": "no"}
    return {
        "echo": [{"event": {"progress": 1}}, {"result": {"said": call.get("word")}}],
        "refuse": [{"error": said}],
        "lost": [{"error": {**said, "family": "NodeLostError"}}],
    }.get(call["op"], [])


if __name__ == "__main__":
    main()
