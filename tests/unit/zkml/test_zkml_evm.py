"""Verifier contracts: made offline, checked on a real EVM with real proofs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import zkml_gas
from privacy.bundle import Bundle, open_bundle
from privacy.cli import zk_evm
from privacy.cli.app import run
from privacy.errors import (
    AppraisalError,
    BackendError,
    FormatError,
    NotFoundError,
    UnavailableError,
)
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.evm import (
    EvmFacts,
    build_verifier,
    parse_vka,
    plain_calldata,
    read_facts,
    reusable_calldata,
    solc,
    vka_digest,
)
from privacy.zkml.evm.calldata import call_data
from privacy.zkml.evm.local import (
    LocalEvm,
    Reverted,
    check_plain,
    check_reusable,
    register,
)
from privacy.zkml.field import MODULUS
from privacy.zkml.params import parse_params
from privacy.zkml.tune.cost import expected_gas


@dataclass(frozen=True)
class Built:
    """A model's contracts on disk, and proofs of a job for them."""

    folder: Path
    facts: EvmFacts
    proofs: list[Proof]
    vka: list[bytes]
    stages: list[str]

    def deployed(self, kind: str) -> tuple[LocalEvm, str]:
        evm = LocalEvm()
        address, _ = evm.deploy((self.folder / f"{kind}.bin").read_bytes())
        return evm, address


def _proofs(bundle: Bundle, evidence: bytes) -> list[Proof]:
    params = parse_params(bundle.manifest.modes["zkml"].params)
    claim = parse_evidence(
        evidence, instances=len(params.instances), proof_bytes=params.proof_bytes
    )
    return list(claim.proofs)


@pytest.fixture(scope="module")
def built(bundle: Bundle, job: Any, tmp_path_factory: Any) -> Built:
    folder, stages = tmp_path_factory.mktemp("evm"), []
    facts = build_verifier(
        bundle,
        folder,
        progress=lambda event: stages.append(event["stage"]),
        allow_insecure_srs=True,
    )
    vka = parse_vka((folder / "vka.bin").read_bytes())
    return Built(folder, facts, _proofs(bundle, job.evidence), vka, stages)


def quietly(bundle: Bundle, out: Path) -> EvmFacts:
    return build_verifier(bundle, out, progress=lambda _: None, allow_insecure_srs=True)


def _flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_the_verifiers_are_measured_and_the_plain_one_is_chosen(built, bundle):
    facts = read_facts(built.folder)
    assert facts == built.facts
    assert facts.model_sha256 == bundle.sha256
    assert facts.chosen == "plain"
    assert facts.insecure_srs is True
    assert facts.reusable.runtime_bytes < 11_000
    assert 100_000 < facts.plain.verify_gas < facts.reusable.verify_gas < 1_000_000
    assert 10 * facts.register_gas < facts.plain.deploy_gas
    assert built.stages[0] == "write Solidity"


def test_real_gas_is_what_the_tuner_expects(built):
    hashed = 7  # columns of constants
    expected = expected_gas(len(built.proofs[0].proof), fixed=hashed)
    assert built.facts.plain.verify_gas == pytest.approx(expected, rel=0.08)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
def test_one_reusable_verifier_takes_every_model_of_the_zoo():
    found = zkml_gas.measure(quick=False)
    assert set(found["models"]) == set(zkml_gas.ZOO)
    assert found["reusable_contracts"] == 1
    for one in found["models"].values():
        plain, reusable = one["plain"], one["reusable"]
        assert reusable["runtime_bytes"] < 11_000
        assert reusable["verify_gas"] > 0  # a real proof was accepted
        assert 10 * one["register_gas"] <= plain["deploy_gas"]
        assert plain["verify_gas"] == pytest.approx(one["expected_gas"], rel=0.08)
    assert found["models"]["mlp 30-64-32-1"]["plain"]["verify_gas"] <= 410_000


def test_what_is_deployed_has_the_digest_that_the_facts_give(built):
    for kind, facts in (
        ("plain", built.facts.plain),
        ("reusable", built.facts.reusable),
    ):
        evm, address = built.deployed(kind)
        assert evm.code_hash(address).hex() == facts.code_hash


