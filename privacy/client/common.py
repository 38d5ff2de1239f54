"""What the synchronous and the asynchronous client share: no I/O happens here."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from privacy.bundle import Bundle
from privacy.choose import AUTO, Choice, Policy
from privacy.client.answer import Answer
from privacy.client.auto import choose_mode, estimates
from privacy.client.bearer import TOKEN_FILE
from privacy.client.compare import Compared, compare, waiting_jobs
from privacy.client.context import Context, Extras, load_platform_policy
from privacy.client.fhe_keys import rotate
from privacy.client.home import Home
from privacy.client.infer import Meter, infer
from privacy.client.keystore import KeyInfo, KeyStore
from privacy.client.log import audit_log, fetch_entries, fetch_head
from privacy.client.model import fetch_files, fetch_model
from privacy.client.passphrase import Given, Unlock
from privacy.client.rows import as_rows
from privacy.client.second_run import Run, SecondRuns, infer_compared, open_run
from privacy.client.sessions import attest_only
from privacy.client.wire import Call, Flow, Work
from privacy.encoding import Json, check_sha256
from privacy.errors import AuthError, FormatError, NotFoundError
from privacy.files import default_home
from privacy.modes import Mode, parse_mode
from privacy.runs import MAX_ROWS
from privacy.tls import TlsFiles, files_of_environment
from privacy.transparency.tree_head import TreeHead

DEFAULT_GATEWAY = "http://127.0.0.1:8400"
_PLAIN_HTTP = "PRIVACY_ALLOW_PLAIN_HTTP"
_UPLOADS = {"/v1/keys": "evaluation keys", "/v1/blobs": "input"}
_VERIFY = frozenset({"", "always", "never", "sampled"})
_DELETED = 204
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
Rows = Any
"""Lists of lists, an array of shape (rows, features), or a data frame."""


def check_row_count(rows: int) -> None:
    """Refuse a number of rows that no job can have.

    Raises:
        FormatError: It is none, or too many.
    """
    if not 1 <= rows <= MAX_ROWS:
        msg = f"{rows} rows: a job takes 1 to {MAX_ROWS}"
        raise FormatError(msg, code="too-many-rows" if rows > 0 else "no-rows")


def silent(_: Json) -> None:
    """Tell nobody."""
    return


class Common:
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
        require_hybrid: bool,
        platform_policy: Path | None,
        allow_plain_http: bool,
        allow_unsigned: bool,
        passphrase: Given,
        allow_plaintext_keys: bool,
        tls: TlsFiles,
    ) -> None:
        self.home = Home(home or default_home())
        config = self.home.config()
        self.gateway = self.home.address(
            gateway
            or os.environ.get("PRIVACY_GATEWAY")
            or config.get("gateway")
            or DEFAULT_GATEWAY
        ).rstrip("/")
        self.api_key = api_key or os.environ.get("PRIVACY_API_KEY") or ""
        file = os.environ.get(TOKEN_FILE)
        self.token_file = Path(file) if file and not self.api_key else None
        if not (self.api_key or self.token_file):
            self.api_key = self.home.api_key(self.gateway)
        self.tls = tls or files_of_environment() or self.home.tls(self.gateway)
        self._has_key = bool(self.api_key or self.token_file)
        if self._has_key and not (allow_plain_http or os.environ.get(_PLAIN_HTTP)):
            _refuse_plain_http(self.gateway)
        self._context = Context(
            home=self.home,
            gateway=self.gateway,
            notify=notify,
            allow_simulated=allow_simulated,
            allow_insecure_srs=allow_insecure_srs,
            allow_out_of_range=allow_out_of_range,
            require_hybrid=require_hybrid,
            platform=load_platform_policy(platform_policy),
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
        self,
        model: str,
        rows: Any,
        mode: str,
        meter: Meter,
        *,
        keep_input: bool,
        extras: Extras | None = None,
    ) -> Flow[Answer]:
        """Return a flow that asks once; see `Client.infer`."""
        if not self._has_key:
            msg = (
                f"no API key for {self.gateway}: give one, set PRIVACY_API_KEY, or run "
                "`privacy login`"
            )
            raise AuthError(msg)
        chosen = parse_mode(mode)
        bundle = yield from self._model(model)
        plain = yield from self._rows(model, rows)
        context = replace(self._context, extras=extras or Extras())
        return (
            yield from infer(
                context, bundle, chosen, plain, meter, keep_input=keep_input
            )
        )

    def opened(self, answer: Answer) -> Flow[Run]:
        """Return a flow that opens an answer of mode fhe again, as integers."""
        bundle = yield from self._model(f"{answer.model}@{answer.model_sha256}")
        return (yield from open_run(self._context, bundle, answer))

    def _infer(
        self,
        model: str,
        rows: Any,
        mode: str,
        meter: Meter,
        again: tuple[int, float, float | None, Sequence["Common"]],
        policy: Policy | None,
        verify: str,
    ) -> Flow[Answer]:
        if verify not in _VERIFY:
            msg = f"verify is {verify[:40]!r}: expected always, never or sampled"
            raise FormatError(msg, code="usage")
        if (mode == AUTO) != (policy is not None):
            msg = "a policy chooses the mode if that is auto: give both or neither"
            raise FormatError(msg, code="usage")
        extras = Extras(verify=verify)
        if policy is None:
            return (yield from self._infer_in(model, rows, mode, meter, again, extras))
        rows = yield from self._rows(model, rows)
        choice = yield from self._choose(model, len(rows), policy)
        options = {"mode": AUTO, "policy": policy.as_dict()}
        extras = replace(extras, options=options)
        answer = yield from self._infer_in(
            model, rows, choice.mode, meter, again, extras
        )
        return replace(answer, chosen=choice.why)

    def _choose(self, model: str, rows: int, policy: Policy) -> Flow[Choice]:
        bundle = yield from self._model(model)
        check_row_count(rows)
        return (yield from choose_mode(self._context, bundle, rows, policy))

    def _compare(self, job_id: str, wait_s: float) -> Flow[Compared]:
        return (yield from compare(self._context, job_id, wait_s=wait_s))

    def _waiting_jobs(self) -> Flow[list[str]]:
        return (yield from waiting_jobs(self._context))

    def _estimate(self, model: str, rows: int, mode: str | None) -> Flow[Json]:
        bundle = yield from self._model(model)
        check_row_count(rows)
        modes = (parse_mode(mode),) if mode else ()
        return (yield from estimates(bundle, rows, modes))

    def _infer_in(
        self,
        model: str,
        rows: Any,
        mode: str,
        meter: Meter,
        again: tuple[int, float, float | None, Sequence["Common"]],
        extras: Extras | None = None,
    ) -> Flow[Answer]:
        runs, share, tolerance, others = again
        runs = runs or len(others)
        if not runs:
            return (
                yield from self.asked(
                    model, rows, mode, meter, keep_input=False, extras=extras
                )
            )
        wanted = SecondRuns(
            runs=runs, share=share, tolerance=tolerance, askers=others or (self,)
        )
        wanted.check(parse_mode(mode))
        rows = yield from self._rows(model, rows)
        return (
            yield from infer_compared(self, model, rows, mode, meter, wanted, extras)
        )

    def _connect(
        self, model: str, rows: Any | None, tell: Callable[[Json], None], meter: Meter
    ) -> Flow[Answer | None]:
        bundle = yield from self._model(model)
        bundle.manifest.mode(Mode.TEE)
        context = replace(self._context, tell=tell)
        if rows is None:
            yield from attest_only(context, bundle)
            return None
        plain = yield from self._rows(model, rows)
        return (yield from infer(context, bundle, Mode.TEE, plain, meter))

    def _rows(self, model: str, rows: Any) -> Flow[list[list[Any]]]:
        bundle = yield from self._model(model)
        return as_rows(rows, [c.name for c in bundle.manifest.columns])

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

    def _log_head(self) -> Flow[TreeHead]:
        head, _ = yield from fetch_head(self.home, self.gateway)
        return head

    def _fetch_log_entries(
        self, receipts: Sequence[Path], wait_s: float
    ) -> Flow[list[Path]]:
        flow = fetch_entries(self.home, self.gateway, receipts, wait_s=wait_s)
        return (yield from flow)

    def _audit_log(self) -> Flow[Json]:
        return (yield from audit_log(self.home, self.gateway))

    @staticmethod
    def _delete_result(job_id: str) -> Flow[None]:
        yield Call("DELETE", f"/v1/jobs/{quote(job_id, safe='')}/result")

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
