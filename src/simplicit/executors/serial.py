"""One block after another, in the thread of the caller."""

from __future__ import annotations

from dataclasses import dataclass, field

from simplicit.executors.base import Finished, Report
from simplicit.executors.inprocess import InProcessExecutor
from simplicit.executors.work import Block


@dataclass(eq=False, kw_only=True)
class Serial(InProcessExecutor):
    """Solve one block of rows after another in the thread of the caller: the reference that all others must equal."""

    _begun: Block | None = field(init=False, repr=False, default=None)

    @property
    def n_workers(self) -> int:
        return 1

    def idle(self) -> list[int]:
        return [0] if self._begun is None else []

    def start(self, worker: int, block: Block) -> None:
        self._begun = block

    def wait(self, seconds: float | None) -> list[Report]:
        if self._begun is None:
            return []
        block, self._begun = self._begun, None
        return [Finished(0, self._solved(block))]

    def unload(self) -> None:
        self._begun = None
        super().unload()
