"""Check a receipt offline: signature, digests, evidence, each to a verdict.

The receipt alone says who ran what. What lies beside it (`evidence.json`,
`output.bin`) and the model's public files let the evidence be checked again. A step
that fails is exit code 6. One that could not be taken is 7, and so is one whose
evidence may well be true but is of a kind that has to be allowed first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.bundle import Bundle, open_bundle, standardise
from privacy.client.context import load_platform_policy, param
from privacy.client.home import Home
from privacy.client.log_entry import LogEntry
from privacy.client.peer_receipt import (
    PEER_FILE,
    check_peer_receipt,
    check_peer_signature,
    peer_caveats,
    peer_of,
)
from privacy.client.rows import read_rows
from privacy.client.tee_session import SIMULATED, SIMULATED_PROVEN, circuit_of
from privacy.client.zkml_session import (
    compare_outputs,
    proof_caveats,
    verified_outputs,
)
from privacy.encoding import finite_rows, sha256_hex
from privacy.errors import (
    BackendError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.fhe.caveats import p_error_caveats
from privacy.key_history import (
    ReceiptKey,
    check_counts,
    keys_beside,
    public_keys,
    united,
)
from privacy.modes import Mode, WhoSeesWhat, who_sees_what
from privacy.receipt import Receipt, parse_receipt, verify_receipt
from privacy.runs import MAX_ROWS

if TYPE_CHECKING:
    from privacy.tee.policy import EvidencePolicy

MAX_RECEIPT_BYTES = 1 << 17
MAX_BESIDE_BYTES = 1 << 29
MAX_SALT_BYTES = 64
PROOF_FILE = "proofs.json"
OK, FAILED, MISSING, REFUSED = "ok", "failed", "could not check", "refused"
_ALLOWED_BY = {
    "simulated-evidence": "allow_simulated",
    "insecure-srs": "allow_insecure_srs",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One check of a receipt.

    Attributes:
        name: Of the check.
        verdict: `ok`, `failed`, `could not check`, or `refused`: nothing was found
            false, but what was shown has to be allowed.
        detail: What was found, and what to do.
        allow: What would allow it: `allow_simulated` or `allow_insecure_srs`; else "".
    """

    name: str
    verdict: str
    detail: str
    allow: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What checking a receipt found.

    Attributes:
        exit_code: 0 all checked and true, 6 something is false, 7 something needed
            is missing, be it an allowance.
        receipt: What the receipt says; None if it was changed.
        caveats: What weakens the checks: a simulated enclave, a development SRS.
    """

    exit_code: int
    steps: tuple[Step, ...]
    receipt: Receipt | None
    caveats: tuple[str, ...]
    who_sees_what: WhoSeesWhat | None

    @property
    def missing_allowances(self) -> tuple[str, ...]:
        """What would have to be allowed: `allow_simulated`, `allow_insecure_srs`."""
        return tuple(sorted({step.allow for step in self.steps} - {""}))


def verify_saved(  # noqa: PLR0913 - what to trust, and what to allow
    path: Path,
    *,
    home: Home,
    trusted: Sequence[Mapping[str, ReceiptKey]] | None = None,
    bundle: Path | None = None,
    rows: Sequence[Sequence[float]] | Path | None = None,
    platform_policy: Path | None = None,
    log: bool = False,
    allow_simulated: bool = False,
    allow_insecure_srs: bool = False,
) -> Verdict:
    """Return what can be said about a receipt file, without any network.

    Args:
        path: The receipt file; its evidence and output lie beside it.
        home: Where pinned gateway keys and models are.
        trusted: Receipt keys to trust instead of the pinned ones, by key id: those of
            each gateway by themselves, for no gateway vouches for another.
        bundle: The model's files instead of those in `home`.
        rows: The raw input, or a file of it as `read_rows` takes, to check that
            proofs are about it. Other modes cannot show it: that is exit code 7.
        platform_policy: What the machine below an enclave must show; see `Client`.
        log: Check, too, that the receipt is in the gateway's log, by the log entry
            beside it, and that the log agrees with what was seen of it.
        allow_simulated: Accept the evidence of a simulated enclave.
        allow_insecure_srs: Accept proofs that the maker of the SRS can forge.
    """
    given = {
        "allow_simulated": allow_simulated,
        "allow_insecure_srs": allow_insecure_srs,
    }
    steps = _Steps({name for name, is_given in given.items() if is_given})
    caveats: list[str] = []
    key_sets = home.key_sets() if trusted is None else trusted
    keys = united(key_sets)
    entry = LogEntry(path, home, key_sets) if log else None
    receipt = _authentic(path, keys, steps, entry, caveats)
    if receipt is not None and receipt.status == "succeeded":
        job = _Saved(
            folder=path.parent,
            receipt=receipt,
            home=home,
            bundle_root=bundle,
            rows=rows,
            platform=load_platform_policy(platform_policy),
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            caveats=caveats,
            others=public_keys(_others(path, key_sets)),
        )
        caveats.extend(job.weaknesses())
        for name, check in job.checks().items():
            steps.take(name, check)
    return Verdict(
        _code(steps.taken), tuple(steps.taken), receipt, tuple(caveats), _seen(receipt)
    )


class _Steps:
    """Checks that were made, with what came of each."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = allowed
        self.taken: list[Step] = []

    def take(self, name: str, check: Callable[[], str]) -> None:
        try:
            self.taken.append(Step(name, OK, check()))
        except (CannotVerifyError, BackendError, UnavailableError) as exc:
            self.taken.append(Step(name, MISSING, exc.message))
        except PrivacyError as exc:
            allow = _ALLOWED_BY.get(exc.code, "")
            if allow in {"", *self._allowed}:
                self.taken.append(Step(name, FAILED, exc.message))
            else:
                self.taken.append(Step(name, REFUSED, exc.message, allow))


