"""Verification of evidence, format by format, beside dcap-qvl on the same quotes.

Each call is the whole way: detect, parse, verify signatures, chain, revocation lists
and the vendors' statements, appraise. `again` is as a service runs, which has seen
these certificates, lists and statements before; `first` forgets them before each call.
dcap-qvl (Rust) remembers nothing. Evidence is simulated, as the tests make it; the
composite is a trust domain with one GPU.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Timing, interleaved
from privacy.encoding import Json
from privacy.tee import chain, revocation, rim
from privacy.tee.simulated_pki import make_root
from privacy.tee.simulator import SimulatedTdxAttester

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

TARGETS_MS = {
    "sgx-v3": 5,
    "tdx-v4": 5,
    "tdx-v5-1.5": 5,
    "snp": 2,
    "nitro": 3,
    "nvidia": 6,
    "composite": 15,
}


def measure(*, quick: bool) -> Json:
    """Return p50 and p95 in seconds by format, and ratios to dcap-qvl; see above."""
    from attest_fuzz import make_composite, make_dcap_target, make_target

    times, found = 20 if quick else 400, {}
    now = datetime.now(UTC).replace(microsecond=0)
    for form in TARGETS_MS:
        calls: dict[str, Callable[[], object]] = {}
        if form == "composite":
            target = make_composite(now, chips=("GH100",))
        elif form[:3] not in {"sgx", "tdx"}:
            target = make_target(form, now)
        else:
            attester = SimulatedTdxAttester()
            target = make_dcap_target(form, attester, now)
            calls["dcap_qvl"] = _oracle(attester, target, now)
        calls["again"] = lambda target=target: target.check(target.raw)
        calls["first"] = lambda target=target: (forget(), target.check(target.raw))
        timings = interleaved(calls, times=times)
        found[form] = {name: _seconds(timing) for name, timing in timings.items()}
        if "dcap_qvl" in timings:
            for name in ("again", "first"):
                ratio = timings[name].p50 / timings["dcap_qvl"].p50
                found[form][name]["times_dcap_qvl"] = ratio
    return {"formats": found, "times": times}


def forget() -> None:
    """Drop what the verifier remembers of certificates."""
    for remembered in (
        chain.load_certificate,
        chain._check_issued,  # noqa: SLF001 - to measure without them
        revocation._list,  # noqa: SLF001
        revocation._is_whole_and_by,  # noqa: SLF001
        revocation._check_response,  # noqa: SLF001
        rim._parse,  # noqa: SLF001
        rim._check_signature,  # noqa: SLF001
    ):
        remembered.cache_clear()


def _oracle(
    attester: SimulatedTdxAttester, target: object, now: datetime
) -> Callable[[], object]:
    """Return dcap-qvl's verification of the same quote with the same collateral."""
    import dcap_qvl
    from dcap_quotes import as_members

    raw, members = target.raw, as_members(attester, target.collateral)
    given = dcap_qvl.QuoteCollateralV3(**members)
    root, seconds = make_root().der, int(now.timestamp())
    return lambda: dcap_qvl.verify_with_root_ca(raw, given, root, seconds)


def _seconds(timing: Timing) -> Json:
    return {"p50_s": timing.p50, "p95_s": timing.p95}


def show(found: Json) -> None:
    """Print the figures."""
    grid = Table(title=f"verification, milliseconds p50 / p95, {found['times']} calls")
    columns = ("format", "again", "first", "target p95", "dcap-qvl", "again, times")
    for column in columns:
        grid.add_column(column, justify="right")
    for form, one in found["formats"].items():
        cells = [_cell(one[name]) for name in ("again", "first")]
        other = [_cell(one["dcap_qvl"])] if "dcap_qvl" in one else [""]
        ratio = one["again"].get("times_dcap_qvl")
        times = f"{ratio:.1f}" if ratio else ""
        grid.add_row(form, *cells, f"{TARGETS_MS[form]}", *other, times)
    Console().print(grid)


def _cell(one: Json) -> str:
    return f"{one['p50_s'] * 1e3:.2f} / {one['p95_s'] * 1e3:.2f}"
