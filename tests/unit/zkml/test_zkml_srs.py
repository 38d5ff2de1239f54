"""Where the SRS comes from and what it is called."""

import importlib.util
from pathlib import Path

import pytest

from privacy.child import run_in_child
from privacy.encoding import sha256_file
from privacy.errors import FormatError, NotFoundError
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


def test_a_file_is_public_only_if_its_digest_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = tmp_path / "given.srs", tmp_path / "out.srs"
    maker = _Maker()
    maker.make_development_srs(given, 4)
    facts = srs.obtain_srs(str(given), 3, out, backend=maker)  # type: ignore[arg-type]
    assert (facts.kind, facts.logrows) == ("unlisted", 4)
    monkeypatch.setitem(PUBLIC_SHA256, 4, sha256_file(given))
    facts = srs.obtain_srs(str(given), 3, out, backend=maker)  # type: ignore[arg-type]
    assert facts.kind == "public"


def test_a_download_that_is_not_listed_is_not_called_public(tmp_path: Path) -> None:
    facts = srs.obtain_srs("download", 2, tmp_path / "out", backend=_Maker())  # type: ignore[arg-type]
    assert facts.kind == "unlisted"


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
