"""The SDK of the data owner: answers that were checked before you see them.

    from privacy.client import Client
    with Client("http://127.0.0.1:8400", api_key="pk_…") as client:
        answer = client.infer("breast-cancer", [[17.99, 10.38, …]], mode="fhe")
        print(answer.rows[0].label, answer.checks)

`AsyncClient` has the same methods, awaited. Both keep keys, pins and receipts in a
folder of the data owner's (`$PRIVACY_HOME`, or `~/.privacy`).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from privacy.bundle import Bundle
from privacy.client.answer import Answer, Check, Row
from privacy.client.drive import AsyncDriver, SyncDriver
from privacy.client.fhe_keys import rotate
from privacy.client.home import Home
from privacy.client.infer import Meter, infer
from privacy.client.keystore import KeyInfo, KeyStore
from privacy.client.model import fetch_files, fetch_model
from privacy.client.offline import Verdict, verify_saved
from privacy.client.passphrase import Given, Unlock
from privacy.client.second_run import SecondRuns, infer_compared
from privacy.client.sessions import Context
from privacy.client.wire import Call, Flow, Work
from privacy.encoding import Json, check_sha256
from privacy.errors import AuthError, NotFoundError
from privacy.files import default_home
from privacy.modes import Mode, parse_mode

__all__ = [
    "Answer",
    "AsyncClient",
    "Check",
    "Client",
    "Row",
    "Verdict",
    "verify_saved",
]

DEFAULT_GATEWAY = "http://127.0.0.1:8400"
_PLAIN_HTTP = "PRIVACY_ALLOW_PLAIN_HTTP"
_UPLOADS = {"/v1/keys": "evaluation keys", "/v1/blobs": "input"}
_DELETED = 204
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
Rows = Sequence[Sequence[float]]


def _silent(_: Json) -> None:
    return None


class _Common:
    """What both clients share: configuration, and flows that need no mode."""

    driver: Any

    def __init__(  # noqa: PLR0913 - every one is a choice of the data owner's
        self,
        gateway: str | None,
        api_key: str | None,
        home: Path | None,
        notify: Callable[[Json], None],
        *,
        allow_simulated: bool,
        allow_insecure_srs: bool,
        allow_out_of_range: bool,
        allow_plain_http: bool,
        allow_unsigned: bool,
        passphrase: Given,
        allow_plaintext_keys: bool,
    ) -> None:
        self.home = Home(home or default_home())
        config = self.home.config()
        self.gateway = self.home.address(
            gateway
            or os.environ.get("PRIVACY_GATEWAY")
            or config.get("gateway")
            or DEFAULT_GATEWAY
        ).rstrip("/")
        self.api_key = (
            api_key
            or os.environ.get("PRIVACY_API_KEY")
            or self.home.api_key(self.gateway)
        )
        if self.api_key and not (allow_plain_http or os.environ.get(_PLAIN_HTTP)):
            _refuse_plain_http(self.gateway)
        self._context = Context(
            home=self.home,
            gateway=self.gateway,
            notify=notify,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            allow_out_of_range=allow_out_of_range,
            unlock=Unlock(
                passphrase,
                keyring_name=f"fhe-keys {self.home.root.resolve()}"
                if config.get("keyring")
                else "",
                allow_plaintext=allow_plaintext_keys,
            ),
        )
        self._allow_unsigned = allow_unsigned
        self._models: dict[str, Bundle] = {}

    def asked(
        self, model: str, rows: Any, mode: str, meter: Meter, *, keep_input: bool
    ) -> Flow[Answer]:
        """Return a flow that asks once; see `Client.infer`."""
        if not self.api_key:
            msg = (
                f"no API key for {self.gateway}: give one, set PRIVACY_API_KEY, or run "
                "`privacy login`"
            )
            raise AuthError(msg)
        chosen = parse_mode(mode)
        bundle = yield from self._model(model)
        plain = [[_plain(x) for x in row] for row in rows]
        return (
            yield from infer(
                self._context, bundle, chosen, plain, meter, keep_input=keep_input
            )
        )

    def _infer(
        self,
        model: str,
        rows: Any,
        mode: str,
        meter: Meter,
        again: tuple[int, float, float, Sequence["_Common"]],
    ) -> Flow[Answer]:
        runs, share, tolerance, others = again
        runs = runs or len(others)
        if not runs:
            return (yield from self.asked(model, rows, mode, meter, keep_input=False))
        wanted = SecondRuns(
            runs=runs, share=share, tolerance=tolerance, askers=others or (self,)
        )
        wanted.check(parse_mode(mode))
        return (yield from infer_compared(self, model, rows, mode, meter, wanted))

    def _model(self, reference: str) -> Flow[Bundle]:
        if reference not in self._models:
            self._models[reference] = yield from fetch_model(
                self.home,
                self.gateway,
                reference,
                allow_unsigned=self._allow_unsigned,
            )
        return self._models[reference]

    def _fetch(self, reference: str) -> Flow[Bundle]:
        bundle = yield from self._model(reference)
        for mode in Mode:
            yield from fetch_files(bundle, mode, self._context.notify)
        return bundle

    @property
    def keys(self) -> KeyStore:
        """Your FHE keys: list, load, export, import, remove."""
        return self._context.store

    def _rotate_keys(self, key_id: str) -> Flow[KeyInfo]:
        made: KeyInfo = yield Work(lambda: rotate(self._context, key_id))
        return made

    def _uploads(self) -> Flow[Json]:
        found: Json = {}
        uploads: list[Json] = []
        for path, kind in _UPLOADS.items():
            reply = yield Call("GET", path)
            found = reply.object("uploads")
            uploads += [{"kind": kind, **u} for u in reply.objects("uploads")]
        return {**found, "uploads": uploads}

    @staticmethod
    def _delete_upload(sha256: str) -> Flow[None]:
        """Delete an upload, whether it is an input or evaluation keys."""
        found = False
        for path in _UPLOADS:
            call = Call("DELETE", f"{path}/{check_sha256(sha256)}", accept=(204, 404))
            found |= (yield call).status == _DELETED
        if not found:
            msg = f"the gateway has no upload {sha256[:12]}… of yours"
            raise NotFoundError(msg, code="unknown-upload")

    def _delete_uploaded_keys(self, key_id: str) -> Flow[None]:
        info = self.keys.info(key_id)
        if info.evaluation_sha256:
            path = f"/v1/keys/{info.evaluation_sha256}"
            yield Call("DELETE", path, accept=(204, 404))
        self.keys.note(key_id, not_uploaded=self.gateway)

    @staticmethod
    def _list(name: str, **params: str) -> Flow[list[Json]]:
        reply = yield Call("GET", f"/v1/{name}", params=params)
        return reply.objects(name)  # type: ignore[no-any-return]

    @staticmethod
    def _job(method: str, job_id: str) -> Flow[Json]:
        reply = yield Call(method, f"/v1/jobs/{quote(job_id, safe='')}")
        return reply.object("job")  # type: ignore[no-any-return]


def _refuse_plain_http(gateway: str) -> None:
    """Refuse to send an API key in the clear to another machine."""
    try:
        url = httpx.URL(gateway)
    except httpx.InvalidURL:
        return  # refused as an address, later
    if url.scheme == "http" and url.host not in _LOOPBACK:
        msg = (
            f"{gateway} is not encrypted, and your API key would cross the network in "
            f"the clear: use https, or set {_PLAIN_HTTP}=1 if the network encrypts"
        )
        raise AuthError(msg, code="plain-http")


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, anything else as it is."""
    return value.item() if hasattr(value, "item") else value