def test_the_plain_verifier_accepts_a_jobs_proofs(built):
    evm, address = built.deployed("plain")
    for proof in built.proofs:
        assert check_plain(evm, address, proof) > 100_000


def test_the_reusable_verifier_accepts_a_jobs_proofs(built):
    evm, address = built.deployed("reusable")
    assert register(evm, address, built.vka) == built.facts.register_gas
    for proof in built.proofs:
        assert check_reusable(evm, address, proof, built.vka) > 100_000


@pytest.mark.parametrize("kind", ["plain", "reusable"])
def test_a_changed_proof_or_instance_reverts(built, kind):
    evm, address = built.deployed(kind)
    check = check_plain if kind == "plain" else check_reusable
    if kind == "reusable":
        register(evm, address, built.vka)
    good = built.proofs[0]
    hashed, output = good.instances
    size = len(good.proof)
    bad = [Proof(good.instances, _flip(good.proof, at)) for at in range(0, size, 97)]
    bad += [
        Proof(values, good.proof)
        for values in (
            (hashed, output + 1),
            (hashed + 1, output),
            (hashed, output + MODULUS),
            (hashed + MODULUS, output),
            (output, hashed),
            (hashed,),
            (hashed, output, 0),
            built.proofs[1].instances,
        )
    ]
    bad += [Proof(good.instances, good.proof[:-32]), Proof(good.instances, b"")]
    for proof in bad:
        more = [] if kind == "plain" else [built.vka]
        with pytest.raises(Reverted):
            check(evm, address, proof, *more)
    assert len(bad) >= 40


def test_the_reusable_verifier_refuses_what_was_not_registered(built):
    evm, address = built.deployed("reusable")
    with pytest.raises(Reverted):
        check_reusable(evm, address, built.proofs[0], built.vka)
    register(evm, address, built.vka)
    changed = [*built.vka[:-1], _flip(built.vka[-1], 31)]
    with pytest.raises(Reverted):
        check_reusable(evm, address, built.proofs[0], changed)


def test_anyone_may_register_another_artifact_so_the_digest_must_be_pinned(
    built, other_bundle, tmp_path
):
    """The trap that `ProofVerifier` closes: the contract itself does not."""
    facts = quietly(other_bundle, tmp_path)
    vka = parse_vka((tmp_path / "vka.bin").read_bytes())
    evm, address = built.deployed("reusable")
    register(evm, address, vka)
    assert facts.vka_digest == vka_digest(vka).hex() != built.facts.vka_digest
    assert facts.reusable.code_hash == built.facts.reusable.code_hash
    with pytest.raises(Reverted):
        check_reusable(evm, address, built.proofs[0], vka)


def test_public_files_are_enough_and_give_the_same_contracts(built, bundle, tmp_path):
    for name in ("manifest.json", *bundle.manifest.files):
        entry = bundle.manifest.files.get(name)
        if entry is None or entry.public:
            (tmp_path / "public" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.root / name, tmp_path / "public" / name)
    client = open_bundle(tmp_path / "public", check_files=False)
    facts = quietly(client, tmp_path / "out")
    assert facts.plain.code_hash == built.facts.plain.code_hash
    assert facts.vka_digest == built.facts.vka_digest
    assert facts.plain.verify_gas == facts.reusable.verify_gas == 0


