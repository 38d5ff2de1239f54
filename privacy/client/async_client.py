"""The client whose methods are awaited."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from privacy.bundle import Bundle
from privacy.choose import Choice, Policy
from privacy.client.answer import Answer
from privacy.client.common import Common, Rows, silent
from privacy.client.compare import Compared
from privacy.client.drive import AsyncDriver
from privacy.client.infer import Meter
from privacy.client.keystore import KeyInfo
from privacy.client.passphrase import Given
from privacy.client.wire import Flow
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.tls import NO_TLS, TlsFiles
from privacy.transparency.tree_head import TreeHead


class AsyncClient(Common):
    """The data owner's asynchronous client; see `Client` for the arguments."""

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet."""
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
        self.driver = self._driver = AsyncDriver(
            self.gateway,
            self.api_key,
            transport,
            token_file=self.token_file,
            tls=self.tls,
        )

    async def infer(  # noqa: PLR0913 - as for `Client`
        self,
        model: str,
        rows: Rows,
        *,
        mode: str | Mode,
        verify_runs: int = 0,
        verify_share: float = 1.0,
        verify_tolerance: float | None = None,
        verify_with: Sequence["AsyncClient"] = (),
        policy: Policy | None = None,
        verify: str = "",
    ) -> Answer:
        """Return the verified answer for rows of raw features; see `Client.infer`."""
        meter = Meter()
        again = (verify_runs, verify_share, verify_tolerance, verify_with)
        flow = self._infer(model, rows, mode, meter, again, policy, verify)
        return await self._driver.run(flow, meter)

    async def compare(self, job_id: str, *, wait_s: float = 60.0) -> Compared:
        """Compare the runs of a job that is looked at twice; see `Client.compare`."""
        return await self._driver.run(self._compare(job_id, wait_s))

    async def waiting_jobs(self) -> list[str]:
        """Return jobs of this home folder that wait for `compare`."""
        return await self._driver.run(self._waiting_jobs())

    async def choose(self, model: str, policy: Policy, *, rows: int = 1) -> Choice:
        """Return the mode that a policy chooses; see `Client.choose`."""
        return await self._driver.run(self._choose(model, rows, policy))

    async def estimate(
        self, model: str, *, rows: int = 1, mode: str | None = None
    ) -> Json:
        """Return what a job of so many rows will take; see `Client.estimate`."""
        return await self._driver.run(self._estimate(model, rows, mode))

    async def connect(
        self,
        model: str,
        rows: Rows | None = None,
        *,
        tell: Callable[[Json], None] = silent,
    ) -> Answer | None:
        """Attest a model's enclave, and have rows answered; see `Client.connect`."""
        meter = Meter()
        return await self._driver.run(self._connect(model, rows, tell, meter), meter)

    async def models(self) -> list[Json]:
        """Return what the gateway offers."""
        return await self._driver.run(self._list("models"))

    async def model(self, reference: str) -> Bundle:
        """Return a model's pinned manifest (in a partial bundle)."""
        return await self._driver.run(self._model(reference))

    async def fetch(self, reference: str) -> Bundle:
        """Return a model after keeping all its public files, for checks offline."""
        return await self._driver.run(self._fetch(reference))

    async def jobs(self, *, limit: int = 50) -> list[Json]:
        """Return the newest jobs."""
        return await self._driver.run(self._list("jobs", limit=str(limit)))

    async def job(self, job_id: str) -> Json:
        """Return one job."""
        return await self._driver.run(self._job("GET", job_id))

    async def cancel(self, job_id: str) -> Json:
        """Cancel a job and return it."""
        return await self._driver.run(self._job("DELETE", job_id))

    async def delete_result(self, job_id: str) -> None:
        """Have the gateway delete a result; see `Client.delete_result`."""
        await self._driver.run(self._delete_result(job_id))

    async def log_head(self) -> TreeHead:
        """Return the gateway's signed tree head; see `Client.log_head`."""
        return await self._driver.run(self._log_head())

    async def fetch_log_entries(
        self, receipts: Sequence[Path], *, wait_s: float = 3.0
    ) -> list[Path]:
        """Write receipts' log entries beside them; see `Client.fetch_log_entries`."""
        return await self._driver.run(self._fetch_log_entries(receipts, wait_s))

    async def audit_log(self) -> Json:
        """Read all of the gateway's log; see `Client.audit_log`."""
        return await self._driver.run(self._audit_log())

    async def rotate_keys(self, key_id: str) -> KeyInfo:
        """Return new FHE keys in place of these; see `Client.rotate_keys`."""
        return await self._driver.run(self._rotate_keys(key_id))

    async def uploads(self) -> Json:
        """Return what the gateway keeps of yours, and how much it allows."""
        return await self._driver.run(self._uploads())

    async def delete_upload(self, sha256: str) -> None:
        """Have the gateway delete an upload of yours."""
        await self._driver.run(self._delete_upload(sha256))

    async def delete_uploaded_keys(self, key_id: str) -> None:
        """Have the gateway delete the evaluation keys of a key."""
        await self._driver.run(self._delete_uploaded_keys(key_id))

    async def run(self, flow: Flow[Any]) -> Any:
        """Run a flow of your own, such as one from `privacy.client.wire`."""
        return await self._driver.run(flow)

    async def close(self) -> None:
        """Close the connection."""
        await self._driver.close()
        self._context.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()
