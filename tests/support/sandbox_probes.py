"""Attempts to get out of the enclave's sandbox, each in a process of its own.

    python -S -P sandbox_probes.py FOLDER

Every attempt is made twice, in a process as it is and in one that `harden` was applied
to. Prints one JSON object: by attempt, what came of it without and with the sandbox:
"done", the name of an errno, or the name of the signal that ended the process. Attempts
of peers on an enclave, and `harden` on lesser kernels, follow.

What a real attacker would have open by the time the sandbox closes (sockets, a page to
run code from, the pid of a neighbour) is prepared first, so that the attempt itself is
what is denied.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from sandbox_attempts import (
    ATTEMPTS,
    LANDLOCKED,
    MEMORY_BYTES,
    PTRACE_SEIZE,
    Scene,
    peek,
    raw,
)

from privacy.errors import BackendError
from privacy.tee import landlock, seccomp
from privacy.tee.harden import Limits, Sandbox, harden
from privacy.tee.kernel import prctl

# From outside: a peer of the same user, without privileges.


def peer_traces_it(target, _):
    raw("ptrace", PTRACE_SEIZE, target, 0, 0)


def peer_reads_its_memory(target, remote):
    peek(target, remote, "process_vm_readv")


def peer_opens_its_memory(target, _):
    os.close(os.open(f"/proc/{target}/mem", os.O_RDONLY))


def peer_lists_its_descriptors(target, _):
    list(Path(f"/proc/{target}/fd").iterdir())


def peer_takes_its_descriptor(target, _):
    handle = os.pidfd_open(target)
    os.close(raw("pidfd_getfd", handle, 0, 0))


PEERS = {
    function.__name__: function
    for function in (
        peer_traces_it,
        peer_reads_its_memory,
        peer_opens_its_memory,
        peer_lists_its_descriptors,
        peer_takes_its_descriptor,
    )
}
UNPRIVILEGED = 0x60000000


def leave_root(user):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        prctl(4, 1)  # the change of user made it undumpable


def child(function):
    """Run in a forked process; return what came of it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.set_inheritable(write, False)  # noqa: FBT003
        outcome = b"done"
        try:
            function()
        except OSError as exc:
            outcome = errno.errorcode[exc.errno].encode()
        except BaseException as exc:  # noqa: BLE001 - reported
            outcome = str(exc.args[-1]).encode()
        os.write(write, outcome)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return text or "done"  # a program took its place


def inside(function, scene, *, sandboxed):
    def run():
        scene.prepare()
        if sandboxed:
            harden(limits=Limits(memory_bytes=MEMORY_BYTES))
        function(scene)

    return child(run)


def target_process(*, sandboxed):
    """Start a process to be attacked; return its pid once it is ready."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            prctl(0x59616D61, -1)  # where Yama is: let peers trace it
        if sandboxed:
            harden()
        else:
            leave_root(UNPRIVILEGED)
        os.write(write, b"1")
        while True:
            time.sleep(60)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        if pipe.read(1) != b"1":
            raise SystemExit("the process to attack did not start")
    return pid


def outside(function, *, sandboxed):
    memory = ctypes.create_string_buffer(b"a key of the enclave")
    target = target_process(sandboxed=sandboxed)
    status = Path(f"/proc/{target}/status").read_text()
    user = int(status.split("Uid:")[1].split()[0])

    def attack():
        leave_root(user)
        function(target, memory)

    try:
        return child(attack)
    finally:
        os.kill(target, signal.SIGKILL)
        os.waitpid(target, 0)


def lacking(*layers):
    """Take away what `harden` asks of the kernel, as on an older one."""

    def refuse(**_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for layer in layers:
        layer.restrict = refuse


def on_a_kernel_without(*layers, allow_weaker_sandbox):
    """Return how `harden` ends there: the error's code, or what was applied."""

    def refused():
        lacking(*layers)
        try:
            hardened = harden(limits=Limits(allow_weaker_sandbox=allow_weaker_sandbox))
        except BackendError as exc:
            raise RuntimeError(exc.code, exc.message) from None
        raise RuntimeError(json.dumps(hardened.policy))

    return child(refused)


