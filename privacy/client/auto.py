"""`mode="auto"`: what a gateway offers for a model, and which mode fits a policy.

What a mode hides and proves is taken from the pinned manifest and the table in
`privacy.modes`; of the gateway only estimates are believed, and that its enclaves are
simulated. One that says they are hardware is found out when its evidence is checked.
"""

from importlib.util import find_spec
from typing import Any

from privacy.bundle import Bundle
from privacy.choose import Choice, Offer, Policy, choose
from privacy.client.context import Context
from privacy.client.wire import Flow, Reply, odd_answer, post_json
from privacy.client.zkml_session import weaknesses
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.tee.sealed_model import sealing_of

_NEEDS = {Mode.FHE: "concrete", Mode.ZKML: "ezkl"}
_NO_CONTRACT = frozenset({"committed"})
"""Inputs that proofs show in a form which no contract reads."""


def estimates(bundle: Bundle, rows: int, modes: tuple[Mode, ...] = ()) -> Flow[Json]:
    """Return the gateway's estimates for so many rows; see `POST /v1/estimates`."""
    body: Json = {
        "model": bundle.manifest.name,
        "version": bundle.manifest.version,
        "rows": rows,
    }
    if modes:
        body["modes"] = [str(mode) for mode in modes]
    reply: Reply = yield post_json("/v1/estimates", body)
    found = reply.object("estimate")
    reply.objects("modes")
    return found


def choose_mode(
    context: Context, bundle: Bundle, rows: int, policy: Policy
) -> Flow[Choice]:
    """Return the mode for a job of so many rows.

    Raises:
        NotFoundError: No mode fits; the message says why of each.
    """
    context.notify({"stage": "choose a mode"})
    told = yield from estimates(bundle, rows)
    by_mode = {entry.get("mode"): entry for entry in told["modes"]}
    offers = [offer_of(bundle, mode, by_mode.get(str(mode), {})) for mode in Mode]
    return choose(
        policy,
        offers,
        allow_simulated=context.allow_simulated,
        allow_insecure_srs=context.allow_insecure_srs,
    )


def offer_of(bundle: Bundle, mode: Mode, told: Json) -> Offer:
    """Return what a mode offers, by the manifest and a gateway's estimate."""
    part = bundle.manifest.modes.get(mode)
    reason = _missing(mode) if part and part.available else "it was not published"
    if part and not part.available:
        reason = part.reason
    proves = not reason and Mode.ZKML in mode.parts
    up, keys = _number(told, "bytes_up"), _number(told, "keys_bytes") or 0
    if told.get("keys_uploaded"):
        keys = 0
    return Offer(
        mode=mode,
        reason=reason,
        # A gateway that does not say is taken to simulate.
        simulated=Mode.TEE in mode.parts and told.get("simulated") is not False,
        sealed=sealing_of(bundle.manifest) is not None,
        insecure_srs=proves and _zkml(bundle, "insecure_srs") is not False,
        unbound=tuple(weaknesses(bundle).values()) if proves else (),
        is_readable_on_chain=proves and _input_shown(bundle) not in _NO_CONTRACT,
        latency_s=_number(told, "latency_s"),
        slow_latency_s=_number(told, "slow_latency_s"),
        upload_bytes=None if up is None else int(up + keys),
        basis=basis_of(told),
    )


def basis_of(told: Json) -> str:
    """Return in words where an estimate comes from."""
    runs = told.get("runs")
    words = {
        "measured": "measured once"
        if runs == 1
        else f"measured over {runs if isinstance(runs, int) else '?'} runs",
        "publisher": "the publisher's figure",
    }
    return words.get(str(told.get("basis")), "none")


def _missing(mode: Mode) -> str:
    """Return what this client lacks for a mode, in words, or ""."""
    lacking = [part for part in mode.parts if not _installed(part)]
    return f"this client has not installed {lacking[0]}" if lacking else ""


def _installed(part: Mode) -> bool:
    package = _NEEDS.get(part)
    return package is None or find_spec(package) is not None


def _zkml(bundle: Bundle, name: str) -> Any:
    return bundle.manifest.mode(Mode.ZKML).params.get(name)


def _input_shown(bundle: Bundle) -> str:
    visibility = _zkml(bundle, "visibility")
    if not isinstance(visibility, dict):
        msg = "the manifest's zkml part lacks visibility: the model must be republished"
        raise FormatError(msg, code="bundle-format")
    return str(visibility.get("input"))


def _number(told: Json, name: str) -> float | None:
    """Return a number of an estimate, None if nothing is known.

    Raises:
        UnavailableError: It is neither.
    """
    value = told.get(name)
    if value is None or (type(value) in {int, float} and value >= 0):
        return value
    raise odd_answer("estimate")
