"""What an executor runs: blocks of work on arrays that exist once.

A :class:`Work` says everything that the result of a block depends on, so that it does not matter where the block runs:
big arrays under names, filled once and only read from then on; small settings; and a list of blocks. Three kinds of
arrays differ in how much of them a block needs:

- ``shared``: whole, such as Φᵀ and the Gram matrix;
- ``rows``: its own rows, such as the targets. The rows stand in the order of the blocks, so that those of a block are
  one slice;
- ``entries``: its own entries, of sparse arrays, one after another in the order of the rows.

An executor whose workers see the same memory cuts a block's slices where it runs; one that sends blocks away sends the
slices with them, so that no more travels than is needed. The result is a table of arrays too: what comes back over a
pipe or a network is what the journal keeps.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "Arrays",
    "Block",
    "Failure",
    "Layout",
    "Recipe",
    "Result",
    "Solve",
    "Spec",
    "Work",
    "attempt",
    "private_arrays",
]

Arrays = Mapping[str, npt.NDArray[Any]]
Result = dict[str, npt.NDArray[Any]]

#: Bytes to which every array is aligned, in whatever memory it lies: BLAS rounds differently at other addresses.
ALIGNMENT = 64
#: Bytes of a piece of memory, at least: smaller ones are not aligned everywhere.
LEAST_BYTES = 4096


@dataclass(frozen=True)
class Block:
    """The unit of work: some rows that are solved together.

    Attributes
    ----------
    number : int
        Its name, among all blocks of a run.
    group : int
        Which of the designs in ``shared`` its rows are on.
    rows, entries : (int, int)
        Where its slices of ``Work.rows`` and ``Work.entries`` begin and end.
    """

    number: int
    group: int
    rows: tuple[int, int]
    entries: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return self.rows[1] - self.rows[0]


Solve = Callable[[Block, Arrays], Result]


@dataclass(frozen=True)
class Failure:
    """An exception in a form that passes between processes.

    Attributes
    ----------
    kind : str
        The name of its type.
    message, traceback : str
    error : Exception, optional
        Itself, where it happened in this process.
    """

    kind: str
    message: str
    traceback: str = ""
    error: Exception | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.kind, self.message, self.traceback)


def attempt(solve: Solve, block: Block, own: Arrays) -> Result | Failure:
    """The result of a block, or why there is none."""
    try:
        return solve(block, own)
    except Exception as error:
        return Failure(type(error).__name__, str(error), traceback.format_exc(), error)


@dataclass(frozen=True)
class Spec:
    """Shape and type of an array that is still to be made."""

    shape: tuple[int, ...]
    dtype: str = "<f8"

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Work(ABC):
    """Independent blocks, and what they need.

    Attributes
    ----------
    blocks : sequence of Block
        In the order in which they are best begun.
    shared, rows, entries : mapping of str to Spec
        The arrays by name; see the module.
    settings : object
        Small, and made of what can be pickled.
    """

    blocks: Sequence[Block]
    shared: Mapping[str, Spec]
    rows: Mapping[str, Spec]
    entries: Mapping[str, Spec]
    settings: Any

    #: From the shared arrays and the settings to what solves a block; a function of a module, found by its name in
    #: other processes. It is called once per worker, or once for workers in one process.
    opener: ClassVar[staticmethod[[Arrays, Any], Solve]]

    @abstractmethod
    def fill(self, arrays: Arrays, threads: int) -> None:
        """Write all arrays, with so many threads; the values must not depend on their number.

        The arrays are there, aligned, each with its shape and type, and full of zeros or rubbish. The caller has set
        BLAS to one thread per thread.
        """

    @abstractmethod
    def describe(self, block: Block) -> str:
        """Which rows these are, for people."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(spec.nbytes for table in (self.shared, self.rows, self.entries) for spec in table.values())

    @property
    def recipe(self) -> Recipe:
        """What workers need to know."""
        return Recipe(self.opener, self.settings, tuple(self.rows), tuple(self.entries))


@dataclass(frozen=True)
class Recipe:
    """What a worker must know of a work beside its arrays; small, and can be pickled."""

    opener: Callable[[Arrays, Any], Solve]
    settings: Any
    rows: tuple[str, ...]
    entries: tuple[str, ...]

    def open(self, arrays: Arrays) -> Solve:
        """What solves a block, given its own slices."""
        return self.opener(arrays, self.settings)

    def own(self, arrays: Arrays, block: Block) -> Arrays:
        """The slices of a block."""
        names = (*((name, block.rows) for name in self.rows), *((name, block.entries) for name in self.entries))
        return {name: arrays[name][first:last] for name, (first, last) in names}


@dataclass(frozen=True)
class Layout:
    """Where arrays lie in one piece of memory, each aligned to :data:`ALIGNMENT`."""

    places: Mapping[str, tuple[int, Spec]]
    nbytes: int

    @classmethod
    def of(cls, *tables: Mapping[str, Spec]) -> Layout:
        places, end = {}, 0
        for table in tables:
            for name, spec in table.items():
                places[name] = (end, spec)
                end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        return cls(places, max(end, LEAST_BYTES))

    def arrays(self, memory: Any) -> dict[str, npt.NDArray[Any]]:
        """The arrays in a buffer of ``nbytes`` bytes that is aligned itself; read-only if the buffer is."""
        return {
            name: np.ndarray(spec.shape, spec.dtype, buffer=memory, offset=offset)
            for name, (offset, spec) in self.places.items()
        }


def private_memory(nbytes: int) -> npt.NDArray[np.uint8]:
    """Aligned memory of this process."""
    memory = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + nbytes]


def private_arrays(*tables: Mapping[str, Spec]) -> dict[str, npt.NDArray[Any]]:
    """New arrays in memory of this process, aligned like all others."""
    layout = Layout.of(*tables)
    return layout.arrays(private_memory(layout.nbytes))
