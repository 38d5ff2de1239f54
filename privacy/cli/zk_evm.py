"""Commands that bring proofs to smart contracts: zk solidity, zk calldata."""

from pathlib import Path
from typing import Annotated

import typer

from privacy.bundle import open_bundle
from privacy.cli.accepting import AllowInsecureSrs
from privacy.cli.app import AsJson, command
from privacy.cli.output import out, print_json, progress, safe, table
from privacy.encoding import sha256_hex
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.evm import (
    EvmFacts,
    build_verifier,
    parse_vka,
    plain_calldata,
    read_facts,
    reusable_calldata,
)
from privacy.zkml.params import parse_params


@command("zk solidity")
def solidity(
    bundle: Annotated[Path, typer.Argument(help="The model's folder.")],
    folder: Annotated[Path, typer.Option("--out", help="Where to write.")],
    kind: Annotated[str, typer.Option(help="plain or reusable; else by size.")] = "",
    allow_insecure_srs: AllowInsecureSrs = False,
    as_json: AsJson = False,
) -> None:
    """Make the contracts that check a model's proofs on chain, on this machine."""
    with progress(quiet=as_json) as notify:
        facts = build_verifier(
            open_bundle(bundle, check_files=False),
            folder,
            progress=notify,
            kind=kind,
            allow_insecure_srs=allow_insecure_srs,
        )
    if as_json:
        print_json({**facts.to_json(), "folder": str(folder)})
        return
    rows = [
        [
            name,
            f"{part.runtime_bytes:,}",
            _gas(part.deploy_gas),
            _gas(part.verify_gas),
            "chosen" if facts.chosen == name else "",
        ]
        for name, part in (("plain", facts.plain), ("reusable", facts.reusable))
    ]
    table("", ["contract", "bytes", "gas to deploy", "gas a proof", ""], rows)
    out.print(f"adding a model to the reusable one: {_gas(facts.register_gas)} gas")
    if facts.insecure_srs:
        out.print(
            "[bold yellow]caveat[/] the SRS is not of a public ceremony: whoever made "
            "it can forge proofs that these contracts accept",
            soft_wrap=True,
        )
    out.print(f"[dim]solc {safe(facts.compiler)}; files in {safe(folder)}[/]")


def _gas(amount: int) -> str:
    return f"{amount:,}" if amount else "not measured"


@command("zk calldata")
def calldata(
    evidence: Annotated[
        Path, typer.Argument(help="The proofs, as kept beside a receipt.")
    ],
    bundle: Annotated[Path, typer.Option(help="The model's folder.")],
    verifier: Annotated[Path, typer.Option(help="What `privacy zk solidity` wrote.")],
    row: Annotated[int, typer.Option(min=1, help="Which row's proof.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print the call that has a verifier contract check a proof."""
    model = open_bundle(bundle, check_files=False)
    params = parse_params(model.manifest.mode(Mode.ZKML).params)
    proofs = parse_evidence(
        evidence.read_bytes(),
        instances=len(params.instances),
        proof_bytes=params.proof_bytes,
    ).proofs
    if row > len(proofs):
        raise FormatError(f"there is no row {row}: the evidence has {len(proofs)}")
    facts = read_facts(verifier)
    if facts.model_sha256 != model.sha256:
        msg = (
            f"the contracts in {verifier} are of model {facts.model_sha256[:12]}…, not "
            f"{model.sha256[:12]}…: run `privacy zk solidity` for this one"
        )
        raise FormatError(msg, code="wrong-verifier")
    made = _encode(proofs[row - 1], facts, verifier)
    if as_json:
        print_json(
            {
                "kind": facts.chosen,
                "calldata": "0x" + made.hex(),
                "sha256": sha256_hex(made),
                "bytes": len(made),
                "instances": [str(v) for v in proofs[row - 1].instances],
            }
        )
    else:
        typer.echo("0x" + made.hex())


def _encode(proof: Proof, facts: EvmFacts, folder: Path) -> bytes:
    if facts.chosen == "plain":
        return plain_calldata(proof)
    vka = parse_vka((folder / "vka.bin").read_bytes())
    return reusable_calldata(proof, vka)
