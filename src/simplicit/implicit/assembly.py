"""Matrices written down from their blocks, and cut into blocks again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from simplicit.implicit.groups import INPUT, OUTPUT, StateGroup, pre_slices_of, slices_of
from simplicit.implicit.maps import Csr, CsrMap, LinearMap

#: Blocks of A, B, C and D by (row, column): a group or "output", and a group or "input".
Blocks = Mapping[tuple[str, str], LinearMap]


def assemble(blocks: Blocks, rows: Mapping[str, slice], columns: Mapping[str, slice], dtype: np.dtype[Any]) -> Csr:
    """The matrix with those blocks that ``rows`` and ``columns`` give a place, canonical and read-only."""
    shape = tuple(max((at.stop for at in places.values()), default=0) for places in (rows, columns))
    wanted = [(rows[r], columns[c], block) for (r, c), block in blocks.items() if r in rows and c in columns]
    index = np.int32 if max(sum(block.nnz for *_, block in wanted), *shape) < 2**31 else np.int64
    data, row_indices, column_indices = [np.empty(0, dtype)], [np.empty(0, index)], [np.empty(0, index)]
    for down, across, block in wanted:
        part = block.to_csr().tocoo()
        data.append(part.data)
        row_indices.append(part.row.astype(index) + index(down.start))
        column_indices.append(part.col.astype(index) + index(across.start))
    indices = (np.concatenate(row_indices), np.concatenate(column_indices))
    whole = sp.csr_array((np.concatenate(data), indices), shape=shape, dtype=dtype)
    whole.sort_indices()
    for array in (whole.data, whole.indices, whole.indptr):
        array.flags.writeable = False
    return whole


def cut(groups: Sequence[StateGroup], A: Csr, B: Csr, C: Csr, D: Csr) -> Blocks:
    """The blocks of A, B, C and D, in compressed sparse rows, for groups in the order of the states."""
    states, pre = slices_of(groups), pre_slices_of(groups)
    blocks: dict[tuple[str, str], LinearMap] = {(OUTPUT, INPUT): CsrMap(D)}
    for g, rows in pre.items():
        blocks[g, INPUT] = CsrMap(B[rows])
        blocks[OUTPUT, g] = CsrMap(C[:, states[g]])
        blocks |= {(g, h): CsrMap(A[rows][:, columns]) for h, columns in states.items()}
    return blocks
