"""Which privacy mode answers a job as its owner wants: `mode="auto"`. Pure.

    policy = Policy(hide_input_from="operator", prove_answer_to="me", max_latency_s=5)
    chosen = choose(policy, offers)
    print(chosen.mode, chosen.why, chosen.others)

1. What a mode hides and proves is read from the table in `privacy.modes`.
2. What this model's publisher weakened (a forgeable SRS, proofs that hide what they are
   about) takes from that.
3. What it will take comes from estimates; where nothing is known, no limit is met.
4. Of the modes that fit, the one with the shortest expected latency is taken.

A policy that asks for nothing is refused: every mode would fit it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from privacy.encoding import Json
from privacy.errors import FormatError, NotFoundError
from privacy.modes import Assurance, Mode, Party, exposure

AUTO = "auto"
"""In place of a mode's name: choose one."""

HIDE_FROM: dict[str, frozenset[Party]] = {
    "operator": frozenset({Party.OPERATOR, Party.NODE}),
    "node": frozenset({Party.NODE}),
    "everyone": frozenset(Party),
}
"""From whom, in a user's words; an operator picks the nodes, so it counts as both."""

HIDE_MODEL_FROM = ("operator", "node")
"""The model is in the clear wherever it computes: nothing hides it from everyone."""

PROVE_TO = ("me", "anyone", "contract")
_HIDDEN = {
    "hide_input_from": ("input", tuple(HIDE_FROM)),
    "hide_output_from": ("output", tuple(HIDE_FROM)),
    "hide_model_from": ("model", HIDE_MODEL_FROM),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a data owner wants of the mode that is chosen.

    Attributes:
        hide_input_from: `operator` (of the gateway, who picks the nodes), `node`
            (whoever runs the machine that computes) or `everyone` (enclaves too:
            cryptography alone hides it); empty for no wish.
        hide_output_from: Likewise.
        hide_model_from: `operator` or `node`; empty for no wish.
        prove_answer_to: `me` (a proof, or an attestation by hardware, checked here),
            `anyone` (a proof that holds whoever made it) or `contract`; empty for no
            wish.
        max_latency_s: Of the job at the gateway, which 19 of 20 jobs keep to.
        max_upload_bytes: Of input and evaluation keys.
    """

    hide_input_from: str = ""
    hide_output_from: str = ""
    hide_model_from: str = ""
    prove_answer_to: str = ""
    max_latency_s: float | None = None
    max_upload_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words, limits that are none, and a policy without a wish."""
        for name, (_, words) in _HIDDEN.items():
            _check_word(name, getattr(self, name), words)
        _check_word("prove_answer_to", self.prove_answer_to, PROVE_TO)
        for name in ("max_latency_s", "max_upload_bytes"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < math.inf:
                msg = f"{name} is {limit!r}, expected a number above 0"
                raise FormatError(msg, code="bad-policy")
        if not (self.prove_answer_to or any(getattr(self, name) for name in _HIDDEN)):
            msg = (
                "the policy asks neither to hide nor to prove anything, so every mode "
                "would do: say from whom to hide the input, or to whom to prove the "
                "answer, or name a mode"
            )
            raise FormatError(msg, code="empty-policy")

    def as_dict(self) -> Json:
        """Return what was asked for, as the receipt's options tell it."""
        return {k: v for k, v in asdict(self).items() if v not in ("", None)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One mode of one model at one gateway.

    Attributes:
        reason: Why it is not to be had; empty if it is.
        simulated: Its enclave is not hardware.
        sealed: The publisher sealed the weights to enclaves.
        insecure_srs: The maker of the SRS can forge its proofs.
        unbound: What its proofs hide, and so leave open, in words.
        is_readable_on_chain: Whether contracts can read what its proofs show.
        latency_s: Of half of all jobs; None if nothing is known.
        slow_latency_s: Of 19 in 20 jobs.
        upload_bytes: Input and keys that are still to be uploaded.
        basis: Where these numbers come from, in words.
    """

    mode: Mode
    reason: str = ""
    simulated: bool = False
    sealed: bool = False
    insecure_srs: bool = False
    unbound: tuple[str, ...] = ()
    is_readable_on_chain: bool = True
    latency_s: float | None = None
    slow_latency_s: float | None = None
    upload_bytes: int | None = None
    basis: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The mode that was chosen.

    Attributes:
        why: What makes it fit, in words.
        others: For each other mode, why not.
    """

    mode: Mode
    why: tuple[str, ...]
    others: dict[str, tuple[str, ...]]

    def as_dict(self) -> Json:
        """Return it JSON-ready."""
        return {
            "mode": str(self.mode),
            "why": list(self.why),
            "others": {mode: list(reasons) for mode, reasons in self.others.items()},
        }


def choose(
    policy: Policy,
    offers: Sequence[Offer],
    *,
    allow_simulated: bool = False,
    allow_insecure_srs: bool = False,
) -> Choice:
    """Return the mode that fits a policy at the least expected latency.

    Args:
        policy: What is wanted.
        offers: Every mode of the model.
        allow_simulated: Take a simulated enclave's word for what it hides. It proves
            nothing all the same.
        allow_insecure_srs: Take proofs that the maker of the SRS can forge.

    Raises:
        NotFoundError: No mode fits; the message says why of each.
    """
    allowed = _Allowed(allow_simulated, allow_insecure_srs)
    reasons = {
        o.mode: (o.reason,) if o.reason else tuple(_against(policy, o, allowed))
        for o in offers
    }
    fitting = [o for o in offers if not reasons[o.mode]]
    if not fitting:
        each = ". ".join(f"{mode}: {'; '.join(why)}" for mode, why in reasons.items())
        msg = f"no mode fits the policy. {each or 'The model offers none'}"
        raise NotFoundError(msg, code="no-mode-fits")
    best = min(fitting, key=_cost)
    later = {
        str(o.mode): (_slower(o, best),) if o in fitting else reasons[o.mode]
        for o in offers
        if o is not best
    }
    return Choice(mode=best.mode, why=tuple(_for(policy, best, allowed)), others=later)


@dataclass(frozen=True, slots=True)
class _Allowed:
    simulated: bool
    insecure_srs: bool


def _check_word(name: str, word: str, words: Sequence[str]) -> None:
    if word and word not in words:
        msg = f"{name} is {word[:40]!r}, expected one of {', '.join(words)}"
        raise FormatError(msg, code="bad-policy")


def _against(policy: Policy, offer: Offer, allowed: _Allowed) -> Iterator[str]:
    """Give every reason why a mode does not fit."""
    believed = allowed.simulated or not offer.simulated
    if not believed:
        yield "its enclave is simulated (accept that with --allow-simulated)"
    shown = exposure(offer.mode, simulated=not believed, sealed=offer.sealed)
    for name, (what, _) in _HIDDEN.items():
        seen_by = getattr(shown, f"{what}_to") & HIDE_FROM.get(
            getattr(policy, name), frozenset()
        )
        if seen_by:
            yield f"the {what} is seen by: {', '.join(sorted(seen_by))}"
    yield from _unproven(policy.prove_answer_to, offer, allowed)
    yield from _too_much(policy, offer)


def _unproven(to: str, offer: Offer, allowed: _Allowed) -> Iterator[str]:
    if offer.insecure_srs and not allowed.insecure_srs:
        # Also where no proof was asked for: the client refuses such proofs by itself.
        yield "the maker of its SRS can forge proofs (accept: --allow-insecure-srs)"
    if not to:
        return
    shown = exposure(offer.mode, simulated=offer.simulated)
    if shown.assurance is Assurance.NOTHING:
        yield "nothing proves its answer"
    elif shown.assurance is Assurance.ATTESTATION and to != "me":
        yield "its answer is attested, not proven"
    if shown.assurance is Assurance.PROOF:
        yield from offer.unbound
    if to == "contract" and not (shown.is_on_chain and offer.is_readable_on_chain):
        yield "no contract can check it"


def _too_much(policy: Policy, offer: Offer) -> Iterator[str]:
    limits = (
        ("latency", policy.max_latency_s, offer.slow_latency_s, "s"),
        ("upload", policy.max_upload_bytes, offer.upload_bytes, "bytes"),
    )
    for what, most, found, unit in limits:
        if most is None:
            continue
        if found is None:
            yield f"nothing is known of its {what}: run it once by its name"
        elif found > most:
            yield f"its {what} is about {found:.4g} {unit}, wanted: {most:.4g} {unit}"


def _for(policy: Policy, offer: Offer, allowed: _Allowed) -> Iterator[str]:
    """Give what makes a mode fit, beginning with what was asked for."""
    for name, (what, _) in _HIDDEN.items():
        if whom := getattr(policy, name):
            yield f"the {what} is hidden from {_WHOM[whom]}"
    if policy.prove_answer_to:
        kind = exposure(offer.mode, simulated=offer.simulated).assurance
        yield (
            f"the answer comes with a {kind}"
            if kind is Assurance.PROOF
            else ("the answer is attested by hardware")
        )
    if offer.simulated:
        yield "its enclave is SIMULATED, which you allow: it hides nothing by itself"
    if offer.insecure_srs and allowed.insecure_srs:
        yield "its proofs can be forged by the maker of the SRS, which you allow"
    if offer.latency_s is not None:
        yield f"of the modes that fit it is the quickest: about {offer.latency_s:.3g} s"
    yield f"estimates: {offer.basis}"


_WHOM = {
    "operator": "the operators of gateway and node",
    "node": "the node's operator",
    "everyone": "everyone, enclaves too",
}


def _cost(offer: Offer) -> tuple[float, float]:
    known = (offer.latency_s, offer.upload_bytes)
    latency, upload = (math.inf if x is None else float(x) for x in known)
    return latency, upload


def _slower(offer: Offer, best: Offer) -> str:
    if offer.latency_s is None or best.latency_s is None:
        return "it fits too, but nothing is known of its latency"
    return f"it fits too, but takes about {offer.latency_s:.3g} s"