def by_landlock_alone(function, scene):
    def run():
        scene.prepare()
        lacking(seccomp)
        harden(limits=Limits(allow_weaker_sandbox=True))
        function(scene)

    return child(run)


def with_grants(function, scene):
    """Run in a process that may read one folder and write another."""
    read, write = scene.folder / "readable", scene.folder / "writable"
    for folder in (read, write):
        folder.mkdir()
        (folder / "file").write_bytes(b"content")

    def run():
        sandbox = Sandbox(
            read={"readable": read},
            write={"writable": write},
            file_bytes=1 << 10,
            keeps_user=True,
        )
        harden(sandbox)
        function(scene)

    try:
        return child(run)
    finally:
        shutil.rmtree(read)
        shutil.rmtree(write)


def read_what_is_granted(scene):
    for name in ("readable", "writable"):
        assert (scene.folder / name / "file").read_bytes() == b"content"


def write_what_is_granted(scene):
    folder = scene.folder / "writable"
    (folder / "new").mkdir()
    (folder / "new" / "file").write_bytes(b"x")
    (folder / "new" / "file").unlink()
    (folder / "new").rmdir()


def write_what_is_only_readable(scene):
    (scene.folder / "readable" / "file").write_bytes(b"x")


def read_beside_what_is_granted(scene):
    (scene.folder / "open").read_bytes()


def write_more_than_is_granted(scene):
    (scene.folder / "writable" / "file").write_bytes(bytes(2 << 10))


def run_a_program_from_a_granted_folder(scene):
    os.execv(scene.folder / "writable" / "file", ["file"])


GRANTS = {
    function.__name__: function
    for function in (
        read_what_is_granted,
        write_what_is_granted,
        write_what_is_only_readable,
        read_beside_what_is_granted,
        write_more_than_is_granted,
        run_a_program_from_a_granted_folder,
    )
}


def main(folder):
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(b"")  # the kernel names it
        abstract.listen()
        neighbour = os.fork()
        if neighbour == 0:
            while True:
                time.sleep(60)
        try:
            found = outcomes(Scene(folder, neighbour, abstract))
            sys.stdout.write(json.dumps(found))
        finally:
            os.kill(neighbour, signal.SIGKILL)
            os.waitpid(neighbour, 0)


def outcomes(scene):
    both = (False, True)
    return {
        "attempts": {
            name: [inside(f, scene, sandboxed=yes) for yes in both]
            for name, f in ATTEMPTS.items()
        },
        "peers": {
            name: [outside(f, sandboxed=yes) for yes in both]
            for name, f in PEERS.items()
        },
        "landlock": {n: by_landlock_alone(ATTEMPTS[n], scene) for n in LANDLOCKED},
        "grants": {name: with_grants(f, scene) for name, f in GRANTS.items()},
        "lacking": {
            f"{name}, {'allowed' if yes else 'strict'}": on_a_kernel_without(
                layer, allow_weaker_sandbox=yes
            )
            for name, layer in (("landlock", landlock), ("seccomp", seccomp))
            for yes in both
        },
        "capabilities": child(show_capabilities_of_a_kept_user),
        "missing": child(harden_with_a_missing_folder),
        "threads": child(harden_with_a_second_thread),
    }


def show_capabilities_of_a_kept_user():
    status = os.open("/proc/self/status", os.O_RDONLY)
    harden(Sandbox(keeps_user=True))
    lines = os.read(status, 1 << 14).decode().splitlines()
    raise RuntimeError(next(line for line in lines if line.startswith("CapEff")))


def harden_with_a_missing_folder():
    sandbox = Sandbox(read={"gone": Path("/no/such/folder")})
    try:
        harden(sandbox, Limits(allow_weaker_sandbox=True))
    except BackendError as exc:
        raise RuntimeError(exc.code, exc.message) from None


def harden_with_a_second_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    try:
        harden()
    except BackendError as exc:
        raise RuntimeError(exc.code, exc.message) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
