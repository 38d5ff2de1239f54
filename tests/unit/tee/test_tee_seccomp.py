"""The filter's instructions, run here step by step for both architectures."""

import errno
import struct

import pytest

from privacy.tee import seccomp

PID = 4711
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
X32_BIT = 0x40000000
CLONE_OF_A_THREAD, FORK = 0x3D0F00, 17


def verdict(program, architecture, number, *arguments):
    """Run classic BPF as the kernel does, on one system call."""
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *words)
    steps = list(struct.iter_unpack("HBBI", program))
    at = loaded = 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                loaded &= operand
            case 0x15:
                at += if_true if loaded == operand else if_false
            case 0x35:
                at += if_true if loaded >= operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(code)


@pytest.fixture(params=list(ARCHITECTURES))
def ask(request):
    """Give the verdict on a call, by name, of a filter without files."""
    column = list(ARCHITECTURES).index(request.param)
    numbers = seccomp._numbers(read=True, write=True)
    program = seccomp.program(request.param, read=False, write=False, pid=PID)

    def give(call, *arguments):
        number = call if isinstance(call, int) else numbers[call][column]
        return verdict(program, ARCHITECTURES[request.param], number, *arguments)

    return give


def test_only_listed_calls_pass(ask):
    listed = seccomp._numbers(read=False, write=False).values()
    passed = {number for number in range(1024) if ask(number) == ALLOW}
    assert passed <= {n for pair in listed for n in pair}
    assert len(passed) >= 45
    assert {ask(n) for n in range(435, 2000)} == {ENOSYS}
    assert ask("openat") == ask("unlinkat") == EPERM


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("clone", [CLONE_OF_A_THREAD], [FORK]),
        ("clone", [CLONE_OF_A_THREAD | 1 << 40], [0x800 | 0x100]),
        ("mmap", [0, 4096, 3], [0, 4096, 7]),
        ("mprotect", [0, 4096, 1], [0, 4096, 5]),
        ("prctl", [15], [4]),
        ("prctl", [0x53564D41], [22]),
        ("ioctl", [3, 0x5421], [3, 0x5412]),
        ("fcntl", [3, 4], [3, 8]),
        ("fcntl", [3, 1], [3, 10]),
        ("tgkill", [PID, PID, 6], [PID + 1, PID + 1, 9]),
        ("prlimit64", [0, 7, 0, 8], [0, 7, 8, 0]),
        ("prlimit64", [PID, 7, 0, 8], [PID + 1, 7, 0, 8]),
        ("prlimit64", [0, 7, 0, 8], [0, 7, 1 << 32, 0]),
        ("sendto", [3, 99, 10, 0, 0], [3, 99, 10, 0, 1 << 40, 16]),
    ],
)
def test_some_calls_pass_with_harmless_arguments_only(ask, name, good, bad):
    assert ask(name, *good) == ALLOW
    assert ask(name, *bad) == EPERM


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_calls_of_another_architecture_end_the_process(name):
    program = seccomp.program(name, read=True, write=True, pid=PID)
    for other in {0x40000003, 0x40000028, *ARCHITECTURES.values()}:
        expected = ALLOW if other == ARCHITECTURES[name] else KILL
        number = seccomp._NUMBERS["read"][list(ARCHITECTURES).index(name)]
        assert verdict(program, other, number) == expected


def test_calls_of_x32_are_refused():
    program = seccomp.program("x86_64", read=True, write=True, pid=PID)
    for number in range(600):
        assert verdict(program, 0xC000003E, X32_BIT | number) == ENOSYS


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_files_are_let_through_only_where_granted(name):
    column = list(ARCHITECTURES).index(name)
    for read, write in ((False, False), (True, False), (False, True)):
        program = seccomp.program(name, read=read, write=write, pid=PID)
        opened = seccomp._TO_READ_FILES["openat"][column]
        made = seccomp._TO_WRITE_FILES["mkdirat"][column]
        asked = (verdict(program, ARCHITECTURES[name], n) for n in (opened, made))
        expected = (ALLOW if read or write else EPERM, ALLOW if write else EPERM)
        assert tuple(asked) == expected


def test_a_machine_without_a_list_of_calls_is_an_error(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.restrict(read=False, write=False)
