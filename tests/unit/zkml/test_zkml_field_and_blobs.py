"""The pure parts: numbers and blobs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import canonical_json
from privacy.errors import FormatError
from privacy.zkml.blobs import (
    Evidence,
    Proof,
    claimed_model,
    make_evidence,
    make_input,
    make_outputs,
    parse_evidence,
    parse_input,
    parse_outputs,
)
from privacy.zkml.field import (
    MODULUS,
    dequantize,
    from_hex,
    quantize,
    signed,
    to_hex,
)

felts = st.integers(0, MODULUS - 1)


@given(felts)
def test_a_field_element_has_one_spelling(value: int) -> None:
    assert from_hex(to_hex(value), what="felt") == value


@pytest.mark.parametrize(
    "text",
    [
        to_hex(0)[:-1],
        "0x" + to_hex(0),
        to_hex(1).replace("1", "A"),
        f"{MODULUS:064x}",
        "f" * 64,
        " " + to_hex(0)[1:],
        7,
        None,
    ],
)
def test_a_second_spelling_of_a_field_element_is_refused(text: object) -> None:
    with pytest.raises(FormatError):
        from_hex(text, what="felt")


@given(st.integers(-(2**100), 2**100))
def test_negative_numbers_lie_below_the_modulus(value: int) -> None:
    assert signed(value % MODULUS) == value


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=5), st.integers(0, 13))
def test_quantizing_is_off_by_half_a_unit_at_most(row: list[float], bits: int) -> None:
    (made,) = quantize([row], scale_bits=bits)
    back = dequantize([v % MODULUS for v in made], scale_bits=bits)
    assert np.abs(np.array(back) - row).max() <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**14, 1e308])
def test_quantize_refuses_what_the_engine_would_not_read_back(value: float) -> None:
    with pytest.raises(FormatError):
        quantize([[0.0, value]], scale_bits=10)


def test_blobs_are_read_back() -> None:
    rows = [[1.5, -2.0], [0.0, 3.25]]
    made = make_input(rows, salt=b"s" * 32)
    assert parse_input(made, columns=2) == (rows, b"s" * 32)
    assert parse_outputs(make_outputs(rows), outputs=2).tolist() == rows
    proofs = (Proof((1, 2), b"abc"), Proof((3, MODULUS - 1), b"def"))
    claim = Evidence("5" * 64, insecure_srs=True, proofs=proofs)
    evidence = make_evidence(claim)
    assert claimed_model(evidence) == "5" * 64
    assert parse_evidence(evidence, instances=2, proof_bytes=3) == claim


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(["proofs", "insecure_srs", "model_sha256"]), v
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=60) | json_values.map(canonical_json))
def test_any_bytes_give_a_value_or_a_format_error(raw: bytes) -> None:
    for parse in (
        lambda: parse_evidence(raw, instances=2, proof_bytes=1),
        lambda: claimed_model(raw),
        lambda: parse_input(raw, columns=2),
        lambda: parse_outputs(raw, outputs=2),
    ):
        try:
            parse()
        except FormatError:
            continue
