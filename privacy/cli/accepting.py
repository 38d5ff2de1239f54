"""Options of several commands: what a data owner accepts, and the rows to ask about."""

from pathlib import Path
from typing import Annotated

import typer

AllowSimulated = Annotated[
    bool,
    typer.Option(
        "--allow-simulated",
        help="Accept a simulated enclave, which hides nothing from its operator.",
    ),
]
AllowInsecureSrs = Annotated[
    bool,
    typer.Option(
        "--allow-insecure-srs",
        help="Accept proofs under an SRS that its maker can forge with.",
    ),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Accept a model that no publisher signed."),
]
AllowOutOfRange = Annotated[
    bool,
    typer.Option(
        "--allow-out-of-range",
        help="Ask about values that the model was not calibrated on.",
    ),
]
RequireHybrid = Annotated[
    bool,
    typer.Option(
        "--require-hybrid",
        help="Mode tee: refuse an enclave that has no ML-KEM to seal with.",
    ),
]
PlatformPolicy = Annotated[
    Path | None,
    typer.Option(
        help="Mode tee: what hardware below the enclave must show, TOML as for "
        "attest verify."
    ),
]
Input = Annotated[
    Path, typer.Option("--input", help="Rows of raw features: .csv, .npy or .json.")
]
