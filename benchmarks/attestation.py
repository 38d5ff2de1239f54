"""Verification of evidence, format by format, beside dcap-qvl on the same quotes.

Each call is the whole way: detect, parse, verify signatures, chain, revocation lists
and Intel's statements, appraise. `again` is as a service runs, which has seen the
chain's certificates before; `first` forgets them before each call. dcap-qvl (Rust)
remembers nothing. Evidence is simulated, as the tests make it.

`nvidia-rim` compares reference measurements and looks certificates up by OCSP, too;
`composite` is a TDX quote that vouches for two such GPUs, of roots of their own.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Timing, interleaved
from privacy.encoding import Json
from privacy.tee import chain
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.parse import REGISTERS, Measurements
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_collateral import simulated_collateral
from privacy.tee.simulated_composite import compose
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_pki import make_root
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import simulated_trust_store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

TARGETS_MS = {
    "sgx-v3": 5,
    "tdx-v4": 5,
    "tdx-v5-1.5": 5,
    "snp": 2,
    "nitro": 3,
    "nvidia": 6,
    "nvidia-rim": 6,
    "composite": 15,
}


def measure(*, quick: bool) -> Json:
    """Return p50 and p95 in seconds by format, and ratios to dcap-qvl; see above."""
    from attest_fuzz import make_dcap_target, make_target

    times, found = 20 if quick else 400, {}
    now = datetime.now(UTC).replace(microsecond=0)
    for form in TARGETS_MS:
        calls: dict[str, Callable[[], object]] = {}
        if form in {"nvidia-rim", "composite"}:
            target = with_devices(now, count=2 if form == "composite" else 0)
        elif form in {"snp", "nitro", "nvidia"}:
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


@dataclass(frozen=True)
class Whole:
    """Evidence with all its collateral; nothing is relaxed."""

    raw: bytes
    collateral: Collateral
    now: datetime

    def check(self, raw: bytes) -> object:
        """Return the verdict."""
        return attest(
            raw,
            trust_store=simulated_trust_store(),
            collateral=self.collateral,
            now=self.now,
            checks=Checklist(),
            policy=Relaxations(),
        )


def with_devices(now: datetime, *, count: int) -> Whole:
    """Return a CPU that vouches for so many GPUs, or a GPU alone."""
    gpus = [SimulatedNvidia(shipped=True) for _ in range(count or 1)]
    given = [gpu.collateral(now) for gpu in gpus]
    if not count:
        return Whole(gpus[0].report(bytes(32)), given[0], now)
    cpu, registers = SimulatedTdxAttester(), Measurements(*[bytes(48)] * len(REGISTERS))
    made = compose(cpu, gpus, nonce=bytes(32), bound=bytes(64), measurements=registers)
    beside = [replace(one, certificates=()) for one in given]
    collateral = sum(beside, simulated_collateral(cpu.ca, now=now))
    return Whole(made.to_bytes(), collateral, now)


def forget() -> None:
    """Drop what the verifier remembers of certificates."""
    chain.load_certificate.cache_clear()
    chain._check_issued.cache_clear()  # noqa: SLF001 - to measure without it


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
