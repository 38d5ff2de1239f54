"""Where the SRS comes from and what it is called."""

import importlib.util
from pathlib import Path

import pytest

from privacy.child import run_in_child
from privacy.encoding import sha256_file, sha256_hex
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.zkml import srs
from privacy.zkml.srs_digests import PUBLIC_SHA256


class _Maker:
    """Writes the layout of an SRS with recognisable points; no engine here."""

    made = 0

    def make_development_srs(self, out: Path, logrows: int) -> None:
        self.made += 1
        points = b"".join(i.to_bytes(64, "big") for i in range(1, 1 + (2 << logrows)))
        out.write_bytes(logrows.to_bytes(4, "little") + points + b"t" * 256)

    def download_srs(self, out: Path, logrows: int) -> None:
        self.make_development_srs(out, logrows)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_development_srs_is_made_once_and_says_what_it_is(tmp_path: Path) -> None:
    maker = _Maker()
    for _ in range(2):
        out = tmp_path / "out.srs"
        facts = srs.obtain_srs("development", 3, out, backend=maker)  # type: ignore[arg-type]
        assert (facts.kind, facts.logrows) == ("development", 3)
        assert facts.sha256 == sha256_file(out)
    assert maker.made == 1


def test_a_file_is_public_only_by_its_digest_and_the_verifiers_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = tmp_path / "given.srs", tmp_path / "out.srs"
    maker = _Maker()
    maker.make_development_srs(given, 4)
    facts = srs.obtain_srs(str(given), 3, out, backend=maker)  # type: ignore[arg-type]
    assert (facts.kind, facts.logrows) == ("unlisted", 4)
    monkeypatch.setitem(PUBLIC_SHA256, 4, sha256_file(given))
    assert srs.srs_facts(given, development=False).kind == "unlisted"
    cut = sha256_hex(srs.verifier_srs(given))
    monkeypatch.setattr(srs, "PUBLIC_VERIFIER_SHA256", cut)
    assert srs.srs_facts(given, development=False).kind == "public"
    given.write_bytes(given.read_bytes()[:4] + bytes(given.stat().st_size - 4))
    assert srs.srs_facts(given, development=False).kind == "unlisted"


def test_a_download_that_is_not_listed_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(VerificationError) as caught:
        srs.obtain_srs("download", 2, out, backend=_Maker())  # type: ignore[arg-type]
    assert caught.value.code == "srs-not-listed"
    assert not out.exists()
    assert not list((tmp_path / "cache").rglob("*.srs"))


def test_a_cached_download_is_checked_again_on_every_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, out = _Maker(), tmp_path / "out"
    maker.make_development_srs(out, 2)
    monkeypatch.setitem(PUBLIC_SHA256, 2, sha256_file(out))
    cut = sha256_hex(srs.verifier_srs(out))
    monkeypatch.setattr(srs, "PUBLIC_VERIFIER_SHA256", cut)
    assert srs.obtain_srs("download", 2, out, backend=maker).kind == "public"  # type: ignore[arg-type]
    (cached,) = (tmp_path / "cache").rglob("*.srs")
    raw = bytearray(cached.read_bytes())
    raw[100] ^= 1
    cached.write_bytes(raw)
    with pytest.raises(VerificationError):
        srs.obtain_srs("download", 2, out, backend=maker)  # type: ignore[arg-type]


_FIELD = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47
_G2 = (  # EIP-197
    0x1800DEEF121F1E76426A00665E5C4479674322D4F75EDADD46DEBD5CD992F6ED,
    0x198E9393920D483A7260BFB731FB5D25F1AA493335A9E71297E485B7AEF312C2,
    0x12C85EA5DB8C6DEB4AAB71808DCB408FE3D1E7690C43D37B4CE6CC0166FA7DAA,
    0x090689D0585FF075EC9E99AD690C3395BC4B313370B38EF355ACDADCD122975B,
)
_MINUS_S_G2 = (  # as Solidity verifiers under the ceremony spell it: imaginary first
    0x186282957DB913ABD99F91DB59FE69922E95040603EF44C0BD7AA3ADEEF8F5AC,
    0x17944351223333F260DDC3B4AF45191B856689EDA9EAB5CBCDDBBE570CE860D2,
    0x06D971FF4A7467C3EC596ED6EFC674572E32FD6F52B721F97E35B0B3D3546753,
    0x06ECDB9F9567F59ED2EEE36E1E1D58797FD13CC97FAFC2910F5E8A12F202FA9A,
)


