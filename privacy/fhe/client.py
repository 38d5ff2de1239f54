"""The data owner's side: keys, encryption, decryption. Needs Concrete, not Concrete-ML.

Keys belong to a key set, not to a model: circuits with the same `keyset_sha256` share
them, whoever published them. The secret keys stay in this process. For keeping (see
`privacy.client.keystore`) `ClientKeys.to_bytes` gives them, bound to the key set; they
are checked whole before the engine reads them again.
"""

import threading

import numpy as np

from privacy.encoding import (
    Json,
    canonical_json,
    pack,
    parse_canonical,
    sha256_hex,
    unpack,
)
from privacy.errors import BackendError, FormatError
from privacy.fhe.backend import Floats, Ints, Keyset, load_backend
from privacy.fhe.quantizers import find_clipped, quantize, raw_outputs
from privacy.fhe.security import check_parameters
from privacy.fhe.spec import CircuitSpec, parse_program, parse_spec
from privacy.runs import MAX_ROWS

_KEYS_FORMAT = "privacy-compute/fhe-keys/2"
_AGAIN = "fetch the model's client.json again"


class FheClient:
    """What a data owner can do with a circuit; the keys are made by it or loaded."""

    def __init__(self, client_json: bytes) -> None:
        """Read a circuit's public description.

        Raises:
            FormatError: It is malformed, or its encryption is weaker than 128 bits.
        """
        self.spec: CircuitSpec = parse_spec(client_json)
        check_parameters(parse_program(self.spec.program))

    @property
    def keyset_sha256(self) -> str:
        """Digest of what keys depend on; keys serve every circuit with the same."""
        return self.spec.keyset_sha256

    def generate_keys(self) -> "ClientKeys":
        """Return fresh keys; takes seconds for all but linear models.

        Raises:
            BackendError: The engine failed.
            UnavailableError: The engine is not installed.
        """
        backend = load_backend(self.spec.backend)
        try:
            return ClientKeys(self.spec, backend.generate_keyset(self.spec.program))
        except RuntimeError as exc:
            msg = "the FHE engine could not make keys: is there enough memory?"
            raise BackendError(msg, code="fhe-keygen-failed") from exc

    def load_keys(self, raw: bytes) -> "ClientKeys":
        """Return the keys that `ClientKeys.to_bytes` gave.

        Raises:
            FormatError: They are damaged, or made for another key set.
        """
        secret = read_keys(raw, self.keyset_sha256)
        backend = load_backend(self.spec.backend)
        try:
            return ClientKeys(self.spec, backend.load_keyset(secret))
        except RuntimeError as exc:
            msg = "the FHE engine cannot read these keys: generate new ones"
            raise FormatError(msg, code="fhe-keys-unreadable") from exc

    def share_keys(self, keys: "ClientKeys") -> "ClientKeys":
        """Return the keys that another model's client made or loaded, for this model.

        Raises:
            FormatError: That model has another key set.
        """
        theirs = keys.spec.keyset_sha256
        if theirs != self.keyset_sha256:
            raise _other_keyset(theirs, self.keyset_sha256)
        return ClientKeys(self.spec, keys.keyset)