def _authentic(
    path: Path,
    keys: dict[str, ReceiptKey],
    steps: _Steps,
    entry: LogEntry | None,
    caveats: list[str],
) -> Receipt | None:
    """Return the receipt if its signature holds and counts.

    Args:
        path: The receipt file.
        keys: Receipt keys to trust, by key id.
        steps: Told what was checked.
        entry: Its place in the log, if that is to be checked.
        caveats: Told what weakens that check.
    """
    found: Receipt | None = None

    def signature() -> str:
        nonlocal found
        raw = _read(path, MAX_RECEIPT_BYTES)
        receipt = verify_receipt(raw, public_keys(keys))
        _, signer = parse_receipt(raw)
        finished_at = receipt.finished_at
        index = entry.index if entry else None
        check_counts(keys[signer], finished_at=finished_at, log_index=index)
        found = check_sound(receipt)
        return (
            f"job {receipt.job_id}, {receipt.model}/{receipt.version}, {receipt.mode}"
        )

    if entry:
        logged = entry
        steps.take("log", lambda: logged.included(_read(path, MAX_RECEIPT_BYTES)))
        steps.take("log-consistency", lambda: logged.consistent(caveats))
    steps.take("signature", signature)
    return found


def _others(
    path: Path, key_sets: Sequence[Mapping[str, ReceiptKey]]
) -> dict[str, ReceiptKey]:
    """Return the keys that are not the signer's: no gateway is its own peer."""
    _, signer = parse_receipt(_read(path, MAX_RECEIPT_BYTES))
    own = {signer, *keys_beside(signer, key_sets)}
    return {kid: key for kid, key in united(key_sets).items() if kid not in own}


def _code(steps: Sequence[Step]) -> int:
    verdicts = {s.verdict for s in steps}
    return 6 if FAILED in verdicts else 7 if verdicts - {OK} else 0


def _seen(receipt: Receipt | None) -> WhoSeesWhat | None:
    if receipt is None:
        return None
    return who_sees_what(
        Mode(receipt.mode), simulated=receipt.simulated, peer=peer_of(receipt)
    )


_EVIDENCE = {
    "fhe": "",
    "zkml": "proof",
    "tee": "attestation",
    "tee+zkml": "attestation+proof",
}
_STATUSES = {"succeeded", "failed", "cancelled"}


