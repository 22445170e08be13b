r"""Gathers as slices: which numbers go where, as strides of arrays instead of element by element.

What a network moves is mostly a slice, a permutation or a part of an array, whose element (i₁, …, i_k) goes from column
c + Σ sⱼ iⱼ to row r + Σ tⱼ iⱼ. Memory is read and written along such strides several times faster than by an index.
Where windows reach over an edge, what is moved is a few slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]

# Dimensions of a slice; runs of one step along a dimension; and slices that a gather may be.
_MOST_AXES, _MOST_RUNS, _MOST_SLICES = 6, 3, 9


@dataclass(frozen=True)
class Slice:
    """Rows and columns, first + Σ stride · index over indices of one shape."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    first: tuple[int, int]

    def rows_of(self, y: Tensor, start: int = 0) -> Tensor:
        """The rows in y (m, out), or in what y has from row ``start`` on, as a view (m, *shape)."""
        return self._view(y, self.rows, self.first[0] - start)

    def columns_of(self, x: Tensor) -> Tensor:
        """The columns in x (m, in), as a view (m, *shape)."""
        return self._view(x, self.columns, self.first[1])

    def _view(self, z: Tensor, strides: tuple[int, ...], first: int) -> Tensor:
        down, across = z.stride()
        if across != 1:
            strides = tuple(stride * across for stride in strides)
        return z.as_strided((z.shape[0], *self.shape), (down, *strides), z.storage_offset() + first * across)


def slices(rows: Indices, columns: Indices) -> tuple[Slice, ...]:
    """The slices that rows, ascending, and their columns make; none where these are too many."""
    if not rows.size:
        return ()
    found: list[Slice] = [Slice((), (), (), (0, 0))]
    pairs = np.stack([rows, columns])
    while pairs.shape[1] > 1:
        length = _period(pairs)
        runs = [] if length is None else _runs(pairs[:, :length])
        longer = [_longer(one, run) for run in runs for one in found]
        if not longer or len(longer) > _MOST_SLICES or len(longer[0].shape) > _MOST_AXES:
            return ()
        found, pairs = longer, pairs[:, ::length]
    if any(min(one.columns, default=0) < 0 for one in found):
        return ()
    down, across = pairs[:, 0].tolist()
    return tuple(Slice(one.shape, one.rows, one.columns, (down + one.first[0], across + one.first[1])) for one in found)


def _longer(one: Slice, run: tuple[int, Indices, Indices]) -> Slice:
    """A slice with one more dimension before its others: a run of so many steps from a place."""
    length, (down, across), (row, column) = run[0], run[1].tolist(), run[2].tolist()
    first = one.first[0] + row, one.first[1] + column
    return Slice((length, *one.shape), (down, *one.rows), (across, *one.columns), first)


def _period(pairs: Indices) -> int | None:
    """After how many pairs the same steps begin again: a run of one step, or a few of them."""
    count, steps = pairs.shape[1], np.diff(pairs)
    (breaks,) = np.nonzero((steps != steps[:, :1]).any(axis=0))
    run = int(breaks[0]) + 1 if breaks.size else count
    if _repeats(pairs, run):
        return run
    longer = (length for length in range(run + 1, count + 1) if count % length == 0)
    return next((length for length in longer if _repeats(pairs, length)), None)


def _repeats(pairs: Indices, length: int) -> bool:
    """Whether pairs take the same steps again after every ``length``."""
    if pairs.shape[1] % length:
        return False
    parts = pairs.reshape(2, -1, length)
    few = parts[:, :2]  # most lengths fail there
    if ((few - few[:, :, :1]) != (few[:, :1] - few[:, :1, :1])).any():
        return False
    return not ((parts - parts[:, :, :1]) != (parts[:, :1] - parts[:, :1, :1])).any()


def _runs(pairs: Indices) -> list[tuple[int, Indices, Indices]]:
    """Runs of one step each, as their lengths, steps and places after the first pair; none where they are too many."""
    found, start = list[tuple[int, Indices, Indices]](), 0
    while start < pairs.shape[1]:
        if len(found) == _MOST_RUNS:
            return []
        steps = np.diff(pairs[:, start:])
        (breaks,) = np.nonzero((steps != steps[:, :1]).any(axis=0)) if steps.size else (np.empty(0, np.int64),)
        length = int(breaks[0]) + 1 if breaks.size else pairs.shape[1] - start
        step = steps[:, 0] if length > 1 else np.ones(2, np.int64)
        found.append((length, step, pairs[:, start] - pairs[:, 0]))
        start += length
    return found