def test_a_changed_public_file_makes_no_contract(bundle, tmp_path):
    shutil.copytree(bundle.root, tmp_path / "b")
    key = tmp_path / "b" / "zkml" / "vk.key"
    key.write_bytes(_flip(key.read_bytes(), 100))
    changed = open_bundle(tmp_path / "b", check_files=False)
    with pytest.raises(Exception, match=r"vk\.key is .* the bundle was changed"):
        quietly(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_contracts_that_the_srs_maker_can_deceive_have_to_be_allowed(
    bundle, tmp_path, capsys
):
    arguments = ["zk", "solidity", str(bundle.root), "--out", str(tmp_path / "out")]
    assert run([*arguments, "--json"]) == AppraisalError.exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "insecure-srs"
    assert not (tmp_path / "out").exists()


def test_the_command_solidity_warns_of_an_srs_that_was_allowed(
    bundle, built, tmp_path, capsys, monkeypatch
):
    def made(_bundle, _out, *, allow_insecure_srs, **_how):
        assert allow_insecure_srs
        return built.facts

    monkeypatch.setattr(zk_evm, "build_verifier", made)
    arguments = ["zk", "solidity", str(bundle.root), "--out", str(tmp_path)]
    assert run([*arguments, "--allow-insecure-srs"]) == 0
    assert "can forge proofs" in capsys.readouterr().out


def test_a_wrong_kind_is_refused(bundle, tmp_path):
    with pytest.raises(FormatError, match="expected plain or reusable"):
        build_verifier(bundle, tmp_path, progress=lambda _: None, kind="small")


def test_without_a_compiler_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(solc, "TOOLS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="make contracts-tools"):
        solc.find_solc()


def test_a_compiler_that_does_not_start_is_unavailable(monkeypatch, tmp_path):
    monkeypatch.setenv("PRIVACY_SOLC", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="PRIVACY_SOLC"):
        solc.solc_version()


def test_the_compilers_refusal_is_passed_on():
    with pytest.raises(BackendError, match=r"solc refused: .*ParserError"):
        solc.compile_sources({"a.sol": "contract {"})


def test_calldata_is_the_canonical_encoding(built):
    proof = built.proofs[0]
    plain = plain_calldata(proof)
    assert plain[:4].hex() == "1e8e1e13"  # verifyProof(bytes,uint256[])
    padded = -len(proof.proof) % 32
    assert len(plain) == 4 + 32 * 2 + 32 + len(proof.proof) + padded + 32 * 3
    assert reusable_calldata(proof, built.vka)[-32:] == built.vka[-1]


def test_calldata_refuses_what_does_not_fit():
    with pytest.raises(FormatError, match="does not fit"):
        call_data("f(uint256)", -1)
    with pytest.raises(FormatError, match="does not fit"):
        call_data("f(uint256)", 1, 2)


@pytest.mark.parametrize("cut", [0, 7, 8, 39, -1])
def test_parse_vka_refuses_truncated_artifacts(built, cut):
    raw = (built.folder / "vka.bin").read_bytes()
    with pytest.raises(FormatError, match="artifact"):
        parse_vka(raw[:cut])
    with pytest.raises(FormatError, match="artifact"):
        parse_vka(raw + b"\0")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"chosen":"plain"', '"chosen":"best"'),
        ('"chosen":"plain"', '"chosen":1'),
        ('"register_gas"', '"register"'),
        ("evm/1", "evm/2"),
        ('"runtime_bytes":', '"runtime_bytes":0.5,"x":'),
    ],
)
def test_read_facts_refuses_changed_members(built, tmp_path, old, new):
    text = (built.folder / "evm.json").read_text()
    assert old in text
    (tmp_path / "evm.json").write_text(text.replace(old, new))
    with pytest.raises(FormatError):
        read_facts(tmp_path)


def test_the_command_calldata_prints_what_the_contract_accepts(
    built, bundle, job, tmp_path, capsys
):
    evidence = tmp_path / "evidence"
    evidence.write_bytes(job.evidence)
    common = ["--bundle", str(bundle.root), "--verifier", str(built.folder)]
    assert run(["zk", "calldata", str(evidence), *common, "--row", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    evm, address = built.deployed("plain")
    answer, _ = evm.call(address, bytes.fromhex(printed["calldata"][2:]))
    assert int.from_bytes(answer, "big") == 1
    assert run(["zk", "calldata", str(evidence), *common, "--row", "3", "--json"]) == 2


def test_the_command_calldata_refuses_contracts_of_another_model(
    built, other_bundle, job, tmp_path, capsys
):
    evidence = tmp_path / "evidence"
    evidence.write_bytes(job.evidence)
    common = ["--bundle", str(other_bundle.root), "--verifier", str(built.folder)]
    assert run(["zk", "calldata", str(evidence), *common, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "wrong-verifier"


def test_the_command_solidity_needs_a_model(tmp_path, capsys):
    assert run(["zk", "solidity", str(tmp_path), "--out", str(tmp_path), "--json"]) == 4
    assert NotFoundError.exit_code == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no-bundle"
