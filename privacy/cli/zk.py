"""Commands about proofs: zk verify, zk prove, zk audit, zk srs, zk tune."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.accepting import AllowInsecureSrs
from privacy.cli.app import AsJson, Commit, Hide, HomeDir, Salt, Show, command
from privacy.cli.output import duration, out, print_json, progress, safe, size, table
from privacy.client.home import Home
from privacy.client.proofs import ProvenAnswer, prove_file, verify_proof_file
from privacy.encoding import Json, b64url, check_sha256, sha256_hex
from privacy.errors import FormatError
from privacy.files import default_home, write_atomic

SaltFile = Annotated[
    Path | None,
    typer.Option(help="File with the job's salt, in base64url; else PROOF.salt."),
]


_MAX_SALT_BYTES = 1024


@command("zk verify")
def verify(
    proof: Annotated[Path, typer.Argument(help="A job's evidence.json, or the like.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The model's folder, if it is not fetched.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="SHA-256 of the model it must be of.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="The raw rows that the proofs must be about."),
    ] = None,
    salt_file: SaltFile = None,
    allow_insecure_srs: AllowInsecureSrs = False,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Check proofs offline and print what they prove: exit 6 false, 7 cannot say."""
    _need_file(proof)
    if input_ is not None:
        _need_file(input_)
    with progress(quiet=as_json) as notify:
        notify({"stage": "verify proofs"})
        answer = verify_proof_file(
            proof,
            home=Home(home or default_home()),
            bundle=bundle,
            model_sha256=None if model is None else check_sha256(model),
            rows=input_,
            salt=_salt_of(salt_file),
            allow_insecure_srs=allow_insecure_srs,
        )
    if as_json:
        print_json(answer.as_dict())
    else:
        _print_proven(answer)


@command("zk prove")
def prove(
    bundle: Annotated[Path, typer.Argument(help="The publisher's whole folder.")],
    input_: Annotated[Path, typer.Option("--input", help="Raw rows to prove about.")],
    out_: Annotated[Path, typer.Option("--out", help="Where the proofs go.")],
    salt_file: SaltFile = None,
    as_json: AsJson = False,
) -> None:
    """Prove here: the input never leaves, the proofs are for `zk verify` by anyone."""
    _need_file(input_)
    with progress(quiet=as_json) as notify:
        made, used = prove_file(
            bundle, input_, salt=_salt_of(salt_file), progress=notify
        )
    write_atomic(out_, made)
    if used:
        path = out_.with_name(f"{out_.name}.salt")
        write_atomic(path, b64url(used).encode(), private=True)
    if as_json:
        print_json(
            {"proofs": str(out_), "bytes": len(made), "sha256": sha256_hex(made)}
        )
    else:
        out.print(f"{safe(out_)}: {size(len(made))}; check with `privacy zk verify`")


def _salt_of(file: Path | None) -> bytes | None:
    from privacy.zkml.blobs import parse_salt

    if file is None:
        return None
    _need_file(file)
    with file.open("rb") as opened:
        text = opened.read(_MAX_SALT_BYTES).decode("ascii", "replace")
    return parse_salt(text.strip())


def _print_proven(answer: ProvenAnswer) -> None:
    width = len(answer.rows[0].outputs)
    columns = ["row", "answer", *(f"output {i + 1}" for i in range(width))]
    rows = [
        [str(i), r.label, *(f"{v:.6g}" for v in r.outputs)]
        for i, r in enumerate(answer.rows, start=1)
    ]
    table(f"proven of {answer.model}", columns, rows)
    for caveat in answer.caveats:
        out.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
    for check in answer.checks:
        line = f"[green]verified[/] {check.name}: {safe(check.detail)}"
        out.print(line, soft_wrap=True)


