"""Who gets to see what of a proof, in words.

    input    commit   its Poseidon hash stands in the proof (default)
             hide     nothing of it does: the proof is about some input
             show     the quantised input itself stands in the proof
    model    bound    the weights are part of the verifying key (default)
             commit   their Poseidon hash stands in the proof; the key fits any weights
             hide     nothing of them does: the proof is about some weights

The answer is always shown: it is what is proven.
"""

from collections.abc import Mapping
from typing import Any

from privacy.errors import FormatError
from privacy.zkml.system import Visibility

OPTIONS = ("hide", "commit", "show")

_INPUT = {"commit": "hashed", "hide": "private", "show": "public"}
_MODEL = {"commit": "hashed", "hide": "private"}

_INPUT_LEARNT = {
    "hashed": (
        "the Poseidon hash of the quantised input, without salt: whoever can list the "
        "possible inputs can find it"
    ),
    "private": "nothing but that some input leads to this output",
    "public": "the quantised input",
}
_MODEL_LEARNT = {
    "fixed": "that it is the verifying key's circuit, which has the weights in it",
    "hashed": "the shape, and the Poseidon hash of the weights",
    "private": "the shape only: the weights may be any",
}


def parse_visibility(options: Mapping[str, Any]) -> Visibility:
    """Return what the options `hide`, `commit` and `show` ask for.

    Raises:
        FormatError: They name anything but input and model, or one of them twice.
    """
    asked: dict[str, str] = {}
    for word in OPTIONS:
        names = options.get(word, [])
        if not isinstance(names, list):
            raise FormatError(f"zkml's option {word} is not a list", code="bad-option")
        for name in names:
            words = {"input": _INPUT, "model": _MODEL}.get(str(name), {})
            if word not in words or name in asked:
                msg = (
                    f"zkml cannot {word} {str(name)[:40]!r}: hide, commit or show the "
                    "input, hide or commit the model, one of them each"
                )
                raise FormatError(msg, code="bad-option")
            asked[name] = words[word]
    return Visibility(
        input=asked.get("input", "hashed"), params=asked.get("model", "fixed")
    )


def verifier_learns(visibility: Visibility) -> dict[str, str]:
    """Return what whoever holds a proof learns, beside that it holds."""
    return {
        "input": _INPUT_LEARNT[visibility.input],
        "output": "the outputs, exactly as the circuit made them",
        "model": _MODEL_LEARNT[visibility.params],
    }


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
    return (*names, *(f"output {i + 1}" for i in range(outputs)))
