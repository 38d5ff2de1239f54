"""The node's side: prove each row of a job, and check every proof before it leaves."""

from pathlib import Path

from privacy.bundle import Bundle
from privacy.child import Progress
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.runs import RowStore, RunResult
from privacy.zkml.blobs import (
    Evidence,
    Proof,
    make_evidence,
    make_outputs,
    parse_input,
    proof_from_bytes,
    proof_to_bytes,
)
from privacy.zkml.field import dequantize
from privacy.zkml.memory import check_memory
from privacy.zkml.params import parse_params
from privacy.zkml.prove import check_version, prove_row
from privacy.zkml.system import CircuitFiles, load_backend


class Runner:
    """One circuit, ready to prove; for use in a worker process only."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the proof system and check this model's circuit against the manifest.

        Raises:
            UnavailableError: The engine is not installed.
            BackendError: Another version of the engine made the circuit, or the proving
                key is none of it.
            VerificationError: A file was changed.
        """
        self._params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
        self._backend = load_backend(self._params.system)
        check_version(self._backend, self._params)
        self._bundle = bundle
        self._seen: tuple[tuple[int, ...], ...] = ()
        self._check_files()
        self._files = CircuitFiles(bundle.root / "zkml")
        self._backend.check_proving_key(self._files, logrows=self._params.logrows)
        self._model_sha256 = bundle.sha256
        memory = bundle.manifest.mode(Mode.ZKML).cost.get("memory_bytes")
        self._memory_bytes = memory if isinstance(memory, int) else 0

    def _check_files(self) -> None:
        """Compare the circuit's files with the manifest, if any was written to.

        The engine opens them anew for each proof, and waits for ever on some of those
        that were spoilt.
        """
        names = [n for n in self._bundle.manifest.files if n.startswith("zkml/")]
        found = tuple(_written(self._bundle.path(name)) for name in names)
        if found != self._seen:
            self._bundle.check_files(names)
            self._seen = found

    def run(
        self,
        input_blob: bytes,
        keys: Path | None,
        progress: Progress,
        rows: RowStore | None = None,
    ) -> RunResult:
        """Return the outputs of an input blob, and a verified proof for every row.

        Proofs of an earlier attempt at this job that are in `rows` are not made again.

        Raises:
            FormatError: The blob is malformed or a row is out of range.
            UnavailableError: The node has too little memory now.
            BackendError: The engine failed, or made a proof that does not verify.
            VerificationError: A file was changed.
        """
        if keys is not None:
            raise FormatError("a zkml job takes no keys", code="unexpected-keys")
        params = self._params
        values, salt = parse_input(input_blob, columns=params.features)
        params.check_range(values)
        quantized = params.circuit_rows(values, salt)
        check_memory(self._memory_bytes)
        proofs: list[Proof] = []
        for i, row in enumerate(quantized):
            raw = rows.find(i) if rows else None
            if raw is None:
                raw = proof_to_bytes(self._prove(row))
                if rows:
                    rows.keep(i, raw)
            proofs.append(
                proof_from_bytes(
                    raw,
                    instances=len(params.instances),
                    proof_bytes=params.proof_bytes,
                )
            )
            progress({"stage": "prove", "done": i + 1, "total": len(quantized)})
        bits = params.output_scale_bits
        shown = [params.outputs_of(p.instances) for p in proofs]
        outputs = [dequantize(values, scale_bits=bits) for values in shown]
        insecure = params.insecure_srs
        evidence = Evidence(self._model_sha256, insecure, tuple(proofs))
        return RunResult(make_outputs(outputs), make_evidence(evidence), "proof")

    def _prove(self, row: list[int]) -> Proof:
        self._check_files()
        bits = self._params.input_scale_bits
        return prove_row(self._backend, self._files, row, scale_bits=bits)


def _written(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was written to; nothing of one that is gone."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
