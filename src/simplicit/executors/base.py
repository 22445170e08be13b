"""What an executor is: workers that solve one block at a time, and report.

An executor lets workers know a work, starts blocks on them and waits for their reports. It decides nothing: which block
comes next, what happens when a worker dies or hangs, and when a run ends is decided in one place for all of them,
:mod:`simplicit.executors.running`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from simplicit.checks import as_count, as_number
from simplicit.executors.work import Block, Work
from simplicit.machine import available_processors


@dataclass(frozen=True)
class Finished:
    """A worker is through with its block."""

    worker: int
    outcome: Any  # the record that came of it, or a Failure: the exception that any other worker would have met too


@dataclass(frozen=True)
class Lost:
    """A worker is gone, whatever it was doing; its block may be in order."""

    worker: int
    reason: str


Report = Finished | Lost


class Executor(ABC):
    """Where blocks of rows are solved: workers, each of which solves one block at a time.

    One executor serves any number of solves, one after another, and keeps its workers between them. To make one starts
    nothing: the first solve starts the workers, and they end with :meth:`close`, with the ``with`` block that the
    executor is used in, or when nothing refers to the executor any more. The settings of a kind of executor are the
    fields of its dataclass.
    """

    #: Whether a worker that died or hangs can be replaced.
    replaces: ClassVar[bool] = False
    #: Blocks solved at a time, a field of the kinds that have workers. None: as many as there are processors.
    workers: int | None = None
    #: Seconds after which a worker counts as hung, a field of the kinds that replace workers. None: learnt from the
    #: blocks so far.
    block_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            as_count("workers", self.workers)
        if self.block_timeout is not None:
            as_number("block_timeout", self.block_timeout, positive=True)

    @property
    def n_workers(self) -> int:
        """How many blocks are solved at a time."""
        return self.workers or available_processors()

    @property
    def copies(self) -> int:
        """How many workers of this machine keep for themselves what they compute from the shared arrays."""
        return 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and give back all that they held; blocks that still run are given up."""
        self.unload()

    @abstractmethod
    def load(self, work: Work[Any]) -> None:
        """Make the arrays of a work, let it fill them, and let the workers know it."""

    @abstractmethod
    def unload(self) -> None:
        """Let go of the work, if there is one; blocks that still run are given up."""

    @abstractmethod
    def idle(self) -> list[int]:
        """The workers that could start a block now."""

    @abstractmethod
    def start(self, worker: int, block: Block) -> None:
        """Let an idle worker solve a block."""

    @abstractmethod
    def wait(self, seconds: float | None) -> list[Report]:
        """What the workers report, as soon as there is anything.

        Nothing is reported after so many seconds, or when a worker has come up that was not idle before.
        """

    def replace(self, worker: int) -> None:
        """End what may be left of a worker and start another in its place; only where ``replaces`` says so."""
        raise NotImplementedError
