"""Which tests one process runs, when several share the run (`pytest -n 2`)."""

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

TOGETHER = ("e2e", "unit/fhe", "unit/zkml", "unit/chain")
"""Folders whose tests share models that are published once a process; longest first."""


class Together(LoadScopeScheduling):
    """The folders above whole, then a file at a time, so that all end at once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((f for f in TOGETHER if file.startswith(f"tests/{f}/")), file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        for folder in reversed(TOGETHER):
            if folder in self.workqueue:
                self.workqueue.move_to_end(folder, last=False)
        super()._assign_work_unit(node)
