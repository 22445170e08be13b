"""Threads of this process: the arrays are shared as they are, and torch's kernels run outside the interpreter lock."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from simplicit.executors.base import Finished, Report
from simplicit.executors.inprocess import InProcessExecutor
from simplicit.executors.work import Block, Failure, Result, Work
from simplicit.machine import prepare_thread

__all__ = ["ThreadExecutor"]


class ThreadExecutor(InProcessExecutor):
    """A pool of threads, one BLAS thread each. A thread cannot be ended: whoever gives up waits for running blocks."""

    name = "threads"

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        super().__init__(workers, address=address)
        self._pool: ThreadPoolExecutor | None = None
        self._running: dict[Future[Result | Failure], int] = {}

    def load(self, work: Work) -> None:
        super().load(work)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="simplicit", initializer=prepare_thread)

    def idle(self) -> list[int]:
        return sorted(set(range(self.workers)) - set(self._running.values()))

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
