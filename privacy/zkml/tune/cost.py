"""What a circuit will cost, from its size alone: ranks thousands, proves none.

Columns follow from EZKL's layout: the cells of the model fill blocks of 2**logrows
rows, each of three columns for each inner column; hashing adds columns of its own and
cannot be split. Times, sizes and memory were fitted to measured circuits. The time
also depends on the machine: `speed` is what this one takes, over what ours took.
"""

from dataclasses import dataclass

from privacy.zkml.system import CircuitChoice, CircuitSize

RESERVED_ROWS = 6
"""Rows of every column that blind it."""
TABLE_RESERVED_ROWS = 8
"""Rows that a table of range checks leaves: with less it is split, and keys double."""

_HASH_COLUMNS = (3, 4, 3)
_CELL = 32
_ENGINE_BYTES = 95_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What to expect of a circuit.

    Attributes:
        advice: Columns the prover commits to.
        fixed: Columns of constants.
        selectors: Before the engine compresses them.
        prove_s: Seconds to prove a row.
        proving_key_bytes: On disk.
        memory_bytes: At most, while proving.
        proof_bytes: Of one proof.
        verify_gas: Of a transaction in which a plain verifier contract checks it.
    """

    advice: int
    fixed: int
    selectors: int
    prove_s: float
    proving_key_bytes: int
    memory_bytes: int
    proof_bytes: int
    verify_gas: int


def blocks(size: CircuitSize, choice: CircuitChoice) -> int:
    """Return how many blocks of columns the model's cells fill."""
    usable = (1 << choice.logrows) - RESERVED_ROWS
    return size.assignments // (choice.num_inner_cols * usable) + 1


def fits(size: CircuitSize, choice: CircuitChoice, *, table_rows: int = 0) -> bool:
    """Return whether hashes, range checks and tables fit into 2**logrows rows.

    A lookup table could be split like any other; provers then hang for ever. One of
    range checks could be, too, but proofs and keys then are half as large again.
    """
    tallest = max(size.hash_rows, table_rows if size.lookups else 0)
    least = max(tallest + RESERVED_ROWS, choice.decomp_base + TABLE_RESERVED_ROWS)
    return least <= 1 << choice.logrows


def estimate(size: CircuitSize, choice: CircuitChoice, *, speed: float = 1.0) -> Cost:
    """Return what a choice will cost.

    Args:
        size: What the engine says of the choice.
        choice: Its `logrows` and columns.
        speed: Of this machine; greater is slower.
    """
    n, inner = blocks(size, choice), choice.num_inner_cols
    advice, fixed, selectors = 3 * inner * n, 3, (6 + 5 * inner) * n
    if size.hash_rows:
        more = _HASH_COLUMNS
        advice, fixed, selectors = (
            advice + more[0],
            fixed + more[1],
            selectors + more[2],
        )
    rows = 1 << choice.logrows
    million = rows / 1e6
    seconds = (
        15.6 * million * advice
        + 8.9 * million * (advice / 3) * (fixed - 2)
        + 1.5 * million * selectors
        + 0.085
    )
    weigh = (11.1 * advice + 38.2 * fixed + 1.32 * selectors - 70.0) * rows * _CELL
    hold = (27.0 * advice + 75.9 * fixed + 2.18 * selectors - 137.6) * rows * _CELL
    proof_bytes = int(334 * advice - 65 * fixed + 15.6 * selectors + 1036)
    return Cost(
        advice=advice,
        fixed=fixed,
        selectors=selectors,
        prove_s=seconds * speed,
        proving_key_bytes=int(weigh),
        memory_bytes=_ENGINE_BYTES + int(hold),
        proof_bytes=proof_bytes,
        verify_gas=expected_gas(proof_bytes, fixed=fixed),
    )


def expected_gas(proof_bytes: int, *, fixed: int) -> int:
    """Return what a plain verifier contract should take for a proof.

    The curve operations and the calldata of a proof grow with its length; those of the
    key's own commitments with the columns of constants. Fitted to real contracts.
    """
    return 177_000 + 116 * proof_bytes + 4_100 * max(0, fixed - 3)
