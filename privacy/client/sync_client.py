"""The client that blocks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from privacy.bundle import Bundle
from privacy.choose import Choice, Policy
from privacy.client.answer import Answer
from privacy.client.common import Common, Rows, silent
from privacy.client.compare import Compared
from privacy.client.drive import SyncDriver
from privacy.client.infer import Meter
from privacy.client.keystore import KeyInfo
from privacy.client.passphrase import Given
from privacy.client.wire import Flow
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.tls import NO_TLS, TlsFiles
from privacy.transparency.tree_head import TreeHead


class Client(Common):
    """The data owner's synchronous client."""

    def __init__(  # noqa: PLR0913 - every one is a choice of the data owner's
        self,
        gateway: str | None = None,
        *,
        api_key: str | None = None,
        home: Path | None = None,
        allow_simulated: bool = False,
        allow_insecure_srs: bool = False,
        allow_out_of_range: bool = False,
        require_hybrid: bool = False,
        platform_policy: Path | None = None,
        allow_plain_http: bool = False,
        allow_unsigned: bool = False,
        passphrase: Given = None,
        allow_plaintext_keys: bool = False,
        tls: TlsFiles = NO_TLS,
        notify: Callable[[Json], None] = silent,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            gateway: Its address, or its name at `privacy login`; else
                `$PRIVACY_GATEWAY`, else as saved by `privacy login`, else loopback.
            api_key: Or a token. Else `$PRIVACY_API_KEY`, else what the file
                `$PRIVACY_TOKEN_FILE` holds, else as saved for that gateway.
            home: Folder for keys, pins and receipts.
            allow_simulated: Accept a simulated enclave in mode `tee`. It protects
                nothing from the operator: for development only.
            allow_insecure_srs: In mode `zkml` accept proofs under an SRS that its maker
                can forge with: for development, or where you trust the publisher.
            allow_out_of_range: Ask about values that the model was not calibrated on;
                the answer's caveats name them. Refused by default.
            require_hybrid: In mode `tee` refuse an enclave without ML-KEM, rather than
                seal to its X25519 key with a caveat.
            platform_policy: In mode `tee`, what the machine below an enclave must show
                where hardware measured it as a whole: TOML, as for `attest verify`.
            allow_plain_http: Send the API key unencrypted to another machine; also
                `$PRIVACY_ALLOW_PLAIN_HTTP`. For networks that encrypt by themselves.
            allow_unsigned: Use models that no publisher signed; the answer says so.
            passphrase: Of the FHE keys, or a function that asks for it, told whether a
                new one is chosen; it is asked once, and only if neither
                `$PRIVACY_PASSPHRASE` nor the system's keyring gives one.
            allow_plaintext_keys: Without a passphrase, keep FHE keys unprotected.
            tls: Whose certificate the gateway must show, and the one to show it; else
                `$PRIVACY_TLS_CA`, `…_CERT` and `…_KEY`, else as saved for it.
            notify: Called with `{"stage": …}` as long work goes on.
            transport: For tests and proxies.
        """
        super().__init__(
            gateway,
            api_key,
            home,
            notify,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            allow_out_of_range=allow_out_of_range,
            require_hybrid=require_hybrid,
            platform_policy=platform_policy,
            allow_plain_http=allow_plain_http,
            allow_unsigned=allow_unsigned,
            passphrase=passphrase,
            allow_plaintext_keys=allow_plaintext_keys,
            tls=tls,
        )
        self.driver = self._driver = SyncDriver(
            self.gateway,
            self.api_key,
            transport,
            token_file=self.token_file,
            tls=self.tls,
        )

    def infer(  # noqa: PLR0913 - every one is a choice of the data owner's
        self,
        model: str,
        rows: Rows,
        *,
        mode: str | Mode,
        verify_runs: int = 0,
        verify_share: float = 1.0,
        verify_tolerance: float | None = None,
        verify_with: Sequence["Client"] = (),
        policy: Policy | None = None,
        verify: str = "",
    ) -> Answer:
        """Return the verified answer for rows of raw features.

        In mode `fhe` nothing shows that the node ran the model. `verify_runs` has
        sampled rows encrypted anew and answered again, and compares.

        Args:
            model: `name`, `name/version` or either with `@sha256` to pin it.
            rows: Shape (rows, features), finite: lists or an array in the manifest's
                column order, or a data frame, whose columns go by name.
            mode: `fhe`, `zkml`, `tee`, `tee+zkml`, or `auto` for what `policy` chooses.
            verify_runs: Second runs; one for each of `verify_with` if not given.
            verify_share: The chance of each row to be asked again, above 0 to 1.
            verify_tolerance: How far outputs of two runs may differ; by default as far
                as the manifest says of honest nodes.
            verify_with: Clients of other gateways that serve the same model, best
                of other operators, to ask in turn. Without any, this one's, which picks
                the node itself, often the same: `verify="always"` has it take another.
            policy: With mode `auto`, what to hide and prove, and at what cost; the
                receipt's options tell it, and `chosen` of the answer why this mode.
            verify: `always`, `never` or `sampled`: whether the gateway looks at the job
                twice, after the first answer; see `compare`.

        Raises:
            VerificationError: Among others, if two runs answered differently.
            PrivacyError: See `privacy.errors` for the family; nothing is returned
                that was not verified.
        """
        meter = Meter()
        again = (verify_runs, verify_share, verify_tolerance, verify_with)
        flow = self._infer(model, rows, mode, meter, again, policy, verify)
        return self._driver.run(flow, meter)

    def compare(self, job_id: str, *, wait_s: float = 60.0) -> Compared:
        """Compare the runs of a job that is looked at twice, and report to the gateway.

        Args:
            job_id: Of the first answer, whose receipt is kept in the home folder.
            wait_s: How long to wait for the other run.

        Raises:
            VerificationError: The runs differ, and the first is not the majority's.
            PrivacyError: See `privacy.client.compare`.
        """
        return self._driver.run(self._compare(job_id, wait_s))

    def waiting_jobs(self) -> list[str]:
        """Return jobs of this home folder that wait for `compare`."""
        return self._driver.run(self._waiting_jobs())

    def choose(self, model: str, policy: Policy, *, rows: int = 1) -> Choice:
        """Return the mode that a policy chooses for a job of so many rows, and why.

        Raises:
            NotFoundError: No mode fits; the message says why of each.
        """
        return self._driver.run(self._choose(model, rows, policy))

    def estimate(self, model: str, *, rows: int = 1, mode: str | None = None) -> Json:
        """Return what a job of so many rows will take; see `POST /v1/estimates`."""
        return self._driver.run(self._estimate(model, rows, mode))

    def connect(
        self,
        model: str,
        rows: Rows | None = None,
        *,
        tell: Callable[[Json], None] = silent,
    ) -> Answer | None:
        """Attest a model's enclave, and have rows answered there.

        What each step found is told at once, as `{"step": …}`: `nonce`, `evidence`
        (with its bytes as `raw`), a `check` for every line, `attested`, and with rows
        `seal` and `answer`. Nothing is sealed to an enclave that a check refused.

        Args:
            model: As in `infer`.
            rows: To be answered in mode `tee`; None to attest only.
            tell: Hears the steps.

        Returns:
            The verified answer, None without rows.
        """
        meter = Meter()
        return self._driver.run(self._connect(model, rows, tell, meter), meter)

    def models(self) -> list[Json]:
        """Return what the gateway offers."""
        return self._driver.run(self._list("models"))

    def model(self, reference: str) -> Bundle:
        """Return a model's pinned manifest (in a partial bundle)."""
        return self._driver.run(self._model(reference))

    def fetch(self, reference: str) -> Bundle:
        """Return a model after keeping all its public files, for checks offline."""
        return self._driver.run(self._fetch(reference))

    def jobs(self, *, limit: int = 50) -> list[Json]:
        """Return the newest jobs."""
        return self._driver.run(self._list("jobs", limit=str(limit)))

    def job(self, job_id: str) -> Json:
        """Return one job."""
        return self._driver.run(self._job("GET", job_id))

    def cancel(self, job_id: str) -> Json:
        """Cancel a job and return it."""
        return self._driver.run(self._job("DELETE", job_id))

    def delete_result(self, job_id: str) -> None:
        """Have the gateway delete what a finished job gave; its receipt stays."""
        self._driver.run(self._delete_result(job_id))

    def log_head(self) -> TreeHead:
        """Return the gateway's signed tree head, compared with those seen before.

        Raises:
            VerificationError: The gateway has changed or forked its log.
        """
        return self._driver.run(self._log_head())

    def fetch_log_entries(
        self, receipts: Sequence[Path], *, wait_s: float = 3.0
    ) -> list[Path]:
        """Write receipts' places in the gateway's log beside them, once checked.

        Args:
            receipts: Receipt files, such as an answer's.
            wait_s: How long to wait until they are logged.

        Raises:
            NotFoundError: One is not in the log.
            VerificationError: A proof does not hold, or the log forked.
        """
        return self._driver.run(self._fetch_log_entries(receipts, wait_s))

    def audit_log(self) -> Json:
        """Read all of the gateway's log; every receipt kept here must be in it.

        Raises:
            VerificationError: It does not make the signed root, or lacks a receipt.
        """
        return self._driver.run(self._audit_log())

    def rotate_keys(self, key_id: str) -> KeyInfo:
        """Return new FHE keys in place of these, which are retired but kept.

        Raises:
            NotFoundError: No such key, or no model that uses it is in the home folder.
        """
        return self._driver.run(self._rotate_keys(key_id))

    def uploads(self) -> Json:
        """Return what the gateway keeps of yours, and how much it allows."""
        return self._driver.run(self._uploads())

    def delete_upload(self, sha256: str) -> None:
        """Have the gateway delete an upload of yours."""
        self._driver.run(self._delete_upload(sha256))

    def delete_uploaded_keys(self, key_id: str) -> None:
        """Have the gateway delete the evaluation keys of a key."""
        self._driver.run(self._delete_uploaded_keys(key_id))

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow of your own, such as one from `privacy.client.wire`."""
        return self._driver.run(flow)

    def close(self) -> None:
        """Close the connection."""
        self._driver.close()
        self._context.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()
