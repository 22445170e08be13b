"""One block after another, in the thread of the caller."""

from __future__ import annotations

from simplicit.executors.base import Finished, Report
from simplicit.executors.inprocess import InProcessExecutor
from simplicit.executors.work import Block

__all__ = ["SerialExecutor"]


class SerialExecutor(InProcessExecutor):
    """The reference that the others must equal. It has one worker, whatever is asked for."""

    name = "serial"

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        super().__init__(workers, address=address)
        self.workers = 1
        self._begun: Block | None = None

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
