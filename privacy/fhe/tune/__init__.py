"""Search the circuits a model can become for the fastest that keeps its answers.

    from privacy.fhe.tune import tune

1. Candidates: kinds of circuit, bits, rounding, bins; see `candidates`.
2. Those that can be computed in the clear without compiling are judged on folds of the
   calibration rows they were not fitted on; what a cheaper one equals is dropped.
3. What is left is compiled: Concrete's own complexity ranks it.
4. The best three run encrypted; the fastest of them wins.

See `privacy.fhe.options.Options` for what a publisher may ask for.
"""

from privacy.fhe.tune.search import Tuned, tune, with_chosen

__all__ = ["Tuned", "tune", "with_chosen"]
