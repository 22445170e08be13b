"""What an executor runs: blocks of work on arrays that exist once.

A :class:`Work` says everything that the result of a block depends on, so that it does not matter where the block runs:
big arrays, filled once and only read from then on, and a list of blocks. The arrays are three records
(:mod:`simplicit.executors.records`), which differ in how much of them a block needs:

- ``shared``: whole, such as Φᵀ and the Gram matrix;
- ``rows``: its own rows, such as the targets. The rows stand in the order of the blocks, so that those of a block are
  one slice;
- ``entries``: its own entries, of sparse arrays, one after another in the order of the rows.

Where workers see the same memory a block's slices are cut where it runs; otherwise they travel with it, and nothing
else does. The result is a record too: what comes back over a pipe or a network is what the journal keeps.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from simplicit.executors.records import sliced

S = TypeVar("S")
R = TypeVar("R")
E = TypeVar("E")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Block:
    """The unit of work: some rows that are solved together."""

    number: int  # its name, among all blocks of a run
    group: int  # which of the designs in the shared arrays its rows are on
    rows: tuple[int, int]  # where its slice of ``Arrays.rows`` begins and ends
    entries: tuple[int, int] = (0, 0)  # and that of ``Arrays.entries``

    def __len__(self) -> int:
        return self.rows[1] - self.rows[0]


@dataclass(frozen=True, eq=False)
class Arrays(Generic[S, R, E]):
    """The three records of a work; see the module."""

    shared: S
    rows: R
    entries: E

    def own(self, block: Block) -> tuple[R, E]:
        """The slices of a block."""
        return sliced(self.rows, *block.rows), sliced(self.entries, *block.entries)


#: Solves a block, given its slices of the rows and the entries.
Solve = Callable[[Block, Any, Any], T]


class Work(ABC, Generic[T_co]):
    """Independent blocks, what they need, and how one is solved; generic in the record that comes of a block."""

    blocks: Sequence[Block]  # in the order in which they are best begun
    arrays: Arrays[Any, Any, Any]  # shapes and types; see :func:`simplicit.executors.records.planned`
    #: Makes of the shared arrays what solves a block, once in every process that has workers; it can be pickled.
    opener: Callable[[Any], Solve[T_co]]

    @abstractmethod
    def fill(self, arrays: Arrays[Any, Any, Any], threads: int) -> None:
        """Write all arrays, with so many threads; the values must not depend on their number.

        The arrays are there, aligned, each with its shape and type, and full of zeros or rubbish. The caller has set
        BLAS to one thread per thread.
        """

    @abstractmethod
    def describe(self, block: Block) -> str:
        """Which rows these are, for people."""


@dataclass(frozen=True)
class Failure:
    """An exception in a form that passes between processes."""

    kind: str  # the name of its type
    message: str
    traceback: str = ""
    error: Exception | None = None  # itself, where it happened in this process

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.kind, self.message, self.traceback)


def attempt(solve: Solve[T], block: Block, rows: Any, entries: Any) -> T | Failure:
    """The result of a block, or why there is none."""
    try:
        return solve(block, rows, entries)
    except Exception as error:
        return Failure(type(error).__name__, str(error), traceback.format_exc(), error)
