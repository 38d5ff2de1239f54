"""The data owner's side of a job in mode fhe: encrypt, decrypt."""

from dataclasses import dataclass
from typing import Any

from privacy.bundle import Bundle
from privacy.client.answer import Check
from privacy.client.context import Context, Opened, Prepared, param
from privacy.client.fhe_keys import FheKeys, load_fhe, upload_keys
from privacy.client.wire import Flow, Work
from privacy.errors import VerificationError
from privacy.fhe.caveats import clipping_caveats, p_error_caveats
from privacy.modes import Mode


@dataclass(slots=True)
class FheSession:
    """Encrypts rows, decrypts answers, with keys that stay here."""

    context: Context
    bundle: Bundle
    _used: FheKeys | None = None

    def prepare(self, rows: Any) -> Flow[Prepared]:
        """Return the input blob; see `Session`."""
        keys: FheKeys = yield Work(self.keys)
        self._used = keys  # the answer opens with these and no others
        keys_sha256 = ""
        if param(self.bundle, Mode.FHE, "needs_keys", bool):
            keys_sha256 = yield from upload_keys(self.context, keys)
        # What lies outside the published range was refused or is named; `finish` names
        # what the circuit clips within it.
        blob: bytes = yield Work(lambda: keys.client.encrypt(rows, allow_clipped=True))
        return Prepared(blob, rows, keys_sha256)

    def keys(self) -> FheKeys:
        """Return the model's keys, loaded or made once for all its jobs."""
        memory, model = self.context.memory, self.bundle.sha256
        with self.context.lock:  # jobs at once must not make keys each
            if model not in memory:
                memory[model] = load_fhe(self.context, self.bundle)
            found: FheKeys = memory[model]
        return found

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        """Verify and open the output; see `Session`."""
        _ = evidence
        keys = self._used
        if keys is None:
            raise VerificationError("there is no input whose answer this could be")
        raw = yield Work(lambda: keys.client.decrypt(output, rows=len(prepared.rows)))
        check = Check("decrypted-here", "the key that opens the answer never left here")
        caveats = (
            *p_error_caveats(self.bundle.manifest.mode(Mode.FHE).params),
            *clipping_caveats(prepared.rows, keys.client.spec),
        )
        return Opened(raw, (check,), caveats)
