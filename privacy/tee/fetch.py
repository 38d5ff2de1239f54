"""Collateral from the vendors' own services, over HTTPS.

An answer is used only if it is of the kind that was asked for, about what was asked
for, current, and brought under the pinned root. Its signature counts later, when
evidence is verified with it: the services are not trusted, they are asked.

Nothing is followed elsewhere, and everything has limits: the size of an answer, the
time for it, and how often and how long a busy service is waited for.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from privacy.errors import (
    CannotVerifyError,
    FormatError,
    LimitError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.tee.collateral import Collateral, parse_collateral
from privacy.tee.detect import pem_certificates
from privacy.tee.inventory import inventory
from privacy.tee.services import SERVICES, Wanted, wanted, wanted_of_rims
from privacy.tee.trust import TrustStore

MAX_ANSWER_BYTES = 1 << 22
_MAX_CHAIN_BYTES = 1 << 15
_LOCAL = {("http", host) for host in ("localhost", "127.0.0.1", "::1")}
_OK, _NOT_FOUND, _TOO_MANY, _BROKEN = 200, 404, 429, 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered.

    Attributes:
        body: As it came.
        chain: PEM certificates of its signer, root last; empty if none came.
    """

    body: bytes
    chain: bytes = b""

    def collateral(self) -> Collateral:
        """Return what is in it."""
        found = parse_collateral(self.body, what="the answer")
        return found + Collateral(certificates=pem_certificates(self.chain))


class Keep(Protocol):
    """Where answers are kept."""

    def get(self, asked: Wanted, url: str) -> Answer | None:
        """Return the answer that is kept and still counts, or None."""
        ...

    def put(self, asked: Wanted, url: str, answer: Answer) -> None:
        """Keep an answer."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a service is waited for.

    Attributes:
        answer_s: For one answer, from connecting to its last byte.
        tries: How often a service that is busy, broken or gone is asked.
        wait_s: Before asking again, doubled each time; a service may say itself.
        longest_wait_s: What a service may ask to wait.
    """

    answer_s: float = 20.0
    tries: int = 3
    wait_s: float = 0.5
    longest_wait_s: float = 15.0


@dataclass(frozen=True)
class VendorCollateral:
    """Asks the vendors, and keeps what they answer.

    Attributes:
        trust_store: Whose roots answers must come under.
        keep: Where answers are looked up first and kept; nowhere if None.
        services: Addresses by name, where they are not the vendors' own.
        product: AMD's processor family, for reports that do not name it.
        beside: Certificates that came with the evidence, DER.
        refresh: Ask also for what is kept.
        progress: Told about every answer that is asked for.
    """

    trust_store: TrustStore
    keep: Keep | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    product: str | None = None
    beside: Sequence[bytes] = ()
    refresh: bool = False
    patience: Patience = Patience()
    progress: Callable[[str], None] = lambda _: None

    def collateral(self, evidence: bytes) -> Collateral:
        """Return what the vendors say about the evidence in a file.

        Raises:
            FormatError: No evidence that is known, or an answer that is no such thing.
            NotFoundError: The vendor knows no such platform.
            LimitError: An answer is too large.
            UnavailableError: A service does not answer, or wants to be asked later.
            VerificationError: An answer does not come under a pinned root.
            CannotVerifyError: An answer is out of date, or evidence says too little.
        """
        asked = wanted(evidence, product=self.product, beside=self.beside)
        found = asyncio.run(self._all(asked))
        return found + asyncio.run(self._all(wanted_of_rims(found.rims)))

    async def _all(self, asked: Sequence[Wanted]) -> Collateral:
        found = Collateral()
        if not asked:
            return found
        timeout = httpx.Timeout(self.patience.answer_s)
        async with httpx.AsyncClient(timeout=timeout) as http:
            for one in asked:
                answer = await self._one(http, one)
                found += answer.collateral()
        return found

    async def _one(self, http: httpx.AsyncClient, asked: Wanted) -> Answer:
        url = self._address(asked.service) + asked.path
        kept = self.keep and not self.refresh and self.keep.get(asked, url)
        if kept:
            return kept
        self.progress(f"{asked.words} from {urlsplit(url).hostname}")
        answer = await self._ask(http, asked, url)
        _check(asked, answer, self.trust_store)
        if self.keep:
            self.keep.put(asked, url, answer)
        return answer

    def _address(self, service: str) -> str:
        address = self.services.get(service, SERVICES[service]).rstrip("/")
        parts = urlsplit(address)
        secure = parts.scheme == "https" and parts.hostname
        if not secure and (parts.scheme, parts.hostname) not in _LOCAL:
            msg = f"the address of {service} is none that begins with https://"
            raise FormatError(msg, code="bad-address")
        return address

    async def _ask(self, http: httpx.AsyncClient, asked: Wanted, url: str) -> Answer:
        wait_s = self.patience.wait_s
        for left in reversed(range(self.patience.tries)):
            try:
                async with asyncio.timeout(self.patience.answer_s):
                    return await _get(http, asked, url)
            except TimeoutError as exc:
                reason = _Later(f"no whole answer in {self.patience.answer_s:g} s")
                reason.__cause__ = exc
            except httpx.HTTPError as exc:
                reason = _Later(f"{type(exc).__name__}")
                reason.__cause__ = exc
            except _Later as exc:
                reason = exc
            pause_s = wait_s if reason.after_s is None else reason.after_s
            if not left or pause_s > self.patience.longest_wait_s:
                break
            await asyncio.sleep(pause_s)
            wait_s *= 2
        else:
            raise ValueError("tries must be positive")
        later = f"in {reason.after_s:g} s" if reason.after_s else "later"
        msg = f"{_host(url)} does not give {asked.words}: {reason}; try again {later}"
        raise UnavailableError(msg, code="collateral-unavailable") from reason


