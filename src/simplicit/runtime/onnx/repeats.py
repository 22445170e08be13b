"""Smaller matrices that a sparse matrix repeats, as a layer does that treats every token alike.

Rows and columns that are connected by entries make a component. Components that hold the same matrix, whichever rows
and columns of the whole they stand at, are one product with several columns of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from simplicit.implicit.maps import Csr

# Smaller matrices are written whole; so are those with more components, or more different ones, than this, those with a
# component of more numbers, and those of which the parts come to more than this share.
_SMALLEST, _COMPONENTS, _DIFFERENT, _LARGEST, _SHARE = 1024, 2**12, 8, 2**28, 0.5


@dataclass(frozen=True)
class Repeat:
    """A matrix has ``core`` (r, c) at ``rows[t]`` and ``columns[t]`` for every t: (T, r) and (T, c)."""

    core: NDArray[Any]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def repeats(matrix: Csr) -> list[Repeat] | None:
    """Return the parts that make up a matrix; None where it is better written whole."""
    rows, columns = matrix.shape
    if rows * columns < _SMALLEST or not matrix.nnz:
        return None
    entries = matrix.tocoo()
    ends = entries.row.astype(np.int64), entries.col.astype(np.int64) + rows
    size = rows + columns
    graph = sp.coo_array((np.ones(matrix.nnz, dtype=np.int8), ends), shape=(size, size))
    count, label = connected_components(graph, directed=False)
    used = np.unique(label[ends[0]])
    if not 1 < len(used) <= _COMPONENTS:
        return None
    heights, widths = (np.bincount(part, minlength=count) for part in (label[:rows], label[rows:]))
    if (heights * widths)[used].max() > _LARGEST:
        return None
    alike: dict[bytes, list[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]]] = {}
    for part in _parts(label, rows, used, count):
        core = matrix[part[0]][:, part[1]].toarray()
        alike.setdefault(repr(core.shape).encode() + core.tobytes(), []).append((core, *part))
        if len(alike) > _DIFFERENT:
            return None
    found = [
        Repeat(group[0][0], np.stack([one[1] for one in group]), np.stack([one[2] for one in group]))
        for group in alike.values()
    ]
    return found if sum(part.core.size for part in found) <= _SHARE * rows * columns else None


def _parts(
    label: NDArray[Any], rows: int, used: NDArray[Any], count: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows and the columns of each component."""
    places = [np.split(np.argsort(part, kind="stable"), _stops(part, count)) for part in (label[:rows], label[rows:])]
    return [(places[0][number], places[1][number]) for number in used]


def _stops(label: NDArray[Any], count: int) -> NDArray[np.int64]:
    return np.cumsum(np.bincount(label, minlength=count))[:-1]
