"""What executors share whose workers are threads of this process: one set of arrays, one solver, nothing to lose."""

from __future__ import annotations

from contextlib import ExitStack

from simplicit.executors.base import Executor
from simplicit.executors.work import Arrays, Block, Failure, Recipe, Result, Solve, Work, attempt, private_arrays
from simplicit.machine import flushed_denormals, one_thread_each

__all__ = ["InProcessExecutor"]


class InProcessExecutor(Executor):
    """Holds the work that is loaded, and the settings of the process meanwhile."""

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        super().__init__(workers, address=address)
        self._limits = ExitStack()
        self._loaded: tuple[Recipe, Arrays, Solve] | None = None

    def load(self, work: Work) -> None:
        self.unload()
        self._limits.enter_context(one_thread_each())
        self._limits.enter_context(flushed_denormals())
        arrays = private_arrays(work.shared, work.rows, work.entries)
        work.fill(arrays, self.workers)
        for array in arrays.values():
            array.flags.writeable = False
        self._loaded = work.recipe, arrays, work.recipe.open(arrays)

    def unload(self) -> None:
        self._loaded = None
        self._limits.close()

    def _solved(self, block: Block) -> Result | Failure:
        assert self._loaded is not None
        recipe, arrays, solve = self._loaded
        return attempt(solve, block, recipe.own(arrays, block))