def test_the_pinned_verifiers_part_is_the_ceremonys_point() -> None:
    """Spelled out: generators, and the ceremony's point, on its curve."""
    x1, x0, y1, y0 = _MINUS_S_G2
    s_g2 = (x0, x1, _FIELD - y0, _FIELD - y1)
    assert _on_twist(*s_g2)
    assert _on_twist(*_G2)
    raw = bytes(4) + b"".join(_raw(v) for v in (1, 2, 1, 2, *_G2, *s_g2))
    assert srs.is_public(raw)
    assert not srs.is_public(raw[:-1] + bytes([raw[-1] ^ 1]))
    srs.check_verifier_srs(raw)


def _raw(value: int) -> bytes:
    """Return a coordinate as the file holds it: Montgomery form, little-endian."""
    return (value * 2**256 % _FIELD).to_bytes(32, "little")


def _on_twist(x0: int, x1: int, y0: int, y1: int) -> bool:
    def times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return (
            (a[0] * b[0] - a[1] * b[1]) % _FIELD,
            (a[0] * b[1] + a[1] * b[0]) % _FIELD,
        )

    cube, square = times(times((x0, x1), (x0, x1)), (x0, x1)), times((y0, y1), (y0, y1))
    inverse = pow(82, -1, _FIELD)  # b = 3 / (9 + i)
    b = (27 * inverse, -3 * inverse)
    return square == tuple((c + d) % _FIELD for c, d in zip(cube, b, strict=True))


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    out, maker = tmp_path / "out", _Maker()
    with pytest.raises(NotFoundError):
        srs.obtain_srs(str(tmp_path / "none"), 3, out, backend=maker)  # type: ignore[arg-type]
    small = tmp_path / "small"
    maker.make_development_srs(small, 2)
    with pytest.raises(FormatError) as caught:
        srs.obtain_srs(str(small), 3, out, backend=maker)  # type: ignore[arg-type]
    assert caught.value.code == "srs-too-small"
    for raw in (b"", b"\x03\0\0", small.read_bytes() + b"\0", b"\xff" * 388):
        small.write_bytes(raw)
        with pytest.raises(FormatError) as caught:
            srs.obtain_srs(str(small), 1, out, backend=maker)  # type: ignore[arg-type]
        assert caught.value.code == "bad-srs"
    assert not out.exists()


def test_the_verifiers_part_is_the_first_point_and_the_tail(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    _Maker().make_development_srs(whole, 5)
    first = (1).to_bytes(64, "big")
    assert srs.verifier_srs(whole) == bytes(4) + first + first + b"t" * 256


def test_the_engines_own_file_has_the_layout_we_cut(tmp_path: Path) -> None:
    """The one place that sees EZKL's file here; proofs check the cut in test_verify."""
    whole = tmp_path / "whole.srs"
    target = "zkml_srs_maker:handler"
    (tmp_path / "zkml_srs_maker.py").write_text(
        "from pathlib import Path\n"
        "from privacy.zkml.system import load_backend\n"
        "def handler():\n"
        "    def serve(request, progress):\n"
        "        load_backend().make_development_srs(Path(request['out']), 4)\n"
        "        return {}\n"
        "    return serve\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        run_in_child(target, {"out": str(whole)}, timeout_s=60)
    assert len(srs.verifier_srs(whole)) == 388


def test_the_pinned_digests_are_the_ones_compiled_into_the_engine() -> None:
    spec = importlib.util.find_spec("ezkl")
    assert spec is not None
    assert spec.origin is not None
    (library,) = Path(spec.origin).parent.glob("*.so")
    compiled = library.read_bytes()
    assert sorted(PUBLIC_SHA256) == list(range(1, 27))
    for digest in PUBLIC_SHA256.values():
        assert digest.encode() in compiled
