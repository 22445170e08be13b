"""Executors in this process, in the thread of the caller or in several: one set of arrays, one solver, nothing to lose.

The arrays are shared as they are, and torch's kernels run outside the interpreter lock.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from simplicit.executors.base import Executor, Finished, Report
from simplicit.executors.records import allocate, flatten
from simplicit.executors.work import Arrays, Block, Solve, Work, attempt
from simplicit.machine import flushed_denormals, one_thread_each, prepare_thread


@dataclass(eq=False, kw_only=True)
class _InProcess(Executor):
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


@dataclass(eq=False, kw_only=True)
class Serial(_InProcess):
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


@dataclass(eq=False, kw_only=True)
class Threads(_InProcess):
    """Solve blocks of rows in threads of this process, one BLAS thread each.

    Threads share the arrays as they are, and are there at once: they are started for every solve. A thread cannot be
    ended, so that whoever gives up waits for the blocks that still run.

    Parameters
    ----------
    workers : int, optional
        How many blocks are solved at a time; the number of processors when left out.

    Raises
    ------
    InputError
        For fewer than one worker.
    """

    workers: int | None = None
    _pool: ThreadPoolExecutor | None = field(init=False, repr=False, default=None)
    _running: dict[Future[Any], int] = field(init=False, repr=False, default_factory=dict)

    def load(self, work: Work[Any]) -> None:
        super().load(work)
        self._pool = ThreadPoolExecutor(self.n_workers, thread_name_prefix="simplicit", initializer=prepare_thread)

    def idle(self) -> list[int]:
        return sorted(set(range(self.n_workers)) - set(self._running.values()))

    def start(self, worker: int, block: Block) -> None:
        assert self._pool is not None
        self._running[self._pool.submit(self._solved, block)] = worker

    def wait(self, seconds: float | None) -> list[Report]:
        done, _ = wait_for(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        return [Finished(self._running.pop(future), future.result()) for future in done]

    def unload(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._running.clear()
        super().unload()
