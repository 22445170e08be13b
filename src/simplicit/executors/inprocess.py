"""What executors share whose workers are threads of this process: one set of arrays, one solver, nothing to lose."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from simplicit.executors.base import Executor
from simplicit.executors.records import allocate, flatten
from simplicit.executors.work import Arrays, Block, Solve, Work, attempt
from simplicit.machine import flushed_denormals, one_thread_each


@dataclass(eq=False, kw_only=True)
class InProcessExecutor(Executor):
    """Holds the work that is loaded, and the settings of the process meanwhile."""

    _limits: ExitStack = field(init=False, repr=False, default_factory=ExitStack)
    _loaded: tuple[Arrays[Any, Any, Any], Solve[Any]] | None = field(init=False, repr=False, default=None)

    def load(self, work: Work[Any]) -> None:
        self.unload()
        self._limits.enter_context(one_thread_each())
        self._limits.enter_context(flushed_denormals())
        arrays = allocate(work.arrays)
        work.fill(arrays, self.n_workers)
        for array in flatten(arrays).values():
            array.flags.writeable = False
        self._loaded = arrays, work.opener(arrays.shared)

    def unload(self) -> None:
        self._loaded = None
        self._limits.close()

    def _solved(self, block: Block) -> Any:
        """The result of a block, or why there is none."""
        assert self._loaded is not None
        arrays, solve = self._loaded
        return attempt(solve, block, *arrays.own(block))
