"""Attempts to get out of the enclave's sandbox; see `sandbox_probes`."""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
from pathlib import Path

from privacy.tee.kernel import call, prctl

X86 = platform.machine() == "x86_64"
# x86-64's numbers and the generic ones, which aarch64 has.
NUMBERS = {
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clone": (56, 220),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "add_key": (248, 217),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "setns": (308, 268),
    "tgkill": (234, 131),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
}
MEMORY_BYTES = 256 << 20
PTRACE_SEIZE = 0x4206
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
ATTEMPTS = {}


LANDLOCKED = (
    "read_a_file",
    "make_a_file",
    "list_a_folder",
    "make_a_folder",
    "make_a_link",
    "run_a_program",
    "listen_on_a_port",
    "connect_to_an_abstract_socket",
    "signal_a_neighbour",
)
"""What Landlock denies by itself, on Linux 6.12 or newer."""


class Scene:
    """What lies ready before the sandbox closes."""

    def __init__(self, folder, neighbour, abstract):
        self.folder, self.neighbour = folder, neighbour
        self.abstract = abstract.getsockname()
        self.file = (folder / "open").open("wb", buffering=0)
        self.unix, self.other_unix = socket.socketpair()
        self.namespace = os.open("/proc/self/ns/uts", os.O_RDONLY)
        self.page = mmap.mmap(-1, 4096, prot=7)
        self.memfd = os.memfd_create("program")
        os.write(self.memfd, Path("/bin/true").read_bytes())
        self.memory = ctypes.create_string_buffer(64)

    def prepare(self):
        """Open what only one process can use."""
        self.stream = socket.socket(socket.AF_UNIX)
        self.tcp = socket.socket(socket.AF_INET)


def attempt(function):
    """Register an attempt; it fails by raising OSError, or by ending the process."""
    ATTEMPTS[function.__name__] = function
    return function


def raw(name, *arguments):
    return call(NUMBERS[name][0 if X86 else 1], *arguments)


def address(block):
    return ctypes.addressof(block)


@attempt
def read_a_file(_):
    Path("/etc/passwd").read_bytes()


@attempt
def make_a_file(scene):
    (scene.folder / "made").write_bytes(b"")


@attempt
def grow_an_open_file(scene):
    scene.file.write(b"leak")


@attempt
def list_a_folder(_):
    list(Path("/").iterdir())


@attempt
def look_whether_a_file_exists(_):
    Path("/etc/passwd").stat()


@attempt
def open_a_file_by_openat2(_):
    how = (ctypes.c_uint64 * 3)()
    path = ctypes.create_string_buffer(b"/etc/passwd")
    os.close(raw("openat2", -100, address(path), address(how), 24))


@attempt
def make_a_folder(scene):
    (scene.folder / f"folder{os.getpid()}").mkdir()


@attempt
def make_a_link(scene):
    link = scene.folder / f"link{os.getpid()}"
    link.symlink_to("/etc/passwd")


@attempt
def change_a_files_mode(scene):
    scene.folder.chmod(0o777)


@attempt
def open_a_socket(_):
    socket.socket(socket.AF_INET).close()


@attempt
def open_a_netlink_socket(_):
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


@attempt
def make_a_pair_of_sockets(_):
    for end in socket.socketpair():
        end.close()


@attempt
def connect_to_an_abstract_socket(scene):
    scene.stream.connect(scene.abstract)


@attempt
def listen_on_a_port(scene):
    scene.tcp.bind(("127.0.0.1", 0))
    scene.tcp.listen()


@attempt
def hand_over_a_descriptor(scene):
    socket.send_fds(scene.unix, [b"x"], [scene.file.fileno()])


@attempt
def ask_for_the_machines_network(scene):
    names = ctypes.create_string_buffer(16)
    ioctl_list_interfaces = 0x8912
    call(16 if X86 else 29, scene.tcp.fileno(), ioctl_list_interfaces, address(names))


@attempt
def run_a_program(_):
    os.execv("/bin/true", ["true"])


@attempt
def run_a_program_from_memory(scene):
    arguments = (ctypes.c_char_p * 2)(b"true", None)
    empty, none = ctypes.create_string_buffer(b""), (ctypes.c_char_p * 1)(None)
    at_empty_path = 0x1000
    raw(
        "execveat",
        scene.memfd,
        address(empty),
        address(arguments),
        address(none),
        at_empty_path,
    )


@attempt
def make_a_file_in_memory(_):
    name = ctypes.create_string_buffer(b"x")
    os.close(raw("memfd_create", address(name), 0))


@attempt
def fork(_):
    reap(os.fork())


@attempt
def fork_by_clone(_):
    reap(raw("clone", signal.SIGCHLD, 0, 0, 0, 0))


