"""What a data owner gets back: answers, what was checked, and who saw what."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.activations import WITHOUT_PROBABILITIES, activate
from privacy.bundle import Manifest
from privacy.encoding import Json
from privacy.modes import Mode, WhoSeesWhat


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked and holds; what does not hold raises instead.

    Attributes:
        name: A stable slug.
        detail: What was found, for people.
    """

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row's answer.

    Attributes:
        label: The predicted class; empty unless classification.
        probabilities: By class; empty unless the model is a classifier that gives them.
        outputs: What the model predicts, for regression; else its raw outputs.
    """

    label: str
    probabilities: tuple[float, ...]
    outputs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished, verified job.

    Attributes:
        rows: One a row of the input.
        checks: Everything that was verified before this was returned.
        caveats: What weakens the answer, in words: a simulated enclave, a development
            SRS, values outside the calibrated range. Show them with the answer.
        simulated: The enclave was simulated: its attestation proves nothing.
        seconds: Where the time went, by stage.
        bytes_up: Bytes sent for this job, new evaluation keys included.
        bytes_down: Bytes received.
        gateway: Its address.
        node: The machine that ran the job, by the name that its receipt gives.
        receipt: Where the receipt and its evidence are kept.
        chosen: Why this mode, where the mode was left to a policy.
    """

    job_id: str
    model: str
    model_sha256: str
    mode: Mode
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    caveats: tuple[str, ...]
    who_sees_what: WhoSeesWhat
    simulated: bool
    seconds: Json
    bytes_up: int
    bytes_down: int
    gateway: str
    node: str
    receipt: Path
    chosen: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Return everything JSON-ready."""
        return {**asdict(self), "mode": str(self.mode), "receipt": str(self.receipt)}


def answer_rows(manifest: Manifest, raw: Any) -> tuple[Row, ...]:
    """Return what raw outputs, shape (rows, outputs), say."""
    raw = np.asarray(raw, dtype=np.float64)
    is_classifier = manifest.task == "classification"
    probable = is_classifier and manifest.activation not in WITHOUT_PROBABILITIES
    values = manifest.task == "regression"
    activated = activate(raw, manifest.activation)
    return tuple(
        Row(
            label=manifest.classes[int(p.argmax())] if is_classifier else "",
            probabilities=tuple(float(v) for v in p) if probable else (),
            outputs=tuple(float(v) for v in (p if values else r)),
        )
        for p, r in zip(activated, raw, strict=True)
    )
