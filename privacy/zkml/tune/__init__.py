"""Find the cheapest circuit that keeps a model's answers, by itself.

EZKL's defaults suit no model in particular; the settings that do differ tenfold in time
and key size, and some of them break answers silently. What a person would try for a day
is done here in seconds: `search` finds what the numbers need, `cost` ranks what could
hold them without compiling it, and a few real proofs decide.
"""

from privacy.zkml.tune.cost import Cost, estimate
from privacy.zkml.tune.options import OBJECTIVES, TuneOptions, parse_options
from privacy.zkml.tune.search import Tuned, tune

__all__ = [
    "OBJECTIVES",
    "Cost",
    "TuneOptions",
    "Tuned",
    "estimate",
    "parse_options",
    "tune",
]
