"""The node's side: run a compiled circuit on ciphertexts it cannot read.

Keys and ciphertexts are compared with the circuit's templates before the engine reads
them, since it crashes on malformed bytes. Deserialised evaluation keys are kept warm
for all models of the process: a key costs up to seconds to unpack, and a data owner
sends many jobs with one.
"""

from pathlib import Path
from typing import Any

from privacy.bundle import Bundle
from privacy.child import Progress
from privacy.encoding import canonical_json, pack, sha256_hex, unpack
from privacy.errors import BackendError, FormatError
from privacy.fhe.backend import Circuit, load_backend
from privacy.fhe.machine import check_engine, check_machine
from privacy.fhe.picks import PICKS, Picks, parse_picks
from privacy.fhe.spec import Batch, CircuitSpec, parse_spec
from privacy.modes import Mode
from privacy.runs import MAX_ROWS, RowStore, RunResult
from privacy.warm import SHARED, Warm

CLIENT_JSON = "client.json"
CIRCUIT = "circuit"
_UNPACK = 8
"""About how many times larger unpacked keys are than sent ones, before any was seen."""


class Runner:
    """Runs one model's circuit."""

    def __init__(self, bundle: Bundle, *, warm: Warm = SHARED) -> None:
        """Load a bundle's circuit; evaluation keys are kept in `warm`.

        Raises:
            UnavailableError: It was compiled for another kind of machine, or by
                another version of the engine.
            BackendError: It cannot be loaded.
        """
        part = bundle.manifest.mode(Mode.FHE)
        check_machine(part.params)
        check_engine(part.params)
        self._model = f"{bundle.manifest.name} {bundle.manifest.version}"
        self._spec: CircuitSpec = parse_spec(
            bundle.path(f"fhe/{CLIENT_JSON}").read_bytes()
        )
        backend = load_backend(self._spec.backend)
        self._circuit: Circuit = backend.load_circuit(bundle.root / "fhe" / CIRCUIT)
        self._picks: Picks | None = None
        if f"fhe/{PICKS}" in bundle.manifest.files:
            self._picks = parse_picks(bundle.path(f"fhe/{PICKS}").read_bytes())
        self._warm = warm
        self._keys_like = sha256_hex(canonical_json(self._spec.keys.to_json()))

    def run(
        self,
        input_blob: bytes,
        keys: Path | None,
        progress: Progress,
        rows: RowStore | None = None,
    ) -> RunResult:
        """Return the packed results, one for each ciphertext of the input.

        A ciphertext holds one row, or as many as a batch of the model takes.

        Args:
            input_blob: What `ClientKeys.encrypt` made.
            keys: File of the evaluation keys; may be None for a linear model.
            progress: Called after every ciphertext, with rows.
            rows: Results of an earlier attempt at this job, and a place for more.

        Raises:
            FormatError: Keys or ciphertexts are not of this model's circuit.
            BackendError: The engine failed.
        """
        ciphertexts = unpack(input_blob, what="the FHE input", max_frames=MAX_ROWS)
        batches = [self._batch(ciphertext) for ciphertext in ciphertexts]
        total, done = sum(batch.rows for batch in batches), 0
        if total > MAX_ROWS:
            msg = f"the FHE input has room for {total} rows, at most {MAX_ROWS} a job"
            raise FormatError(msg, code="too-many-rows")
        evaluation_keys = self._keys(keys)
        if len(ciphertexts) == 1:
            rows = None  # its result is the output: there is nothing to go on with
        results = []
        for at, (batch, ciphertext) in enumerate(
            zip(batches, ciphertexts, strict=True)
        ):
            result = rows.find(at) if rows else None
            if result is None:
                result = self._compute(batch, ciphertext, evaluation_keys)
                if rows:
                    rows.keep(at, result)
            results.append(result)
            done += batch.rows
            progress({"stage": "run", "done": done, "total": total})
        return RunResult(output=pack(results))

    def _batch(self, ciphertext: bytes) -> Batch:
        """Return the circuit that a ciphertext is for, having checked it."""
        batch = self._spec.batch_of(ciphertext)
        batch.ciphertext.check(
            ciphertext,
            what="ciphertexts",
            code="fhe-ciphertext-mismatch",
            hint=f"encrypt for {self._model}, with its client.json",
        )
        return batch

    def _compute(self, batch: Batch, ciphertext: bytes, evaluation_keys: Any) -> bytes:
        if self._picks:
            ciphertext = self._picks.pick(
                ciphertext,
                function=batch.function,
                rows=batch.rows,
                template=batch.ciphertext,
            )
        try:
            result = self._circuit.run(batch.function, ciphertext, evaluation_keys)
        except RuntimeError as exc:
            msg = "the FHE engine could not compute on this ciphertext"
            raise BackendError(msg, code="fhe-run-failed") from exc
        return batch.pack(result)

    def _keys(self, path: Path | None) -> Any:
        """Return deserialised evaluation keys, warm or from the file."""
        if path is None:
            raw = None if self._spec.needs_keys else self._spec.keys.constant()
            if raw is None:
                msg = f"the job has no evaluation keys: upload those for {self._model}"
                raise FormatError(msg, code="keys-missing")
            return self._circuit.load_keys(raw)
        stat = path.stat()
        self._check_size(stat.st_size)
        # The gateway names files by their digest; to hash them again costs more than
        # some circuits do. Other models share the keys if they check the same template.
        key = (self._keys_like, str(path), stat.st_ino, stat.st_mtime_ns)
        return self._warm.get(
            key,
            lambda: self._load_keys(path),
            name=path.name,
            like=self._keys_like,
            guess=_UNPACK * stat.st_size,
        )

    def _load_keys(self, path: Path) -> Any:
        raw = path.read_bytes()
        self._spec.keys.check(
            raw, what="evaluation keys", code="fhe-keys-mismatch", hint=self._hint
        )
        try:
            return self._circuit.load_keys(raw)
        except RuntimeError as exc:
            msg = f"the FHE engine cannot read the evaluation keys: {self._hint}"
            raise FormatError(msg, code="fhe-keys-mismatch") from exc

    @property
    def _hint(self) -> str:
        return f"make keys for {self._model}, with its client.json"

    def _check_size(self, size: int) -> None:
        if size != self._spec.keys.size:
            msg = (
                f"evaluation keys have {size} bytes, expected {self._spec.keys.size}: "
                f"{self._hint}"
            )
            raise FormatError(msg, code="fhe-keys-mismatch")
