"""N:M patterns of a cell's rows: which of their columns are consecutive inputs of one weight.

A row of M holds rows of several weights (W and U of x = φ(Wx + Uu)), each on columns of its own. Of each the inputs are
taken in its own order, and of a kernel the channels at one position, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from simplicit.network.probing import Traced
from simplicit.rows.batch import Index
from simplicit.training.support.pattern import Groups, Pattern


def entries_of(traced: Traced, shape: tuple[int, int]) -> csr_array:
    """The numbers of the weights' entries of which those of M (n_pre + q, n + p) are multiples, counted from 1."""
    return csr_array((traced.entries + 1.0, (traced.rows, traced.columns)), shape=shape)


def groups_in(pattern: Pattern, entries: Index, shapes: Sequence[tuple[int, ...]]) -> Groups:
    """The groups of rows (r, d) of such numbers, 0 where there is none, of weights with these ``shapes``."""
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    lines, places, lengths = np.full((3, *entries.shape), -1)
    for row, numbers in enumerate(entries - 1):
        owners = np.where(numbers >= 0, np.searchsorted(ends, numbers, side="right") - 1, -1)
        for owner in np.unique(owners[owners >= 0]):
            at, shape = np.flatnonzero(owners == owner), shapes[owner]
            first, second, *rest = np.unravel_index(numbers[at] - ends[owner], shape)
            position = np.ravel_multi_index(rest, shape[2:]) if rest else np.zeros(len(at), dtype=np.intp)
            lines[row, at] = ends[owner] + position
            place, length = _along(first, second, shape)
            places[row, at], lengths[row, at] = place, length
    return Groups.of_lines(pattern, lines, places, lengths)


def _along(first: Index, second: Index, shape: tuple[int, ...]) -> tuple[Index, int]:
    """Where a row's entries lie on the axis of a weight's inputs, which is the one on which they differ, and its
    length."""
    if len(np.unique(first)) == 1:
        return second, shape[1]
    if len(np.unique(second)) == 1:
        return first, shape[0]
    return first * shape[1] + second, shape[0] * shape[1]
