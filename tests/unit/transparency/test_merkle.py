"""The tree against the published vectors and the RFC's own recursive definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import FormatError, VerificationError
from privacy.transparency.merkle import (
    EMPTY_ROOT,
    append,
    check_consistency,
    check_inclusion,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    range_hash,
    subtrees,
)

# Certificate Transparency's reference tests: eight entries and the root of each size.
ENTRIES = [
    bytes.fromhex(h)
    for h in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 70
LEAVES = [leaf_hash(b"%d" % i) for i in range(MOST)]


def nodes_of(leaves):
    return append(0, {}.__getitem__, leaves)


def root_of(nodes, size):
    return range_hash(nodes.__getitem__, 0, size)


def proof(nodes, ranges):
    return [range_hash(nodes.__getitem__, *r) for r in ranges]


def mth(leaves):
    """RFC 9162, 2.1.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path_of(m, leaves):
    """RFC 9162, 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path_of(m, leaves[:k]), mth(leaves[k:])]
    return [*path_of(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, *, whole=True):
    """RFC 9162, 2.1.4.1, word for word."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


NODES = nodes_of(LEAVES)
SIZED = [root_of(NODES, n) for n in range(MOST + 1)]


def test_roots_are_the_published_ones():
    nodes = nodes_of([leaf_hash(e) for e in ENTRIES])
    assert [root_of(nodes, n).hex() for n in range(9)] == ROOTS
    assert EMPTY_ROOT.hex() == ROOTS[0]


def test_every_inclusion_proof_is_the_rfcs_and_verifies():
    for size in range(1, MOST + 1):
        assert SIZED[size] == mth(LEAVES[:size])
        for index in range(size):
            path = proof(NODES, inclusion_ranges(index, size))
            assert path == path_of(index, LEAVES[:size])
            check_inclusion(
                LEAVES[index], index=index, size=size, path=path, root=SIZED[size]
            )


def test_every_consistency_proof_is_the_rfcs_and_verifies():
    for new in range(1, MOST + 1):
        for old in range(1, new + 1):
            path = proof(NODES, consistency_ranges(old, new))
            assert path == subproof(old, LEAVES[:new])
            check_consistency((old, SIZED[old]), (new, SIZED[new]), path)


def test_appending_asks_only_for_the_complete_subtrees_of_the_old_tree():
    for size in range(MOST):
        kept = {n: h for n, h in NODES.items() if n[1] + 1 << n[0] <= size}
        frontier = {n: kept[n] for n in subtrees(0, size)}
        added = append(size, frontier.__getitem__, LEAVES[size:])
        assert kept | added == NODES


@given(st.data())
def test_a_changed_inclusion_proof_is_refused(data):
    size = data.draw(st.integers(1, MOST))
    index = data.draw(st.integers(0, size - 1))
    path = path_of(index, LEAVES[:size])
    told = {
        "leaf": LEAVES[index],
        "index": index,
        "size": size,
        "path": path,
        "root": SIZED[size],
    }
    what = data.draw(st.sampled_from(["leaf", "index", "path", "root", "shape"]))
    if what == "index":
        told["index"] = data.draw(st.integers(-1, MOST).filter(lambda i: i != index))
    elif what == "shape":
        at = data.draw(st.integers(0, len(path)))
        longer = [*path[:at], LEAVES[0], *path[at:]]
        shorter = path[1:] if path else longer
        told["path"] = data.draw(st.sampled_from([shorter, longer]))
    elif what == "path" and path:
        at = data.draw(st.integers(0, len(path) - 1))
        told["path"] = [*path[:at], flipped(path[at], data), *path[at + 1 :]]
    else:
        which = "root" if what == "path" else what
        told[which] = flipped(told[which], data)
    leaf = told.pop("leaf")
    with pytest.raises(VerificationError) as caught:
        check_inclusion(leaf, **told)
    assert caught.value.code == "not-in-log"


@given(st.data())
def test_a_changed_consistency_proof_is_refused(data):
    new = data.draw(st.integers(2, MOST))
    old = data.draw(st.integers(1, new - 1))
    path = subproof(old, LEAVES[:new])
    before, after = (old, SIZED[old]), (new, SIZED[new])
    what = data.draw(st.sampled_from(["before", "after", "path", "shape", "swapped"]))
    if what == "before":
        before = (old, flipped(SIZED[old], data))
    elif what == "after":
        after = (new, flipped(SIZED[new], data))
    elif what == "path":
        at = data.draw(st.integers(0, len(path) - 1))
        path = [*path[:at], flipped(path[at], data), *path[at + 1 :]]
    elif what == "shape":
        path = data.draw(st.sampled_from([path[1:], [*path, LEAVES[0]], []]))
    else:
        before, after = after, before
    with pytest.raises(VerificationError) as caught:
        check_consistency(before, after, path)
    assert caught.value.code == "log-fork"


def test_two_roots_of_one_size_are_a_fork():
    check_consistency((5, SIZED[5]), (5, SIZED[5]), [])
    with pytest.raises(VerificationError, match="two roots for size 5"):
        check_consistency((5, SIZED[5]), (5, SIZED[6]), [])


def test_an_empty_log_begins_every_other():
    check_consistency((0, EMPTY_ROOT), (7, SIZED[7]), [])
    with pytest.raises(VerificationError):
        check_consistency((0, SIZED[1]), (7, SIZED[7]), [])
    with pytest.raises(VerificationError):
        check_consistency((0, EMPTY_ROOT), (7, SIZED[7]), [LEAVES[0]])


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_there_is_no_proof_of_an_entry_that_is_not_there(index, size):
    with pytest.raises(FormatError, match="there is no entry"):
        inclusion_ranges(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4), (-1, 4)])
def test_there_is_no_proof_from_an_empty_or_larger_log(old, new):
    with pytest.raises(FormatError, match="sizes"):
        consistency_ranges(old, new)


def test_proofs_are_read_from_few_hashes():
    size = (1 << 20) - 1
    for index in (0, 1, size // 2, size - 1):
        reads = [n for r in inclusion_ranges(index, size) for n in subtrees(*r)]
        assert len(reads) <= 40
    reads = [n for r in consistency_ranges(12345, size) for n in subtrees(*r)]
    assert len(reads) <= 40


def flipped(hash_, data):
    at = data.draw(st.integers(0, 255))
    return bytes(b ^ (1 << at % 8 if i == at // 8 else 0) for i, b in enumerate(hash_))