class Client(_Common):
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
        allow_plain_http: bool = False,
        allow_unsigned: bool = False,
        passphrase: Given = None,
        allow_plaintext_keys: bool = False,
        notify: Callable[[Json], None] = _silent,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            gateway: Its address, or its name at `privacy login`; else
                `$PRIVACY_GATEWAY`, else as saved by `privacy login`, else loopback.
            api_key: Else `$PRIVACY_API_KEY`, else as saved for that gateway.
            home: Folder for keys, pins and receipts.
            allow_simulated: Accept a simulated enclave in mode `tee`. It protects
                nothing from the operator: for development only.
            allow_insecure_srs: In mode `zkml` accept proofs under an SRS that its maker
                can forge with: for development, or where you trust the publisher.
            allow_out_of_range: Ask about values that the model was not calibrated on;
                the answer's caveats name them. Refused by default.
            allow_plain_http: Send the API key unencrypted to another machine; also
                `$PRIVACY_ALLOW_PLAIN_HTTP`. For networks that encrypt by themselves.
            allow_unsigned: Use models that no publisher signed; the answer says so.
            passphrase: Of the FHE keys, or a function that asks for it, told whether a
                new one is chosen; it is asked once, and only if neither
                `$PRIVACY_PASSPHRASE` nor the system's keyring gives one.
            allow_plaintext_keys: Without a passphrase, keep FHE keys unprotected.
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
            allow_plain_http=allow_plain_http,
            allow_unsigned=allow_unsigned,
            passphrase=passphrase,
            allow_plaintext_keys=allow_plaintext_keys,
        )
        self.driver = self._driver = SyncDriver(self.gateway, self.api_key, transport)

    def infer(
        self,
        model: str,
        rows: Rows,
        *,
        mode: str | Mode,
        verify_runs: int = 0,
        verify_share: float = 1.0,
        verify_tolerance: float = 0.0,
        verify_with: Sequence["Client"] = (),
    ) -> Answer:
        """Return the verified answer for rows of raw features.

        In mode `fhe` nothing shows that the node ran the model. `verify_runs` has
        sampled rows encrypted anew and answered again, and compares.

        Args:
            model: `name`, `name/version` or either with `@sha256` to pin it.
            rows: Shape (rows, features), finite, in the manifest's column order.
            mode: `fhe`, `zkml` or `tee`.
            verify_runs: Second runs; one for each of `verify_with` if not given.
            verify_share: The chance of each row to be asked again, above 0 to 1.
            verify_tolerance: How far outputs of two runs may differ.
            verify_with: Clients of other gateways that serve the same model, best
                of other operators, to ask in turn; without any, this one's.

        Raises:
            VerificationError: Among others, if two runs answered differently.
            PrivacyError: See `privacy.errors` for the family; nothing is returned
                that was not verified.
        """
        meter = Meter()
        again = (verify_runs, verify_share, verify_tolerance, verify_with)
        return self._driver.run(self._infer(model, rows, mode, meter, again), meter)

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


class AsyncClient(_Common):
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
        allow_plain_http: bool = False,
        allow_unsigned: bool = False,
        passphrase: Given = None,
        allow_plaintext_keys: bool = False,
        notify: Callable[[Json], None] = _silent,
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
            allow_plain_http=allow_plain_http,
            allow_unsigned=allow_unsigned,
            passphrase=passphrase,
            allow_plaintext_keys=allow_plaintext_keys,
        )
        self.driver = self._driver = AsyncDriver(self.gateway, self.api_key, transport)

    async def infer(
        self,
        model: str,
        rows: Rows,
        *,
        mode: str | Mode,
        verify_runs: int = 0,
        verify_share: float = 1.0,
        verify_tolerance: float = 0.0,
        verify_with: Sequence["AsyncClient"] = (),
    ) -> Answer:
        """Return the verified answer for rows of raw features; see `Client.infer`."""
        meter = Meter()
        again = (verify_runs, verify_share, verify_tolerance, verify_with)
        flow = self._infer(model, rows, mode, meter, again)
        return await self._driver.run(flow, meter)

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
