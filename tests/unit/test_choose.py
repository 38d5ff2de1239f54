"""`mode="auto"`: the choice agrees with the table of who sees what, in every case."""

import itertools
from dataclasses import replace

import pytest

from privacy.choose import (
    HIDE_FROM,
    HIDE_MODEL_FROM,
    PROVE_TO,
    Offer,
    Policy,
    choose,
)
from privacy.errors import FormatError, NotFoundError
from privacy.modes import Assurance, Mode, Party, exposure, modes_table, who_sees_what

PEOPLE = {"operator", "node"}
ROWS = [(m, s) for m in Mode for s in (False, True) if not s or Mode.TEE in m.parts]


def offers(*, simulated=False, **more):
    return [
        Offer(
            mode=mode,
            simulated=simulated and Mode.TEE in mode.parts,
            latency_s=1.0 + i,
            slow_latency_s=2.0 + i,
            upload_bytes=1000 * (i + 1),
            **more,
        )
        for i, mode in enumerate(Mode)
    ]


@pytest.mark.parametrize(("mode", "simulated"), ROWS)
def test_what_programs_read_says_the_same_as_the_words(mode, simulated):
    words, shown = (
        who_sees_what(mode, simulated=simulated),
        exposure(mode, simulated=simulated),
    )
    for cell, seen_by in (
        (words.operator_sees_input, shown.input_to),
        (words.operator_sees_output, shown.output_to),
        (words.operator_sees_weights, shown.model_to),
    ):
        hidden = cell.startswith("no:")
        assert hidden == (not seen_by & {Party.OPERATOR, Party.NODE}), cell
    start = {
        Assurance.NOTHING: "no",
        Assurance.ATTESTATION: "as far as",
        Assurance.PROOF: "yes",
    }
    assert words.answer_is_proven.startswith(start[shown.assurance])
    assert words.checkable_on_chain.startswith("yes") == shown.is_on_chain


def test_every_row_of_the_table_has_both_forms():
    assert len(ROWS) == len(modes_table())


def _holds(policy, offer, *, allow_simulated, allow_insecure_srs):
    """Whether a mode fits, by the words of the table alone."""
    believed = allow_simulated or not offer.simulated
    if not believed or (offer.insecure_srs and not allow_insecure_srs):
        return False
    words = who_sees_what(offer.mode, simulated=not believed)
    weights = words.operator_sees_weights.startswith("no")
    if offer.sealed and offer.mode is Mode.TEE:
        weights = believed
    secret = {
        "hide_input_from": words.operator_sees_input.startswith("no"),
        "hide_output_from": words.operator_sees_output.startswith("no"),
        "hide_model_from": weights,
    }
    for name, is_secret in secret.items():
        whom = getattr(policy, name)
        if whom in PEOPLE and not is_secret:
            return False
        if whom == "everyone" and offer.mode is not Mode.FHE:
            return False
    proven = who_sees_what(offer.mode, simulated=offer.simulated)
    enough = {
        "": ("",),
        "me": ("yes", "as far as"),
        "anyone": ("yes",),
        "contract": ("yes",),
    }
    return proven.answer_is_proven.startswith(enough[policy.prove_answer_to])


def test_every_policy_gets_the_quickest_mode_that_the_table_allows():
    hide, hide_model, prove = (
        ("", *words) for words in (HIDE_FROM, HIDE_MODEL_FROM, PROVE_TO)
    )
    flags = list(itertools.product((False, True), repeat=5))
    seen = set()
    for wish in itertools.product(hide, hide, hide_model, prove):
        if not any(wish):
            continue
        names = ("hide_input_from", "hide_output_from", "hide_model_from")
        policy = Policy(
            **dict(zip(names, wish[:3], strict=True)), prove_answer_to=wish[3]
        )
        for simulated, sealed, insecure, allow_simulated, allow_insecure in flags:
            allow = {
                "allow_simulated": allow_simulated,
                "allow_insecure_srs": allow_insecure,
            }
            offered = [
                replace(o, insecure_srs=insecure and Mode.ZKML in o.mode.parts)
                for o in offers(simulated=simulated, sealed=sealed)
            ]
            fitting = [o.mode for o in offered if _holds(policy, o, **allow)]
            if fitting:
                chosen = choose(policy, offered, **allow)
                assert chosen.mode is fitting[0], (policy, allow)
                assert set(chosen.others) == set(Mode) - {chosen.mode}
            else:
                with pytest.raises(NotFoundError, match="no mode fits") as caught:
                    choose(policy, offered, **allow)
                assert all(f"{mode}: " in caught.value.message for mode in Mode)
            seen.add(fitting[0] if fitting else None)
    assert seen == {*Mode, None}


