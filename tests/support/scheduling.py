"""Which tests one process runs, when several share the run (`pytest -n 2`)."""

from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("e2e", "unit/chain", "unit/fhe", "unit/zkml")
"""Folders whose tests share models that are published once a process."""


class Together(LoadScopeScheduling):
    """A file at a time, and the folders above whole; the largest first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((f for f in TOGETHER if file.startswith(f"tests/{f}/")), file)
