"""What an executor is: workers that solve one block at a time, and report.

An executor lets workers know a work, starts blocks on them and waits for their reports. It decides nothing: which block
comes next, what happens when a worker dies or hangs, and when a run ends is decided in one place for all of them,
:mod:`simplicit.executors.running`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.executors.work import Block, Failure, Result, Work
from simplicit.machine import available_processors

__all__ = ["Executor", "Finished", "Lost", "Report"]


@dataclass(frozen=True)
class Finished:
    """A worker is through with its block: the result, or the exception that any other worker would have met too."""

    worker: int
    outcome: Result | Failure


@dataclass(frozen=True)
class Lost:
    """A worker is gone, whatever it was doing; its block may be in order."""

    worker: int
    reason: str


Report = Finished | Lost


class Executor(ABC):
    """Workers that solve one block each at a time.

    One executor serves any number of works, one after another, and keeps its workers between them; ``close``, or the
    end of a ``with`` block, ends them.

    Parameters
    ----------
    workers : int, optional
        How many blocks are solved at a time; the number of processors when left out.
    address : str, optional
        Of a cluster, for the executor that has one.

    Raises
    ------
    InputError
        For fewer than one worker, or an address that the executor has no use for.
    """

    #: Its name in the registry.
    name: ClassVar[str]
    #: Whether a worker that died or hangs can be replaced.
    replaces: ClassVar[bool] = False

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        self.workers = available_processors() if workers is None else as_count("workers", workers)
        if address is not None:
            raise InputError(f"ray_address: the executor {self.name!r} joins no cluster; leave it out, or take 'ray'")

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
    def load(self, work: Work) -> None:
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