@command("zk audit")
def audit(
    bundle: Annotated[Path, typer.Argument(help="A published model's folder.")],
    onnx: Annotated[
        Path | None, typer.Option(help="The model, where the bundle lacks it.")
    ] = None,
    srs: Annotated[
        Path | None, typer.Option(help="The prover's SRS, where the bundle lacks it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a circuit from its ONNX file and compare: is the key this model's?"""
    from privacy.zkml.audit import audit as rebuild

    for path in (onnx, srs):
        if path is not None:
            _need_file(path)
    with progress(quiet=as_json) as notify:
        found = rebuild(bundle, onnx=onnx, srs=srs, progress=notify)
    if as_json:
        print_json(found)
        return
    for check in found["checks"]:
        line = f"[green]equal[/] {check['name']}: {safe(check['detail'])}"
        out.print(line, soft_wrap=True)


@command("zk srs")
def srs(
    file: Annotated[Path, typer.Argument(help="A powers-of-tau file.")],
    fetch: Annotated[
        int, typer.Option(help="Fetch the ceremony's file of 2**FETCH points first.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whose an SRS is, by its digest; get the public ceremony's for offline use."""
    from privacy.zkml.srs import fetch_srs, srs_facts

    with progress(quiet=as_json) as notify:
        if fetch:
            notify({"stage": "fetch the SRS"})
            found = fetch_srs(fetch, file)
        else:
            _need_file(file)
            found = srs_facts(file, development=False)
    if as_json:
        print_json(asdict(found))
    elif found.kind == "public":
        out.print(f"[green]public ceremony[/], 2**{found.logrows} points")
    else:
        out.print(
            f"[bold yellow]not of the listed ceremony[/], 2**{found.logrows} points: "
            "whoever made it can forge proofs"
        )


@command("zk tune")
def tune(
    model: Annotated[Path, typer.Argument(help="A model file, as `publish` takes it.")],
    data: Annotated[Path, typer.Option(help="Calibration rows, raw: .csv or .npy.")],
    objective: Annotated[
        str, typer.Option(help="time to prove, size of the key, or gas to verify.")
    ] = "time",
    max_gas: Annotated[
        int | None,
        typer.Option(min=1, help="Most gas that checking a proof on chain may take."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="CSV column that is no feature.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="For networks: classification or regression.")
    ] = "",
    activation: Annotated[
        str, typer.Option(help="For networks: none, sigmoid, softmax, …")
    ] = "",
    hide: Hide = None,
    commit: Commit = None,
    show: Show = None,
    salt: Salt = False,
    as_json: AsJson = False,
) -> None:
    """Find the circuit that proves a model's answers best; publishing uses it."""
    from privacy.publish.tuning import tune_circuit

    for path in (model, data):
        _need_file(path)
    seen = {"hide": hide, "commit": commit, "show": show, "salt": salt}
    wanted = {"objective": objective, "max_gas": max_gas, **seen}
    with progress(quiet=as_json) as notify:
        found = tune_circuit(
            model,
            data,
            label=label,
            task=task,
            activation=activation,
            options={k: v for k, v in wanted.items() if v},
            progress=notify,
        )
    if as_json:
        print_json(found)
    else:
        _print_tuned(found)


def _print_tuned(found: Json) -> None:
    columns = ["bits", "base", "columns", "rows", "proven in", "key", "proof"]
    rows = []
    for tried in found["tried"]:
        c = tried["choice"]
        mark = "*" if c == found["chosen"] else ""
        rows.append(
            [
                f"{c['scale_bits']}{mark}",
                f"{c['decomp_base']}^{c['decomp_legs']}",
                str(tried["expected"]["advice"]),
                f"2^{c['logrows']}",
                f"{duration(tried['prove_s'])} ({duration(tried['cpu_s'])} of CPU)",
                size(tried["proving_key_bytes"]),
                size(tried["proof_bytes"]),
            ]
        )
    table(f"best for {found['objective']} (*)", columns, rows)
    accuracy = found["accuracy"]
    out.print(
        f"{found['considered']} layouts considered, {found['proofs']} proven, "
        f"{duration(found['seconds'])}; largest error {accuracy['max_error']:.2g}"
        + (" (found before)" if found["from_cache"] else "")
    )


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
