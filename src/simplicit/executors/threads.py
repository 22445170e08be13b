"""Threads of this process: the arrays are shared as they are, and torch's kernels run outside the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from simplicit.executors.base import Executor, R, T, one_thread_each

__all__ = ["ThreadExecutor"]


class ThreadExecutor(Executor):
    """Runs tasks on a pool of threads, one BLAS thread each."""

    def run(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="simplicit", initializer=_prepare)
        with one_thread_each():
            try:
                futures = {pool.submit(task, item): position for position, item in enumerate(items)}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    # Both settings belong to the calling thread, which ends with the pool.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
