"""One block after another, in this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from simplicit.executors.base import Executor, R, T, flushed_denormals, one_thread_each

__all__ = ["SerialExecutor"]


class SerialExecutor(Executor):
    """Runs tasks one by one; the reference that the others must equal."""

    def __init__(self, workers: int | None = None) -> None:
        super().__init__(1)

    def run(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        with one_thread_each(), flushed_denormals():
            for position, item in enumerate(items):
                yield position, task(item)