class _Later(Exception):  # noqa: N818 - it says what to do
    """The service may answer when asked again."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the service"


async def _get(http: httpx.AsyncClient, asked: Wanted, url: str) -> Answer:
    headers = {"Accept-Encoding": "identity"}  # so that a limit on bytes is one
    method = "POST" if asked.body else "GET"
    if asked.body:
        headers["Content-Type"] = "application/ocsp-request"
    async with http.stream(method, url, headers=headers, content=asked.body) as reply:
        _check_status(reply, asked, url)
        body = bytearray()
        async for part in reply.aiter_raw():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                msg = f"{_host(url)} sends more than {MAX_ANSWER_BYTES} bytes"
                raise LimitError(msg, code="too-large")
        return Answer(bytes(body), _chain(reply, asked, url))


def _check_status(reply: httpx.Response, asked: Wanted, url: str) -> None:
    status, host = reply.status_code, _host(url)
    if status == _TOO_MANY or status >= _BROKEN:
        after = reply.headers.get("retry-after", "")
        raise _Later(f"status {status}", float(after) if after.isdecimal() else None)
    if reply.is_redirect:
        msg = f"{host} sends elsewhere for {asked.words}; that is not followed"
        raise FormatError(msg, code="collateral-redirect")
    if status == _NOT_FOUND:
        msg = f"{host} knows no {asked.words} at {asked.path[:200]}"
        raise NotFoundError(msg, code="collateral-not-found")
    if status != _OK:
        msg = f"{host} refuses {asked.words} with status {status}"
        raise UnavailableError(msg, code="collateral-refused")
    media = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "text/html":
        msg = f"{host} answers a web page, not {asked.words}: is a proxy in between?"
        raise FormatError(msg, code="collateral-content-type")


def _chain(reply: httpx.Response, asked: Wanted, url: str) -> bytes:
    if not asked.chain_header:
        return b""
    text = reply.headers.get(asked.chain_header, "")
    chain = unquote_to_bytes(text)
    if not chain or len(chain) > _MAX_CHAIN_BYTES:
        msg = f"{_host(url)} gives no certificates with {asked.words}"
        raise FormatError(msg, code="collateral-chain-missing")
    return chain


def _check(asked: Wanted, answer: Answer, trust_store: TrustStore) -> None:
    """Check that the answer is what was asked for, and current."""
    found = inventory(parse_collateral(answer.body, what=f"the {asked.words}"))
    right = [e for e in found if e.kind == asked.kind and asked.about in {"", e.about}]
    if not right:
        about = ", ".join(f"{e.kind} {e.about}" for e in found)[:200]
        msg = f"asked for {asked.words}, the answer is {about}"
        raise FormatError(msg, code="collateral-about-another")
    now = datetime.now(UTC)
    if not any(entry.counts(now) for entry in right):
        ends = right[0].ends
        msg = f"the {asked.words} is for {right[0].starts} to {ends}, not {now}"
        raise CannotVerifyError(msg, code="collateral-expired")
    chain, roots = answer.chain, {trust_store.intel}
    if asked.path.endswith("/cert_chain"):
        chain, roots = answer.body, {product.ark for product in trust_store.amd}
    if chain and not roots & set(pem_certificates(chain)[-1:]):
        msg = f"the {asked.words} comes under another root than the pinned one"
        raise VerificationError(msg, code="untrusted-root")
