"""The main job: a patient's rows answered blind, with a proof and in an enclave.

Trains a diagnosis model on scikit-learn's breast-cancer data, publishes it once,
starts a real gateway on loopback, and asks it in every privacy mode. Each answer is
checked here, on the client's side, and compared with the clear model's.

    make demo                    # or, in an environment that has everything:
    python examples/demo.py [--rows 5] [--fresh]
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import train_breast_cancer
from local_gateway import gateway
from rich.console import Console
from rich.table import Table

from privacy.bundle import Bundle, open_bundle
from privacy.cli.output import duration, fail, progress, size
from privacy.client import Answer, Client
from privacy.errors import PrivacyError
from privacy.publish import is_current, publish

NAME = "breast-cancer"
ROOT = Path(__file__).resolve().parents[1]
VAR = ROOT / "var" / "demo"
console = Console(highlight=False)


def main() -> int:
    """Run the main job and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=5, choices=range(1, 41), metavar="N"
    )
    parser.add_argument("--fresh", action="store_true", help="publish anew")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(VAR, ignore_errors=True)
    started = time.monotonic()
    model, rows, truth = train()
    bundle = published(model, rows)
    patients = held_out(rows, truth, args.rows)
    clear = clear_answers(bundle, model, patients)
    console.rule("3. a gateway on this machine")
    with gateway(VAR) as (url, api_key):
        console.print(url)
        answers = ask(url, api_key, patients)
    show(clear, answers)
    receipts = check_receipts(answers)
    agree = all(
        [row.label for row in answer.rows] == [label for label, _ in clear]
        for answer in answers
    )
    console.print(
        f"\n{'All' if agree else 'NOT all'} modes agree with the clear model on "
        f"{len(patients)} rows; {duration(time.monotonic() - started)} in all."
    )
    return 0 if agree and receipts else 1


def train() -> tuple[Any, Any, Any]:
    """Return the fitted pipeline, the raw rows and the diagnoses as class names."""
    console.rule("1. train: logistic regression on breast-cancer data")
    return train_breast_cancer.train()


def published(model: Any, table: Any) -> Bundle:
    """Return the bundle, published by an earlier run or now."""
    console.rule("2. publish once, for every mode")
    folder = VAR / "models" / NAME / "1"
    if (folder / "manifest.json").is_file():
        bundle = open_bundle(folder)
        if is_current(bundle):
            console.print(f"published before: {folder.relative_to(ROOT)}")
            return bundle
        console.print("the code has changed since: publish again")
        shutil.rmtree(folder)
    with progress(quiet=False) as notify:
        bundle = publish(
            model,
            table.to_numpy(),
            columns=list(table.columns),
            classes=train_breast_cancer.CLASSES,
            name=NAME,
            version="1",
            store=VAR / "models",
            home=VAR / "publisher",
            progress=notify,
        )
    for mode, part in bundle.manifest.modes.items():
        if not part.available:
            console.print(f"{mode}: not served: {part.reason}")
            continue
        console.print(
            f"{mode}: {part.accuracy['label_agreement']:.1%} of labels agree with the "
            f"clear model on {part.accuracy['rows']} held-back rows, "
            f"{duration(part.cost['latency_s'])} a row"
        )
    return bundle


def held_out(table: Any, truth: Any, count: int) -> list[list[float]]:
    """Return real rows the publish did not calibrate on, both diagnoses among them."""
    from privacy.publish.data import hold_back

    rows = table.to_numpy()
    _, held = hold_back(rows)
    by_class: dict[Any, list[int]] = {}
    for i in held:
        by_class.setdefault(truth[i], []).append(int(i))
    mixed = [i for pair in zip(*by_class.values(), strict=False) for i in pair]
    return [[float(x) for x in rows[i]] for i in mixed[:count]]


def clear_answers(bundle: Bundle, model: Any, patients: Any) -> list[tuple[str, float]]:
    """Return the clear model's own label and its probability, by the model itself."""
    probabilities = model.predict_proba(patients)
    return [
        (bundle.manifest.classes[int(p.argmax())], float(p.max()))
        for p in probabilities
    ]


def ask(url: str, api_key: str, patients: list[list[float]]) -> list[Answer]:
    """Return the verified answers of every mode."""
    console.rule("4. ask in every mode")
    answers = []
    shutil.rmtree(VAR / "home", ignore_errors=True)  # a data owner new to it all
    with (
        progress(quiet=False) as notify,
        Client(
            url,
            api_key=api_key,
            home=VAR / "home",
            passphrase="of the demo",  # noqa: S106 - no secret
            allow_simulated=True,  # no enclave hardware here; shown in the answer
            allow_insecure_srs=True,  # made here, offline; shown in the answer
            notify=lambda event: notify({"mode": mode, **event}),
        ) as client,
    ):
        for mode in ("fhe", "zkml", "tee"):
            answers.append(client.infer(NAME, patients, mode=mode))  # noqa: PERF401
    return answers


def show(clear: list[tuple[str, float]], answers: list[Answer]) -> None:
    """Print the answers side by side, and what was verified."""
    grid = Table(title=f"{len(clear)} patients: label and its probability")
    for column in ("row", "clear model", *(f"{a.mode}" for a in answers)):
        grid.add_column(column)
    for i, (label, probability) in enumerate(clear):
        told = [answer.rows[i] for answer in answers]
        cells = [f"{r.label} {max(r.probabilities):.4f}" for r in told]
        grid.add_row(str(i + 1), f"{label} {probability:.4f}", *cells)
    console.print(grid)
    costs = Table(title="what it took, and who saw what")
    for column in (
        "mode",
        "time",
        "job",
        "up",
        "down",
        "operator sees input",
        "proven",
    ):
        costs.add_column(column, overflow="fold")
    for a in answers:
        total, seen = sum(a.seconds.values()), a.who_sees_what
        costs.add_row(
            f"{a.mode}{' (SIMULATED)' if a.simulated else ''}",
            duration(total),
            duration(a.seconds["job"]),
            size(a.bytes_up),
            size(a.bytes_down),
            seen.operator_sees_input,
            seen.answer_is_proven,
        )
    console.print(costs)
    for a in answers:
        for check in a.checks:
            console.print(f"[green]verified[/] {a.mode} {check.name}: {check.detail}")
        for caveat in a.caveats:
            console.print(f"[yellow]caveat[/]   {a.mode}: {caveat}")


def check_receipts(answers: list[Answer]) -> bool:
    """Run `privacy verify` on each receipt, then on one with a flipped byte."""
    console.rule("5. check the receipts offline")
    fine = True
    for answer in answers:
        code = verify(answer.receipt)
        console.print(f"privacy verify ({answer.mode}): exit {code}")
        fine &= code == 0
    first = answers[0].receipt
    raw = bytearray(first.read_bytes())
    raw[len(raw) // 2] ^= 1
    forged = first.with_name("forged.json")
    forged.write_bytes(raw)
    code = verify(forged)
    console.print(f"privacy verify (one byte flipped): exit {code}")
    return fine and code == 6  # noqa: PLR2004 - verification failed


def verify(receipt: Path) -> int:
    """Return the exit code of `privacy verify`."""
    command = [sys.executable, "-m", "privacy", "verify", str(receipt), "--json"]
    environment = {**os.environ, "PRIVACY_HOME": str(VAR / "home")}
    return subprocess.run(
        [*command, "--allow-simulated", "--allow-insecure-srs"],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrivacyError as error:
        sys.exit(fail(error, as_json=False))
