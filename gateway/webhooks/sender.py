"""Delivers messages to webhooks: signed, tried again for about a day, one by one.

A webhook that answers 2xx has it. 410 says that nobody wants more, and disables the
webhook; anything else is tried again, later each time. One that does nothing but fail
for five days is disabled too.
"""

import asyncio
import random
import ssl
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import structlog

from gateway.logs import error_id_of
from gateway.metrics import WEBHOOK_ATTEMPTS
from gateway.store.away import StoreAwayError
from gateway.store.webhooks import Delivery, Webhook, Webhooks
from gateway.webhooks.secrets import WebhookSecrets
from gateway.webhooks.targets import Resolve, Rules, check_url, resolve
from privacy import __version__
from privacy.clock import now
from privacy.errors import PrivacyError

_log = structlog.get_logger()
_POLL_S = 1.0
_AWAY_S = 10.0
_TIMEOUT_S = 15.0
_AT_ONCE = 64
_AT_ONCE_BY_TENANT = 8
_AT_ONCE_EACH = 4
_GONE = 410
_GIVE_UP_AFTER_S = 5 * 86400.0
BACK_OFF_S = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 28800.0, 28800.0)
"""Before each further attempt; 23.6 hours in all."""


@dataclass(slots=True, kw_only=True)
class Sender:
    """The deliveries of one gateway.

    Attributes:
        lookup: How names become addresses; the system's way by default.
        back_off_s: Seconds before each attempt but the first.
    """

    webhooks: Webhooks
    secrets: WebhookSecrets
    rules: Rules
    lookup: Resolve | None = None
    back_off_s: tuple[float, ...] = BACK_OFF_S
    poll_s: float = _POLL_S
    _tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)
    _under_way: dict[str, tuple[str, str]] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                try:
                    await asyncio.to_thread(self.webhooks.collect)
                    await self._begin_due()
                except StoreAwayError as exc:
                    _log.warning("store-away", code=exc.code, task="webhooks")
                    await asyncio.sleep(_AWAY_S)
                except Exception as exc:  # noqa: BLE001 - the next time may go better
                    error_id_of(exc, task="webhooks")
                await asyncio.sleep(self.poll_s)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _begin_due(self) -> None:
        """Begin what is due, so that who answers slowly holds up nobody else."""
        hooks = Counter(hook for hook, _ in self._under_way.values())
        tenants = Counter(tenant for _, tenant in self._under_way.values())
        found = await asyncio.to_thread(
            self.webhooks.due,
            but={hook for hook, n in hooks.items() if n >= _AT_ONCE_EACH},
            but_tenants={t for t, n in tenants.items() if n >= _AT_ONCE_BY_TENANT},
        )
        for due, tenant in found:
            if len(self._under_way) >= _AT_ONCE:
                return
            if (
                due.id in self._under_way
                or hooks[due.webhook_id] >= _AT_ONCE_EACH
                or tenants[tenant] >= _AT_ONCE_BY_TENANT
            ):
                continue
            self._under_way[due.id] = (due.webhook_id, tenant)
            hooks[due.webhook_id] += 1
            tenants[tenant] += 1
            task = asyncio.create_task(self._deliver(due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, due: Delivery) -> None:
        try:
            webhook = await asyncio.to_thread(self.webhooks.claim, due)
            if webhook:
                answer = await self._attempt(webhook, due)
                await asyncio.to_thread(self._note, due, answer)
        except StoreAwayError:
            pass  # what was not noted is sent again, with the same id
        except Exception as exc:  # noqa: BLE001 - it is found again later
            error_id_of(exc, task="webhooks")
        finally:
            del self._under_way[due.id]

    async def _attempt(self, webhook: Webhook, due: Delivery) -> str:
        """Return the status code that was answered, or the code of an error."""
        numbers = [webhook.secret_number]
        if webhook.old_secret_until > now():
            numbers.append(webhook.secret_number - 1)
        headers = self.secrets.sign(
            due.payload,
            webhook_id=webhook.id,
            numbers=numbers,
            msg_id=due.id,
            at=datetime.now(UTC),
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return str(await self._post(webhook.url, due.payload, headers))
        except PrivacyError as exc:
            return exc.code
        except (TimeoutError, httpx.TimeoutException):
            return "webhook-timeout"
        except (httpx.HTTPError, OSError, ValueError):
            return "webhook-unreachable"

    async def _post(self, target: str, body: str, headers: dict[str, str]) -> int:
        url = check_url(target, self.rules)
        address = await resolve(url, self.rules, lookup=self.lookup)
        request_headers = {
            **headers,
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": f"privacy-compute/{__version__}",
        }
        # To the address that was checked; the certificate must be of the name. A client
        # of its own: a shared one takes connections by address, whatever the name.
        name = url.raw_host.decode("ascii").strip("[]")
        async with (
            httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=_TIMEOUT_S,
                verify=self._tls,
            ) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body.encode(),
                headers=request_headers,
                extensions={"sni_hostname": name},
            ) as answer,
        ):
            return answer.status_code

    def _note(self, due: Delivery, answer: str) -> None:
        if answer.isdecimal() and answer.startswith("2"):
            WEBHOOK_ATTEMPTS.labels("delivered").inc()
            self.webhooks.delivered(due, answer)
            return
        WEBHOOK_ATTEMPTS.labels("failed").inc()
        left = self.back_off_s[due.attempts :]
        again = left[0] * random.uniform(1.0, 1.1) if left else None  # noqa: S311
        disabled = self.webhooks.failed(
            due, answer, again_in_s=again, give_up_after_s=_GIVE_UP_AFTER_S
        )
        if answer == str(_GONE):
            self.webhooks.disable(due.webhook_id)
        if disabled or answer == str(_GONE):
            _log.warning("webhook-disabled", webhook=due.webhook_id, answer=answer)