def test_hiding_from_the_operator_with_a_proof_takes_the_proving_enclave():
    policy = Policy(hide_input_from="operator", prove_answer_to="anyone")
    chosen = choose(policy, offers())
    assert chosen.mode is Mode.TEE_ZKML
    assert chosen.others == {
        "fhe": ("nothing proves its answer",),
        "zkml": ("the input is seen by: node, operator",),
        "tee": ("its answer is attested, not proven",),
    }
    assert "the input is hidden from the operators of gateway and node" in chosen.why
    assert "the answer comes with a proof" in chosen.why


def test_a_simulated_enclave_never_counts_unless_allowed_and_never_as_a_proof():
    policy = Policy(hide_input_from="operator", hide_model_from="node")
    sealed = [o for o in offers(simulated=True, sealed=True) if o.mode is Mode.TEE]
    with pytest.raises(NotFoundError, match="simulated"):
        choose(policy, sealed)
    chosen = choose(policy, sealed, allow_simulated=True)
    assert any("SIMULATED" in line for line in chosen.why)
    with pytest.raises(NotFoundError, match="nothing proves its answer"):
        choose(Policy(prove_answer_to="me"), sealed, allow_simulated=True)


def test_limits_are_met_by_estimates_and_by_nothing_else():
    fhe, zkml, *_ = offers()
    policy = Policy(hide_input_from="everyone", max_latency_s=2.0)
    assert choose(policy, [fhe]).mode is Mode.FHE
    with pytest.raises(NotFoundError, match=r"about 2\.1 s, wanted: 2 s"):
        choose(policy, [replace(fhe, slow_latency_s=2.1)])
    with pytest.raises(NotFoundError, match="nothing is known of its latency"):
        choose(policy, [replace(fhe, slow_latency_s=None)])
    small = Policy(prove_answer_to="anyone", max_upload_bytes=1999)
    with pytest.raises(NotFoundError, match="its upload is about 2000 bytes"):
        choose(small, [zkml])


def test_a_mode_of_unknown_latency_is_taken_last():
    unknown, known = offers()[0], offers()[2]
    policy = Policy(hide_input_from="operator")
    chosen = choose(policy, [replace(unknown, latency_s=None), known])
    assert chosen.mode is Mode.TEE
    assert chosen.others == {
        "fhe": ("it fits too, but nothing is known of its latency",)
    }


def test_proofs_that_hide_what_they_are_about_prove_nothing_to_their_owner():
    zkml = offers(unbound=("the proofs hide the input",))[1]
    with pytest.raises(NotFoundError, match="the proofs hide the input"):
        choose(Policy(prove_answer_to="me"), [zkml])


def test_a_contract_needs_a_proof_that_it_can_read():
    zkml = offers(is_readable_on_chain=False)[1]
    assert choose(Policy(prove_answer_to="anyone"), [zkml]).mode is Mode.ZKML
    with pytest.raises(NotFoundError, match="no contract can check it"):
        choose(Policy(prove_answer_to="contract"), [zkml])


def test_a_mode_that_is_not_offered_says_the_publishers_reason():
    zkml, *_ = [replace(o, reason="too deep") for o in offers()[1:]]
    with pytest.raises(NotFoundError, match="zkml: too deep"):
        choose(Policy(prove_answer_to="me"), [zkml])


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"max_latency_s": 5.0},
        {"hide_input_from": "nobody"},
        {"hide_model_from": "everyone"},
        {"prove_answer_to": "you"},
        {"hide_input_from": "node", "max_latency_s": 0.0},
        {"hide_input_from": "node", "max_latency_s": float("nan")},
        {"hide_input_from": "node", "max_upload_bytes": -1},
    ],
)
def test_a_policy_that_says_nothing_or_nonsense_is_refused(wrong):
    with pytest.raises(FormatError):
        Policy(**wrong)
