"""What `privacy publish` takes and shows of the search for a fast FHE circuit."""

from privacy.cli.output import duration, err, out, safe, size, table
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.caveats import p_error_caveats
from privacy.fhe.options import FAST_P_ERROR
from privacy.modes import Mode

_UNITS = {
    "accuracy": "points of accuracy",
    "label_agreement": "% of labels unlike the clear model's",
    "variance": "% of the outputs' variance",
}


def with_tuning(
    options: dict[Mode, Json], *, tune: str, max_loss: float | None, fast: bool
) -> dict[Mode, Json]:
    """Return the options by mode with what the flags say for `fhe`.

    Raises:
        FormatError: A flag and `--options` say the same thing, or `--max-loss` stands
            alone.
    """
    if max_loss is not None and not tune:
        msg = "--max-loss says how much --tune may lose: give --tune, too"
        raise FormatError(msg, code="bad-option")
    said: Json = {"tune": tune} if tune else {}
    if max_loss is not None:
        said["max_loss"] = max_loss
    if fast:
        said["p_error"] = FAST_P_ERROR
    given = options.get(Mode.FHE, {})
    if twice := sorted(set(said) & set(given)):
        msg = f"--options and a flag both give {', '.join(twice)}: leave one out"
        raise FormatError(msg, code="bad-option")
    return {**options, Mode.FHE: {**given, **said}} if said else options


def show_tuning(params: Json) -> None:
    """Print the front of a tuned circuit, and what a large `p_error` means."""
    report = params.get("tuned")
    if report:
        unit = _UNITS[report["measures"]]
        rows = [
            [
                "→" if point["name"] == report["chosen"] else "",
                point["name"],
                f"{point['loss']:.2f} (worst fold {point['worst_loss']:.2f})",
                f"{point['complexity'] / 1e6:.0f} M",
                duration(point["latency_s"]) if "latency_s" in point else "",
                size(point["keys_bytes"]) if "keys_bytes" in point else "",
            ]
            for point in report["front"]
        ]
        columns = ["", "fhe circuit", "lost", "complexity", "a row", "keys"]
        table(f"tuned for {report['goal']}; lost: {unit}", columns, rows)
        out.print(
            f"[dim]{report['candidates']} candidates; lost {report['loss']:.2f} of at "
            f"most {report['max_loss']:g} on folds of the calibration rows[/]",
            soft_wrap=True,
        )
        if not report["within"] and report["goal"] != "accuracy":
            err.print(
                "[bold yellow]caveat[/] no circuit is within the loss: this one loses "
                "least",
                soft_wrap=True,
            )
    for caveat in p_error_caveats(params):
        err.print(f"[bold yellow]caveat[/] {safe(caveat)}", soft_wrap=True)
