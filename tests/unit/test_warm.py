"""Loaded things stay while the process's measured memory allows it."""

from privacy.warm import Warm, resident_bytes


class Memory:
    """A process whose resident memory a test decides."""

    def __init__(self):
        self.bytes, self.loaded = 0, []

    def load(self, name, size):
        def loads():
            self.loaded.append(name)
            self.bytes += size
            return name

        return loads


def keep(warm, key, load, *, like="key"):
    return warm.get(key, load, name=str(key), like=like, guess=1)


def test_the_least_recently_used_goes_first_and_the_last_used_stays():
    memory = Memory()
    warm = Warm(100, resident=lambda: memory.bytes)
    for name in "abcab":
        assert keep(warm, name, memory.load(name, 10), like="x") == name
        warm.settle()
    assert memory.loaded == ["a", "b", "c"]
    memory.bytes = 1000  # whatever is dropped, it stays over the budget
    warm.settle()
    assert warm.names() == ["b"]
    keep(warm, "b", memory.load("b", 10), like="x")
    assert memory.loaded == ["a", "b", "c"]


def test_room_is_made_before_loading_by_what_was_measured():
    """The first of a kind is guessed; those after it are known."""
    memory = Memory()
    warm = Warm(100, resident=lambda: memory.bytes)
    keep(warm, "a", memory.load("a", 10))
    memory.bytes += 30  # it unpacked when it was first used
    warm.settle()
    keep(warm, "b", memory.load("b", 10))
    memory.bytes += 30
    warm.settle()
    assert len(warm) == 2
    keep(warm, "c", memory.load("c", 10))  # 80 + 40 is too much
    assert len(warm) == 1


def test_a_load_that_fails_is_not_remembered():
    warm = Warm(1 << 40)

    def fail():
        raise ValueError

    for _ in range(2):
        try:
            keep(warm, "a", fail)
        except ValueError:
            continue
    assert len(warm) == 0
    assert keep(warm, "a", lambda: 7) == 7


def test_dropped_memory_is_given_back_to_the_system():
    warm, size = Warm(resident_bytes() + (64 << 20)), 1 << 20
    for i in range(8):
        keep(warm, i, lambda: [bytes([1]) * size for _ in range(48)])
        warm.settle()
    assert len(warm) <= 2
    assert resident_bytes() < warm._budget_bytes + (64 << 20)