def check_sound(receipt: Receipt) -> Receipt:
    """Return the receipt unless it claims what no job of its mode can show.

    Raises:
        VerificationError: The mode, the status or the kind of evidence is impossible.
    """
    said = f"{receipt.mode}, {receipt.status}, {receipt.evidence_kind or 'no evidence'}"
    done = receipt.status == "succeeded"
    if (
        receipt.mode not in _EVIDENCE
        or receipt.status not in _STATUSES
        or (receipt.simulated and Mode.TEE not in Mode(receipt.mode).parts)
        or (done and receipt.evidence_kind != _EVIDENCE[receipt.mode])
        or (done and bool(receipt.evidence_kind) != bool(receipt.evidence_sha256))
        or (done and not receipt.output_sha256)
    ):
        msg = f"the receipt says what cannot be of a job: {said}"
        raise VerificationError(msg, code="receipt-unsound")
    return receipt


@dataclass(frozen=True, slots=True)
class _Saved:
    """A receipt whose signature holds, with what lies beside it."""

    folder: Path
    receipt: Receipt
    home: Home
    bundle_root: Path | None
    rows: Sequence[Sequence[float]] | Path | None
    platform: "EvidencePolicy | None"
    allow_simulated: bool
    allow_insecure_srs: bool
    caveats: list[str]
    others: dict[str, Any]

    def checks(self) -> dict[str, Callable[[], str]]:
        checks = {"output": self.output}
        if self.receipt.evidence_sha256:
            checks["evidence"] = self.evidence
        if self.receipt.peer_receipt_sha256:
            checks["peer receipt"] = self.peer_receipt
        if self.receipt.mode == Mode.TEE_ZKML:
            checks["proof"] = self.proof
        elif self.rows is not None and self.receipt.mode != Mode.ZKML:
            checks["input"] = self.input_
        return checks

    def weaknesses(self) -> tuple[str, ...]:
        """Return what weakens the answer by the receipt's own words."""
        return (*peer_caveats(self.receipt), *self._weaknesses())

    def peer_receipt(self) -> str:
        raw = self._beside(PEER_FILE)
        check_peer_receipt(raw, self.receipt)
        peer = self.receipt.node
        if check_peer_signature(raw, self.others):
            return f"{peer} ran the same job, signed by a key that you trust"
        self.caveats.append(
            f"{PEER_FILE} is signed by a key that is not known here: that {peer} ran "
            "the job, the gateway says"
        )
        return f"{peer} ran the same job, as the gateway's receipt says"

    def _weaknesses(self) -> tuple[str, ...]:
        if self.receipt.simulated:
            proven = self.receipt.mode == Mode.TEE_ZKML
            return (SIMULATED_PROVEN if proven else SIMULATED,)
        if self.receipt.mode != Mode.FHE:
            return ()
        said = dict(self.receipt.options)
        with suppress(CannotVerifyError):  # the receipt says it, too
            said |= self._bundle().manifest.mode(Mode.FHE).params
        return p_error_caveats(said)

    def output(self) -> str:
        found = sha256_hex(self._beside("output.bin"))
        if found != self.receipt.output_sha256:
            msg = f"output.bin is {found[:12]}…, not the output of this job"
            raise VerificationError(msg)
        return f"output.bin is {found[:12]}…, as signed"

    def evidence(self) -> str:
        evidence = self._beside("evidence.json")
        if sha256_hex(evidence) != self.receipt.evidence_sha256:
            raise VerificationError("evidence.json is not the evidence of this job")
        bundle = self._bundle()
        if self.receipt.mode == Mode.ZKML:
            return self._proofs(bundle, "evidence.json")
        return self._attestation(bundle, evidence)

    def proof(self) -> str:
        """Check the proofs that came inside a sealed answer."""
        from privacy.tee.evidence import parse_evidence

        statement = parse_evidence(self._beside("evidence.json")).statement
        named = statement.proof_sha256 if statement else ""
        if sha256_hex(self._beside(PROOF_FILE)) != named:
            msg = f"{PROOF_FILE} is not what the enclave's statement names"
            raise VerificationError(msg, code="statement-mismatch")
        return self._proofs(self._bundle(), PROOF_FILE)

    def _proofs(self, bundle: Bundle, name: str) -> str:
        rows = self._standard_rows(bundle)
        raw = verified_outputs(
            bundle,
            self._beside(name),
            rows,
            salt=salt_beside(self.folder / name),
            allow_insecure_srs=self.allow_insecure_srs,
        )
        if self.receipt.mode == Mode.ZKML:  # else the output is sealed
            compare_outputs(self._beside("output.bin"), raw)
        self.caveats.extend(proof_caveats(bundle))
        if rows is None:
            self.caveats.append("without --input nothing ties the proofs to any input")
        about = "this input" if rows is not None else "some input (give --input)"
        return f"{len(np.asarray(raw))} proofs verify; they are about {about}"

    def _standard_rows(self, bundle: Bundle) -> Any | None:
        if self.rows is None:
            return None
        columns, rows = bundle.manifest.columns, self.rows
        try:
            if isinstance(rows, Path):
                rows = read_rows(rows, [c.name for c in columns])
            plain = [list(row) for row in rows]
            rows = finite_rows(plain, columns=len(columns), max_rows=MAX_ROWS)
        except FormatError as exc:
            msg = f"the input cannot be compared: {exc.message}"
            raise CannotVerifyError(msg, code="unusable-input") from exc
        return standardise(rows, columns)

    def input_(self) -> str:
        msg = (
            f"in mode {self.receipt.mode} the receipt commits to an encrypted input: "
            "nobody can compare it with rows"
        )
        raise CannotVerifyError(msg, code="input-not-shown")

    def _attestation(self, bundle: Bundle, evidence: bytes) -> str:
        from privacy.tee.client import verify_job_evidence
        from privacy.tee.collateral import kept_in

        mode, receipt = Mode(self.receipt.mode), self.receipt
        try:
            result = verify_job_evidence(
                evidence,
                reference=param(bundle, mode, "measurements", dict),
                model_sha256=receipt.model_sha256,
                input_sha256=receipt.input_sha256,
                output_sha256=receipt.output_sha256,
                collateral=kept_in(self.home.collateral),
                platform=self.platform,
                allow_simulated=self.allow_simulated,
                now=_moment(receipt.finished_at),
                circuit_sha256=circuit_of(bundle, mode),
            )
        except VerificationError as exc:
            if exc.code == "simulated-evidence" and not receipt.simulated:
                raise _other_origin() from exc
            raise
        if result.simulated != receipt.simulated:
            raise _other_origin()
        kind = "simulated" if result.simulated else "hardware"
        return f"the attested enclave ({kind}) signed this input and output"

    def _beside(self, name: str) -> bytes:
        path = self.folder / name
        if not path.is_file():
            msg = f"{name} does not lie beside the receipt: get it from the data owner"
            raise CannotVerifyError(msg, code="missing-file")
        return _read(path, MAX_BESIDE_BYTES)

    def _bundle(self) -> Bundle:
        root = self.bundle_root or self.home.model(self.receipt.model_sha256)
        try:
            bundle = open_bundle(root, check_files=False)
        except PrivacyError as exc:
            msg = (
                "the model's files are not here: fetch them with `privacy models "
                f"{self.receipt.model}/{self.receipt.version} --fetch` or name them "
                "with --bundle"
            )
            raise CannotVerifyError(msg, code="missing-model") from exc
        if bundle.sha256 != self.receipt.model_sha256:
            msg = f"{root} holds another model than the receipt's"
            raise CannotVerifyError(msg, code="missing-model")
        return bundle


def _other_origin() -> VerificationError:
    msg = "receipt and evidence disagree on `simulated`"
    return VerificationError(msg, code="receipt-unsound")


def salt_beside(proofs: Path) -> bytes | None:
    """Return the salt that lies beside a file of proofs, if one does.

    Raises:
        CannotVerifyError: What lies there is no salt.
    """
    from privacy.zkml.blobs import parse_salt

    path = proofs.with_name(f"{proofs.name}.salt")
    if not path.is_file():
        return None
    try:
        return parse_salt(
            _read(path, MAX_SALT_BYTES).decode("ascii", "replace").strip()
        )
    except (FormatError, VerificationError) as exc:
        msg = f"{path.name} holds no salt: get it from the data owner again"
        raise CannotVerifyError(msg, code="bad-salt") from exc


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        msg = f"{path.name} has more than {limit} bytes: it is not what was signed"
        raise VerificationError(msg, code="too-large")
    return raw


def _moment(text: str) -> datetime:
    """Return an RFC 3339 time; evidence is judged at the time of the job."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as exc:
        raise VerificationError("the receipt's times are not RFC 3339") from exc
