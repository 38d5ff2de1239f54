"""Who gets to see what of a proof, in words.

    input    commit   its Poseidon hash stands in the proof (default)
             hide     nothing of it does: the proof is about some input
             show     the quantised input itself stands in the proof
    model    bound    the weights are part of the verifying key (default)
             commit   their Poseidon hash stands in the proof; the key fits any weights
             hide     nothing of them does: the proof is about some weights

To commit to `input:kzg` puts the input's KZG commitment into the proof, which costs
less than a hash and tells more. With `salt`, what stands there is of the input and of
the job's salt: see `privacy.zkml.salt`. The answer is always shown: it is what is
proven.
"""

from collections.abc import Mapping
from typing import Any

from privacy.errors import FormatError
from privacy.zkml.salt import ELEMENTS
from privacy.zkml.system import Visibility

OPTIONS = ("hide", "commit", "show", "salt")
_SALTABLE = frozenset({"hashed", "committed", "public"})

_WORDS = {
    "input": {"commit": "hashed", "hide": "private", "show": "public"},
    "input:kzg": {"commit": "committed"},
    "model": {"commit": "hashed", "hide": "private"},
}

_INPUT_LEARNT = {
    "hashed": (
        "the Poseidon hash of the quantised input, without salt: whoever can list the "
        "possible inputs can find it"
    ),
    "committed": (
        "the KZG commitment of the quantised input, and with each proof the value of "
        "its polynomial at one point: from these a small input can be computed"
    ),
    "private": "nothing but that some input leads to this output",
    "public": "the quantised input",
}
_SALTED = {
    "hashed": (
        "the Poseidon hash of the quantised input and 128 bits of the job's salt: "
        "nothing, without the salt"
    ),
}
_MODEL_LEARNT = {
    "fixed": "that it is the verifying key's circuit, which has the weights in it",
    "hashed": "the shape, and the Poseidon hash of the weights",
    "private": "the shape only: the weights may be any",
}


def parse_visibility(options: Mapping[str, Any]) -> Visibility:
    """Return what the options `hide`, `commit`, `show` and `salt` ask for.

    Raises:
        FormatError: They name anything but input and model, or one of them twice, or
            would salt what proofs hide.
    """
    asked: dict[str, str] = {}
    for word in ("hide", "commit", "show"):
        names = options.get(word, [])
        if not isinstance(names, list):
            raise FormatError(f"zkml's option {word} is not a list", code="bad-option")
        for name in names:
            words = _WORDS.get(str(name), {})
            what = str(name).partition(":")[0]
            if word not in words or what in asked:
                msg = (
                    f"zkml cannot {word} {str(name)[:40]!r}: hide, commit or show the "
                    "input, hide or commit the model, one of them each"
                )
                raise FormatError(msg, code="bad-option")
            asked[what] = words[word]
    salted, seen = options.get("salt", False), asked.get("input", "hashed")
    if not isinstance(salted, bool) or (salted and seen not in _SALTABLE):
        msg = (
            "zkml's option salt is true or false, and false where the input is hidden: "
            "then nothing in a proof could carry the salt"
        )
        raise FormatError(msg, code="bad-option")
    return Visibility(input=seen, params=asked.get("model", "fixed"), salted=salted)


def public_files(visibility: Visibility) -> tuple[str, ...]:
    """Return what a verifier needs of the part `zkml/`, pinned by the manifest.

    To compare a row with a KZG commitment takes the whole SRS.
    """
    whole = ("kzg.srs",) if visibility.input == "committed" else ()
    return ("settings.json", "vk.key", "verifier.srs", *whole)


def verifier_learns(visibility: Visibility) -> dict[str, str]:
    """Return what whoever holds a proof learns, beside that it holds."""
    return {
        "input": _input_learnt(visibility),
        "output": "the outputs, exactly as the circuit made them",
        "model": _MODEL_LEARNT[visibility.params],
    }


def _input_learnt(visibility: Visibility) -> str:
    learnt = _INPUT_LEARNT[visibility.input]
    return _SALTED.get(visibility.input, learnt) if visibility.salted else learnt


def weaknesses_of(visibility: Visibility) -> dict[str, str]:
    """Return what hiding takes from a proof, by code, in words for its reader."""
    found = {}
    if visibility.input == "private":
        found["input-hidden"] = (
            "the proofs hide the input: nothing ties them to your rows"
        )
    if visibility.params == "private":
        found["model-hidden"] = (
            "the proofs hide the weights: any weights of this shape would do"
        )
    return found


def instance_names(
    visibility: Visibility, *, features: int, outputs: int
) -> tuple[str, ...]:
    """Return what the instances of a proof are, in order."""
    names = []
    if visibility.input == "hashed":
        names.append("poseidon(input)")
    if visibility.params == "hashed":
        names.append("poseidon(model)")
    if visibility.input == "public":
        names += [f"input {i + 1}" for i in range(features)]
        names += [f"salt {i + 1}" for i in range(ELEMENTS if visibility.salted else 0)]
    return (*names, *(f"output {i + 1}" for i in range(outputs)))
