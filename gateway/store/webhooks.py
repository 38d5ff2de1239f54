"""Who is told of the ends of jobs, and what is still to be delivered.

Nothing is written when a job ends: `collect` finds the ends that nobody was told of
yet, also those before a crash. A message keeps its id over all attempts, and it may
arrive twice (the sender died after the receiver answered), but never not at all while
its webhook is enabled.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.database import Database
from gateway.store.tables import jobs, webhook_deliveries, webhooks
from privacy.clock import later, now
from privacy.encoding import Json, canonical_json
from privacy.errors import LimitError, NotFoundError

TEST = "webhook.test"
MAX_BY_TENANT = 10
OVERLAP_S = 120.0
"""How much later than it says a job's end may be found: clocks of gateways differ, and
a transaction takes its time."""
_LEASE_S = 60.0
_KEPT_S = 7 * 86400.0
_AT_ONCE = 500
_MAX_TESTS = 5


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that a tenant wants told.

    Attributes:
        key_id: Of the key that its secrets are derived from.
        secret_number: Which secret signs; each rotation adds one.
        old_secret_until: Until when the one before signs too; "" for never.
        seen_until: Ends of jobs up to here were collected, save for the overlap.
        failing_since: The first of the failures since the last success; or "".
        disabled_at: When it was given up; "" while it is enabled.
    """

    id: str
    tenant: str
    url: str
    events: list[str]
    key_id: str
    secret_number: int
    old_secret_until: str
    created_at: str
    seen_until: str
    failing_since: str
    disabled_at: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one webhook.

    Attributes:
        about: The job, or an id of its own.
        status: `pending`, `delivered` or `failed`.
        next_at: When it is tried next, at the earliest.
        answer: What the last attempt met: a status code, or the code of an error.
    """

    id: str
    webhook_id: str
    about: str
    event: str
    payload: str
    status: str
    attempts: int
    created_at: str
    next_at: str
    ended_at: str
    answer: str


_W, _D = webhooks.c, webhook_deliveries.c
_FACTS = (
    "id",
    "status",
    "model",
    "version",
    "model_sha256",
    "mode",
    "input_sha256",
    "output_sha256",
    "evidence_sha256",
)
"""What a message says of a job: ids and digests only."""
_DUE = (
    sa.select(webhook_deliveries, _W.tenant)
    .join(webhooks, _W.id == _D.webhook_id)
    .where(_D.status == "pending", _D.next_at <= sa.bindparam("at"))
    .where(_W.key_id == sa.bindparam("key_id"), _W.disabled_at == "")
    .order_by(_D.next_at)
    .limit(_AT_ONCE)
)
_CLAIM = (
    sa.update(webhook_deliveries)
    .where(_D.id == sa.bindparam("this"), _D.next_at == sa.bindparam("was"))
    .where(_D.status == "pending")
    .values(attempts=_D.attempts + 1, next_at=sa.bindparam("until"))
)


class Webhooks:
    """The webhooks of every tenant."""

    def __init__(self, database: Database, *, key_id: str) -> None:
        """Use the tables in `database`; deliver for webhooks made under `key_id`."""
        self._database = database
        self._key_id = key_id

    def add(self, tenant: str, url: str, events: list[str]) -> Webhook:
        """Return a new webhook; it is told of what ends from now on.

        Raises:
            LimitError: The tenant has many already.
        """
        at = now()
        new = Webhook(
            id=f"wh_{secrets.token_hex(16)}",
            tenant=tenant,
            url=url,
            events=sorted(set(events)),
            key_id=self._key_id,
            secret_number=1,
            old_secret_until="",
            created_at=at,
            seen_until=at,
            failing_since="",
            disabled_at="",
        )
        with self._database.write() as c:
            self._database.lock(c, f"webhooks of {tenant}")
            count = sa.select(sa.func.count()).where(_W.tenant == tenant)
            if c.execute(count).scalar_one() >= MAX_BY_TENANT:
                msg = f"a tenant has at most {MAX_BY_TENANT} webhooks: remove one"
                raise LimitError(msg, code="too-many-webhooks")
            values = {f.name: getattr(new, f.name) for f in fields(Webhook)}
            c.execute(sa.insert(webhooks).values(values))
            note(c, Act(action="webhook-made", target=new.id, details=_host(url)))
        return new

    def of(self, tenant: str) -> list[Webhook]:
        """Return a tenant's webhooks, the oldest first."""
        query = sa.select(webhooks).where(_W.tenant == tenant)
        with self._database.read() as c:
            rows = c.execute(query.order_by(_W.created_at, _W.id))
            return [Webhook(**row._mapping) for row in rows]  # noqa: SLF001

    def get(self, webhook_id: str, *, tenant: str) -> Webhook:
        """Return a tenant's webhook.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self._database.read() as c:
            return _one(c, webhook_id, tenant)

    def change(self, webhook_id: str, *, tenant: str, **values: Any) -> Webhook:
        """Return a tenant's webhook after writing some of its columns.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self._database.write() as c:
            found = _one(c, webhook_id, tenant)
            c.execute(sa.update(webhooks).where(_W.id == found.id).values(values))
            details = _host(values["url"]) if "url" in values else {}
            details["changed"] = sorted(values)
            note(c, Act(action="webhook-changed", target=found.id, details=details))
            return _one(c, webhook_id, tenant)

    def rotate(self, webhook_id: str, *, tenant: str, both_for_s: float) -> Webhook:
        """Return a webhook with a new secret; the old one signs too for a while.

        Not if it was made under another key: nobody here has that secret.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self._database.write() as c:
            found = _one(c, webhook_id, tenant)
            has_old = found.key_id == self._key_id
            values = {
                "secret_number": found.secret_number + 1,
                "old_secret_until": now(plus_s=both_for_s) if has_old else "",
                "key_id": self._key_id,
            }
            c.execute(sa.update(webhooks).where(_W.id == found.id).values(values))
            note(c, Act(action="webhook-rotated", target=found.id))
            return _one(c, webhook_id, tenant)

    def remove(self, webhook_id: str, *, tenant: str) -> None:
        """Remove a webhook with its deliveries.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self._database.write() as c:
            _one(c, webhook_id, tenant)
            c.execute(sa.delete(webhook_deliveries).where(_D.webhook_id == webhook_id))
            c.execute(sa.delete(webhooks).where(_W.id == webhook_id))
            note(c, Act(action="webhook-removed", target=webhook_id))

    def test(self, webhook_id: str, *, tenant: str) -> Delivery:
        """Return a message without meaning, to be delivered now.

        Raises:
            NotFoundError: The tenant has none of that id.
            LimitError: Some are still to be delivered.
        """
        at = now()
        waiting = sa.select(sa.func.count()).where(
            _D.webhook_id == webhook_id, _D.event == TEST, _D.status == "pending"
        )
        with self._database.write() as c:
            webhook = _one(c, webhook_id, tenant)
            if c.execute(waiting).scalar_one() >= _MAX_TESTS:
                msg = f"{_MAX_TESTS} test messages are still to be delivered: wait"
                raise LimitError(msg, code="too-many-tests")
            new = _message(webhook.id, secrets.token_hex(16), TEST, at, {})
            c.execute(sa.insert(webhook_deliveries).values(new))
        return Delivery(**new)

    def deliveries(self, webhook_id: str, *, tenant: str, limit: int) -> list[Delivery]:
        """Return what a webhook was or will be sent, the newest first.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        query = sa.select(webhook_deliveries).where(_D.webhook_id == webhook_id)
        query = query.order_by(_D.created_at.desc(), _D.id).limit(limit)
        with self._database.read() as c:
            _one(c, webhook_id, tenant)
            return [Delivery(**row._mapping) for row in c.execute(query)]  # noqa: SLF001

    def collect(self) -> int:
        """Write down who is to be told of jobs that have ended; return how many."""
        query = sa.select(webhooks).where(_W.disabled_at == "")
        with self._database.read() as c:
            enabled = [Webhook(**row._mapping) for row in c.execute(query)]  # noqa: SLF001
        return sum(self._collect(webhook) for webhook in enabled)

    def _collect(self, webhook: Webhook) -> int:
        horizon = later(now(), -OVERLAP_S)
        told = sa.exists().where(_D.webhook_id == webhook.id, _D.about == jobs.c.id)
        query = (
            sa.select(jobs.c.finished_at, jobs.c.problem, *(jobs.c[n] for n in _FACTS))
            .where(jobs.c.tenant == webhook.tenant)
            .where(jobs.c.finished_at >= webhook.created_at)
            .where(jobs.c.finished_at > webhook.seen_until)
            .where(jobs.c.status.in_([e.partition(".")[2] for e in webhook.events]))
            .where(~told)
            .order_by(jobs.c.finished_at)
            .limit(_AT_ONCE)
        )
        with self._database.read() as c:
            ended = c.execute(query).all()
        if len(ended) == _AT_ONCE:  # go on from here the next time
            horizon = min(horizon, later(ended[-1].finished_at, -OVERLAP_S))
        if not ended and later(webhook.seen_until, OVERLAP_S) > horizon:
            return 0
        with self._database.write() as c:
            add = self._database.insert(webhook_deliveries).on_conflict_do_nothing()
            for job in ended:  # another gateway may have been quicker
                event = f"job.{job.status}"
                facts = {name: getattr(job, name) for name in _FACTS}
                facts["problem"] = (job.problem or {}).get("code", "")
                new = _message(webhook.id, job.id, event, job.finished_at, facts)
                c.execute(add.values(new))
            move = sa.update(webhooks).where(_W.id == webhook.id)
            move = move.where(_W.seen_until < horizon)
            c.execute(move.values(seen_until=horizon))
        return len(ended)

    def due(
        self, *, but: Collection[str] = (), but_tenants: Collection[str] = ()
    ) -> list[tuple[Delivery, str]]:
        """Return messages whose time has come, with their tenants.

        The longest overdue come first. Those to the webhooks in `but`, and of the
        tenants in `but_tenants`, are left out: their many would hide the others.
        """
        at = {"at": now(), "key_id": self._key_id}
        query = _DUE.where(_D.webhook_id.not_in(but)) if but else _DUE
        if but_tenants:
            query = query.where(_W.tenant.not_in(but_tenants))
        with self._database.read() as c:
            rows = [dict(row._mapping) for row in c.execute(query, at)]  # noqa: SLF001
        return [
            (Delivery(**row), tenant) for row in rows if (tenant := row.pop("tenant"))
        ]

    def claim(self, due: Delivery) -> Webhook | None:
        """Begin an attempt; None if another gateway has, or the webhook is gone.

        Whoever began and died leaves the message to others after a minute.
        """
        values = {"this": due.id, "was": due.next_at, "until": now(plus_s=_LEASE_S)}
        with self._database.write() as c:
            if not c.execute(_CLAIM, values).rowcount:
                return None
            query = sa.select(webhooks).where(_W.id == due.webhook_id)
            row = c.execute(query).one_or_none()
            return Webhook(**row._mapping) if row else None  # noqa: SLF001

    def delivered(self, delivery: Delivery, answer: str) -> None:
        """End a message that has arrived."""
        ended = {"status": "delivered", "ended_at": now(), "answer": answer}
        with self._database.write() as c:
            c.execute(_set(delivery, ended))
            mend = sa.update(webhooks).where(_W.id == delivery.webhook_id)
            c.execute(mend.where(_W.failing_since != "").values(failing_since=""))

    def failed(
        self,
        delivery: Delivery,
        answer: str,
        *,
        again_in_s: float | None,
        give_up_after_s: float,
    ) -> bool:
        """Note a failed attempt; return whether that disabled the webhook.

        Args:
            delivery: The message.
            answer: What the attempt met.
            again_in_s: When to try again; None to give the message up.
            give_up_after_s: A webhook that failed for so long is disabled.
        """
        at = now()
        values: Json = {"answer": answer, "next_at": now(plus_s=again_in_s or 0.0)}
        if again_in_s is None:
            values |= {"status": "failed", "ended_at": at}
        this = sa.update(webhooks).where(_W.id == delivery.webhook_id)
        with self._database.write() as c:
            c.execute(_set(delivery, values))
            c.execute(this.where(_W.failing_since == "").values(failing_since=at))
            long = this.where(_W.failing_since <= later(at, -give_up_after_s))
            long = long.where(_W.disabled_at == "")
            disabled = bool(c.execute(long.values(disabled_at=at)).rowcount)
            if disabled:
                note(c, Act(action="webhook-disabled", target=delivery.webhook_id))
            return disabled

    def disable(self, webhook_id: str) -> None:
        """Send nothing more to a webhook, whoever owns it."""
        with self._database.write() as c:
            this = sa.update(webhooks).where(_W.id == webhook_id)
            c.execute(this.values(disabled_at=now()))
            note(c, Act(action="webhook-disabled", target=webhook_id))

    def sweep(self) -> int:
        """Forget messages of a week ago; return how many."""
        old = later(now(), -_KEPT_S)
        with self._database.write() as c:
            gone = sa.delete(webhook_deliveries).where(_D.created_at < old)
            return c.execute(gone).rowcount


def _host(url: str) -> Json:
    """Return what the audit log says of an address: its path may hold a secret."""
    return {"host": urlsplit(url).netloc}


def _one(c: sa.Connection, webhook_id: str, tenant: str) -> Webhook:
    query = sa.select(webhooks).where(_W.id == webhook_id, _W.tenant == tenant)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("there is no such webhook", code="unknown-webhook")
    return Webhook(**row._mapping)  # noqa: SLF001


def _set(delivery: Delivery, values: Json) -> sa.Update:
    this = sa.update(webhook_deliveries).where(_D.id == delivery.id)
    return this.where(_D.status == "pending").values(values)


def _message(webhook_id: str, about: str, event: str, at: str, data: Json) -> Json:
    payload = canonical_json({"type": event, "timestamp": at, "data": data})
    created_at = now()
    return {
        "id": f"msg_{secrets.token_hex(16)}",
        "webhook_id": webhook_id,
        "about": about,
        "event": event,
        "payload": payload.decode(),
        "status": "pending",
        "attempts": 0,
        "created_at": created_at,
        "next_at": created_at,
        "ended_at": "",
        "answer": "",
    }