class ClientKeys:
    """A data owner's keys, used with one model. Safe to call from several threads."""

    def __init__(self, spec: CircuitSpec, keyset: Keyset) -> None:
        """Keep the keys; made by `FheClient`."""
        self.spec = spec
        self.keyset = keyset
        self._cipher = keyset.cipher(spec.program)
        self._lock = threading.Lock()

    def to_bytes(self) -> bytes:
        """Return the secret keys in the clear, for a store that protects them.

        They are as large as the evaluation keys.
        """
        with self._lock:
            raw = self.keyset.to_bytes()
        return pack_keys(raw, self.spec.keyset_sha256)

    def evaluation_keys(self) -> bytes:
        """Return what the node needs to compute; it decrypts nothing.

        Raises:
            FormatError: They do not look as the circuit's publisher says they must.
        """
        with self._lock:
            raw = self.keyset.evaluation_keys()
        self.spec.keys.check(
            raw, what="evaluation keys", code="fhe-spec-mismatch", hint=_AGAIN
        )
        return raw

    def encrypt(self, rows: Floats, *, allow_clipped: bool = False) -> bytes:
        """Return the input blob of a job: ciphertexts of one row or of several.

        A circuit tells values apart within the range that its publisher calibrated. Of
        trees none is clipped: whatever lies beyond the last threshold is alike to them.

        Args:
            rows: Standardised features, (rows, features).
            allow_clipped: Take values beyond the circuit's range for its ends, instead
                of refusing them.

        Raises:
            FormatError: No rows, too many, of another width, or not finite; or values
                lie beyond the circuit's range (`out-of-range`).
        """
        checked = _checked_rows(rows, self.spec.features)
        if not allow_clipped:
            _check_range(checked, self.spec)
        return self.encrypt_values(quantize(checked, self.spec.quantizers))

    def encrypt_values(self, values: Ints) -> bytes:
        """Return the input blob of a job for quantized rows; see `encrypt`."""
        found = []
        for batch in self.spec.split(len(values)):
            own, values = values[: batch.rows], values[batch.rows :]
            room = [own[:1]] * (batch.rows - len(own))  # answered, and thrown away
            with self._lock:
                found.append(
                    self._cipher.encrypt(batch.function, np.concatenate([own, *room]))
                )
            batch.ciphertext.check(
                found[-1], what="ciphertexts", code="fhe-spec-mismatch", hint=_AGAIN
            )
        return pack(found)

    def decrypt(self, output: bytes, rows: int) -> Floats:
        """Return the model's raw outputs, (rows, outputs), before its activation.

        A node can return any ciphertext; nothing shows that it ran the model.

        Args:
            output: The output blob of a job.
            rows: How many rows were sent.

        Raises:
            FormatError: Not as many results, or not results of this circuit.
        """
        return raw_outputs(self.decrypt_integers(output, rows), self.spec.output)

    def decrypt_integers(self, output: bytes, rows: int) -> Ints:
        """Return what the circuit computed, before it is scaled; see `decrypt`."""
        frames = unpack(output, what="the FHE output", max_frames=MAX_ROWS)
        batches = self.spec.split(rows)
        if len(frames) != len(batches):
            msg = (
                f"the FHE output holds {len(frames)} results, {len(batches)} were "
                f"expected for {rows} rows"
            )
            raise FormatError(msg, code="fhe-result-mismatch")
        hint = "the node answered for another model, or the answer was damaged"
        results = [
            batch.unpack(frame, hint=hint)
            for batch, frame in zip(batches, frames, strict=True)
        ]
        try:
            with self._lock:
                found = [
                    self._cipher.decrypt(batch.function, result)
                    for batch, result in zip(batches, results, strict=True)
                ]
        except RuntimeError as exc:
            msg = f"the FHE engine cannot read the result: {hint}"
            raise FormatError(msg, code="fhe-result-mismatch") from exc
        integers: Ints = np.concatenate(found)[:rows]
        return integers


def _checked_rows(rows: Floats, features: int) -> Floats:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != features:  # noqa: PLR2004 - rows by features
        msg = f"the rows have shape {rows.shape}, the model takes (rows, {features})"
        raise FormatError(msg, code="wrong-feature-count")
    if not 0 < len(rows) <= MAX_ROWS:
        msg = f"the input has {len(rows)} rows, expected 1 to {MAX_ROWS}: split it"
        raise FormatError(msg, code="too-many-rows" if len(rows) else "no-rows")
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        msg = f"row {row + 1}, column {column + 1} is not finite"
        raise FormatError(msg, code="not-finite")
    return rows


def _check_range(rows: Floats, spec: CircuitSpec) -> None:
    found = find_clipped(rows, spec.quantizers, spec.output)
    if len(found):
        row, column = found[0] + 1
        msg = (
            f"{len(found)} of {rows.size} values lie beyond what the circuit tells "
            f"apart (first in row {row}, column {column}): correct them, or have them "
            "count as the ends of its range with allow_clipped=True"
        )
        raise FormatError(msg, code="out-of-range")


def _other_keyset(found: object, expected: str) -> FormatError:
    msg = (
        f"the FHE keys were made for key set {str(found)[:12]}, this model has "
        f"{expected[:12]}: generate keys for it"
    )
    return FormatError(msg, code="fhe-keys-mismatch")


def pack_keys(raw: bytes, keyset_sha256: str) -> bytes:
    """Return an engine's secret keys bound to their key set, for keeping."""
    head: Json = {
        "format": _KEYS_FORMAT,
        "keyset_sha256": keyset_sha256,
        "content_sha256": sha256_hex(raw),
    }
    return pack([canonical_json(head), raw])


def read_keys(raw: bytes, keyset_sha256: str) -> bytes:
    """Return what `pack_keys` bound to a key set.

    Raises:
        FormatError: It is damaged, or was made for another key set.
    """
    head_raw, *rest = unpack(raw, what="the FHE keys", max_frames=2)
    head = parse_canonical(head_raw, what="the header of the FHE keys")
    if len(rest) != 1 or head.get("format") != _KEYS_FORMAT:
        raise FormatError("these are no FHE keys of ours", code="fhe-keys-damaged")
    if head.get("keyset_sha256") != keyset_sha256:
        raise _other_keyset(head.get("keyset_sha256"), keyset_sha256)
    if head.get("content_sha256") != sha256_hex(rest[0]):
        msg = "the FHE keys are damaged: restore them or generate new ones"
        raise FormatError(msg, code="fhe-keys-damaged")
    return rest[0]