@attempt
def fork_by_clone3(_):
    arguments = (ctypes.c_uint64 * 8)()
    arguments[4] = signal.SIGCHLD
    reap(raw("clone3", address(arguments), 64))


@attempt
def trace_a_neighbour(scene):
    raw("ptrace", PTRACE_SEIZE, scene.neighbour, 0, 0)


@attempt
def read_a_neighbours_memory(scene):
    peek(scene.neighbour, scene.memory, "process_vm_readv")


@attempt
def write_a_neighbours_memory(scene):
    peek(scene.neighbour, scene.memory, "process_vm_writev")


@attempt
def open_a_neighbours_memory(scene):
    os.close(os.open(f"/proc/{scene.neighbour}/mem", os.O_RDONLY))


@attempt
def signal_a_neighbour(scene):
    os.kill(scene.neighbour, signal.SIGCONT)


@attempt
def signal_a_neighbours_thread(scene):
    raw("tgkill", scene.neighbour, scene.neighbour, signal.SIGCONT)


@attempt
def signal_its_parent(_):
    os.kill(os.getppid(), 0)


@attempt
def get_a_handle_of_a_neighbour(scene):
    os.close(os.pidfd_open(scene.neighbour))


@attempt
def change_a_neighbours_limits(scene):
    _, hard = resource.prlimit(scene.neighbour, resource.RLIMIT_CORE)
    resource.prlimit(scene.neighbour, resource.RLIMIT_CORE, (0, hard))


@attempt
def set_up_io_uring(_):
    parameters = ctypes.create_string_buffer(120)
    os.close(raw("io_uring_setup", 1, address(parameters)))


@attempt
def mount_a_file_system(scene):
    enter_namespaces()
    target = ctypes.create_string_buffer(os.fsencode(scene.folder))
    kind = ctypes.create_string_buffer(b"tmpfs")
    raw("mount", address(kind), address(target), address(kind), 0, 0)


@attempt
def make_a_user_namespace(_):
    raw("unshare", CLONE_NEWUSER)


@attempt
def change_the_root_folder(scene):
    enter_namespaces()
    root = ctypes.create_string_buffer(os.fsencode(scene.folder))
    raw("chroot", address(root))


@attempt
def use_ebpf(_):
    attributes = (ctypes.c_uint32 * 20)(2, 4, 4, 1)  # a map: array, key, value, entries
    os.close(raw("bpf", 0, address(attributes), 80))


@attempt
def handle_its_own_page_faults(_):
    user_mode_only = 1
    os.close(raw("userfaultfd", user_mode_only))


@attempt
def watch_files(_):
    os.close(raw("inotify_init1", 0))


@attempt
def keep_something_in_the_kernels_keyring(_):
    kind, name = (ctypes.create_string_buffer(b) for b in (b"user", b"leak"))
    process_keyring = -2
    raw("add_key", address(kind), address(name), address(name), 4, process_keyring)


@attempt
def change_its_personality(_):
    raw("personality", 0x0040000)  # ADDR_NO_RANDOMIZE


@attempt
def become_dumpable_again(_):
    prctl(4, 1)


@attempt
def make_executable_memory(_):
    mmap.mmap(-1, 4096, prot=7).close()


@attempt
def make_memory_executable(scene):
    at = ctypes.addressof(ctypes.c_char.from_buffer(scene.page))
    call(10 if X86 else 226, at, 4096, 5)


@attempt
def use_the_calls_of_i386(scene):
    """Ask for getpid by the gate of 32-bit programs, from a page made before."""
    if not X86:
        raise OSError(errno.EOPNOTSUPP, "")
    machine_code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    scene.page[: len(machine_code)] = machine_code
    at = ctypes.addressof(ctypes.c_char.from_buffer(scene.page))
    if ctypes.CFUNCTYPE(ctypes.c_int)(at)() != os.getpid():
        raise OSError(errno.ENOSYS, "")


@attempt
def take_more_memory_than_it_may(_):
    try:
        block = bytearray(2 * MEMORY_BYTES)
    except MemoryError:
        raise OSError(errno.ENOMEM, "") from None
    del block


def enter_namespaces():
    if os.geteuid() != 0:
        raw("unshare", CLONE_NEWUSER)
    raw("unshare", CLONE_NEWNS)


def peek(pid, remote, name):
    local = ctypes.create_string_buffer(len(remote))
    mine = (ctypes.c_uint64 * 2)(address(local), len(local))
    theirs = (ctypes.c_uint64 * 2)(address(remote), len(remote))
    raw(name, pid, address(mine), 1, address(theirs), 1, 0)


def reap(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
