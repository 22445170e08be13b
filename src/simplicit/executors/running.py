"""Blocks handed out to workers, whatever may happen to them: the one place that decides about failures.

- A worker that dies, or that answers nothing for too long, is replaced, and its block goes to another one, at most
  :data:`RETRIES` times.
- A block that raises an exception would raise it anywhere. It ends the run: with one error that names its rows, once
  the blocks that run are in; with ``thorough`` once all others are in, which then are in the journal.
- Workers that die before they have finished anything end the run too.

An interrupt passes through: the executor lets go of the work, and whoever opened it ends its workers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import simplicit.errors
from simplicit.errors import DataError, ExecutionError, InputError, MissingExtraError, SimplicitError
from simplicit.executors.base import Executor, Lost
from simplicit.executors.work import Block, Failure, Work

T = TypeVar("T")

#: How often a block goes to another worker because the one before was lost.
RETRIES = 3
#: How long no worker may be there at all, neither idle nor busy.
START_SECONDS = 120.0

_log = logging.getLogger(__name__)
#: Errors of ours that say by themselves what is wrong and mean the same in another process.
_SELF_EXPLANATORY = (DataError, InputError, MissingExtraError)


@dataclass
class Deadline:
    """How long a block may take: the ``seconds`` given, or what blocks have taken so far, generously."""

    #: Times the longest block so far; never less than `LEAST`; `FIRST` before one is finished.
    FACTOR, LEAST, FIRST = 20.0, 60.0, 3600.0

    seconds: float | None = None
    longest: float = 0.0

    @property
    def limit(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return max(self.LEAST, self.FACTOR * self.longest) if self.longest else self.FIRST

    def observe(self, seconds: float) -> None:
        """Learn how long a finished block took."""
        self.longest = max(self.longest, seconds)


def run_blocks(
    executor: Executor,
    work: Work[T],
    blocks: Sequence[Block],
    *,
    deadline: Deadline | None = None,
    thorough: bool = False,
) -> Iterator[tuple[Block, T]]:
    """Load a work, begin some of its blocks in this order, and yield them with their results as they finish.

    The works of a run share their deadline, so that it learns from all of them; left out, it is that of the executor.
    With ``thorough`` all other blocks are finished before the exception of one is raised: ExecutionError if a block
    fails or workers are lost again and again, or whatever SimplicitError the block has raised itself.
    """
    run = _Run(executor, work, deadline or Deadline(executor.block_timeout), deque(blocks), thorough=thorough)
    try:
        executor.load(work)
        yield from run.results()
    finally:
        executor.unload()


@dataclass
class _Run(Generic[T]):
    executor: Executor
    work: Work[T]
    deadline: Deadline
    waiting: deque[Block]
    thorough: bool
    running: dict[int, tuple[Block, float]] = field(default_factory=dict)  # by worker, with the time of its start
    losses: Counter[int] = field(default_factory=Counter)  # by number of the block
    lost_in_a_row: int = 0  # workers since a block was last finished
    failure: SimplicitError | None = None
    seen_workers: float = field(default_factory=time.monotonic)

    def results(self) -> Iterator[tuple[Block, T]]:
        while self.waiting or self.running:
            self._start()
            for report in self.executor.wait(self._patience()):
                block, begun = self.running.pop(report.worker, (None, 0.0))
                if isinstance(report, Lost):
                    self._lost(report.worker, report.reason, block)
                elif block is None:  # of a worker that had been given up
                    continue
                elif isinstance(report.outcome, Failure):
                    self._failed(_as_error(report.outcome, self.work.describe(block)))
                else:
                    self.lost_in_a_row = 0
                    self.deadline.observe(time.monotonic() - begun)
                    yield block, report.outcome
            self._give_up_on_the_hung()
        if self.failure is not None:
            raise self.failure

    def _start(self) -> None:
        for worker in self.executor.idle():
            if self.waiting:
                block = self.waiting.popleft()
                self.running[worker] = block, time.monotonic()
                self.executor.start(worker, block)

    def _patience(self) -> float | None:
        """How long nothing need be reported: until the first deadline, or until somebody must have come up."""
        now = time.monotonic()
        if not self.running:
            if now - self.seen_workers > START_SECONDS:
                raise ExecutionError(
                    f"executor: no worker of {self.executor!r} has come up within {START_SECONDS:.0f} s; see "
                    "whether the machine, or the cluster, has room for one, or take another executor"
                )
            return 1.0
        self.seen_workers = now
        if not self.executor.replaces:
            return None
        return max(0.0, min(begun for _, begun in self.running.values()) + self.deadline.limit - now)

    def _give_up_on_the_hung(self) -> None:
        if not self.executor.replaces:
            return
        now, limit = time.monotonic(), self.deadline.limit
        for worker, (block, begun) in list(self.running.items()):
            if now - begun > limit:
                del self.running[worker]
                self._lost(worker, f"has not answered for {limit:.3g} s", block)

    def _lost(self, worker: int, reason: str, block: Block | None) -> None:
        self.lost_in_a_row += 1
        if block is not None:
            self.losses[block.number] += 1
            if self.losses[block.number] > RETRIES:
                self._failed(self._given_up(reason, block))
            elif self.failure is None or self.thorough:
                self.waiting.appendleft(block)
        if self.lost_in_a_row > (RETRIES + 1) * self.executor.n_workers:
            raise self.failure or ExecutionError(
                f"executor: {self.lost_in_a_row} workers of {self.executor!r} were lost in a row, the last one "
                f"{reason}; no block was finished meanwhile"
            )
        again = "" if block is None else f"; the block with {self.work.describe(block)} goes to another one"
        _log.warning("A worker %s%s", reason, again)
        self.executor.replace(worker)

    def _given_up(self, reason: str, block: Block) -> ExecutionError:
        return ExecutionError(
            f"{self.work.describe(block)}: {RETRIES + 1} workers were lost on them, the last one {reason}; if memory "
            "was short, take fewer workers or smaller blocks (block_rows), if time was, a longer block_timeout"
        )

    def _failed(self, error: SimplicitError) -> None:
        self.failure = self.failure or error
        if not self.thorough:
            self.waiting.clear()


def _as_error(failure: Failure, rows: str) -> SimplicitError:
    """The exception of a block as one of ours: the same, if it is one that speaks for itself."""
    kind = getattr(simplicit.errors, failure.kind, None)
    if kind in _SELF_EXPLANATORY:
        error: SimplicitError = kind(failure.message)
    else:
        what = f"{failure.kind}: {failure.message}" if failure.message else failure.kind
        error = ExecutionError(f"{rows}: could not be solved ({what})")
    # The traceback of another process is shown as text, below our own.
    error.__cause__ = failure.error or RuntimeError(f"\n{failure.traceback}")
    return error
