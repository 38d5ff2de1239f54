"""An audit rebuilds the circuit, and finds every way a publisher may lie about it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from privacy.bundle import Bundle, list_files, open_bundle, write_manifest
from privacy.errors import CannotVerifyError, VerificationError
from privacy.zkml.audit import audit
from privacy.zkml.system import Visibility
from privacy.zkml.visibility import verifier_learns


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(bundle.root, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def signed_again(bundle: Bundle, **params: Any) -> None:
    """Pin whatever lies there now, as a lying publisher would."""
    part = bundle.manifest.modes["zkml"]
    changed = {"zkml": replace(part, params={**part.params, **params})}
    public = frozenset(n for n, e in bundle.manifest.files.items() if e.public)
    files = list_files(bundle.root, public)
    write_manifest(bundle.root, replace(bundle.manifest, modes=changed, files=files))


def test_an_honest_bundle_is_rebuilt_to_the_same_key(bundle: Bundle) -> None:
    stages: list[dict[str, Any]] = []
    found = audit(bundle.root, progress=stages.append)
    names = [c["name"] for c in found["checks"]]
    assert names == ["files", "onnx", "srs", "settings", "verifying key", "answers"]
    vk = bundle.manifest.files["zkml/vk.key"].sha256
    assert vk in found["checks"][4]["detail"]
    assert found["accuracy"]["rows"] == 32
    assert found["accuracy"]["max_error"] < 0.05
    assert stages


def test_public_files_suffice_with_the_model_and_the_srs(
    bundle: Bundle, copied: Bundle, tmp_path: Path
) -> None:
    for name, entry in bundle.manifest.files.items():
        if not entry.public:
            (copied.root / name).unlink()
    zkml = bundle.root / "zkml"
    given = {"onnx": zkml / "model.onnx", "srs": zkml / "kzg.srs"}
    assert len(audit(copied.root, **given)["checks"]) == 6
    for missing in given:
        with pytest.raises(CannotVerifyError) as caught:
            audit(copied.root, **{k: v for k, v in given.items() if k != missing})
        assert caught.value.code == "audit-file-missing"


def test_the_key_of_another_model_is_found(
    copied: Bundle, other_bundle: Bundle
) -> None:
    """The swap that proofs cannot show: all digests fit, the model does not."""
    for name in ("vk.key", "pk.key", "network.ezkl"):
        shutil.copyfile(other_bundle.root / "zkml" / name, copied.root / "zkml" / name)
    signed_again(copied)
    with pytest.raises(VerificationError) as caught:
        audit(copied.root)
    assert caught.value.code == "wrong-verifying-key"


def test_another_onnx_file_is_found(bundle: Bundle, other_bundle: Bundle) -> None:
    with pytest.raises(VerificationError) as caught:
        audit(bundle.root, onnx=other_bundle.root / "zkml/model.onnx")
    assert caught.value.code == "wrong-onnx"


def _flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def _coarser(copied: Bundle) -> None:
    path = copied.root / "zkml/settings.json"
    settings = json.loads(path.read_text())
    settings["run_args"]["decomp_legs"] += 1
    path.write_text(json.dumps(settings))


def _hidden_output(copied: Bundle) -> None:
    path = copied.root / "zkml/settings.json"
    text = path.read_text()
    assert '"output_visibility":"Public"' in text
    old, new = (f'"output_visibility":"{v}"' for v in ("Public", "Private"))
    path.write_text(text.replace(old, new))


def _loosened(copied: Bundle) -> None:
    """Switches of constraints, which no manifest states."""
    path = copied.root / "zkml/settings.json"
    settings = json.loads(path.read_text())
    args = settings["run_args"]
    assert (args["check_mode"], args["rebase_frac_zero_constants"]) == ("UNSAFE", True)
    args["check_mode"] = "SAFE"
    args["ignore_range_check_inputs_outputs"] = True
    args["rebase_frac_zero_constants"] = False
    settings["num_blinding_factors"] = 1
    path.write_text(json.dumps(settings))


def _no_settings(copied: Bundle) -> None:
    (copied.root / "zkml/settings.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda b: _flip(b.root / "zkml/kzg.srs", 200), "wrong-srs"),
        (lambda b: _flip(b.root / "zkml/verifier.srs", 300), "wrong-srs"),
        (_coarser, "wrong-settings"),
        (_hidden_output, "wrong-settings"),
        (_no_settings, "wrong-settings"),
    ],
)
def test_what_is_pinned_but_does_not_fit_is_found(
    copied: Bundle, change: Callable[[Bundle], None], code: str
) -> None:
    change(copied)
    signed_again(copied)
    with pytest.raises(VerificationError) as caught:
        audit(copied.root)
    assert caught.value.code == code


def test_each_switch_that_was_changed_is_named(copied: Bundle) -> None:
    _loosened(copied)
    signed_again(copied)
    with pytest.raises(VerificationError) as caught:
        audit(copied.root)
    changed = (
        "check_mode, ignore_range_check_inputs_outputs, num_blinding_factors, "
        "rebase_frac_zero_constants"
    )
    assert caught.value.code == "wrong-settings"
    assert caught.value.message == f"settings and manifest disagree on {changed}"


def test_nothing_is_said_of_a_key_that_binds_no_weights(copied: Bundle) -> None:
    """Any network of this shape would lead to it."""
    hidden = Visibility(params="private")
    words = verifier_learns(hidden)
    signed_again(copied, visibility=asdict(hidden), verifier_learns=words)
    with pytest.raises(CannotVerifyError, match="--commit model") as caught:
        audit(copied.root)
    assert caught.value.code == "model-hidden"


def test_what_another_release_made_is_not_called_false(copied: Bundle) -> None:
    """It may have written the same model as another circuit."""
    _coarser(copied)
    signed_again(copied)
    manifest = open_bundle(copied.root).manifest
    write_manifest(copied.root, replace(manifest, tool="privacy-compute 0.0.9"))
    with pytest.raises(
        CannotVerifyError, match=r"by privacy-compute 0\.0\.9"
    ) as caught:
        audit(copied.root)
    assert caught.value.code == "other-release"


def test_circuits_of_another_format_are_not_called_false(copied: Bundle) -> None:
    """Two snapshots of one version may write the same model as two circuits."""
    _coarser(copied)
    signed_again(copied, circuit_format=0)
    with pytest.raises(CannotVerifyError, match="circuits of format 0") as caught:
        audit(copied.root)
    assert caught.value.code == "other-release"


def test_a_file_that_is_not_pinned_is_found(copied: Bundle) -> None:
    _flip(copied.root / "zkml/pk.key", 1000)
    with pytest.raises(VerificationError) as caught:
        audit(copied.root)
    assert caught.value.code == "bundle-changed"
