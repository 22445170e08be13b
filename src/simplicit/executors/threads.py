"""Threads of this process: the arrays are shared as they are, and torch's kernels run outside the interpreter lock."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any

from simplicit.executors.base import Finished, Report
from simplicit.executors.inprocess import InProcessExecutor
from simplicit.executors.work import Block, Work
from simplicit.machine import prepare_thread


@dataclass(eq=False, kw_only=True)
class Threads(InProcessExecutor):
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
