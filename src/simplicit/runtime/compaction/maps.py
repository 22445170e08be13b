"""Linear maps without some of their rows and columns, in the form that they have.

A convolution stays one where whole channels go, a repeated matrix one where the same rows and columns go in all of its
places; so both ask for whole ones. Of any other map all rows and columns can go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.implicit.maps import ConvMap, CsrMap, GatherMap, LinearMap, RepeatedMap, SumMap, TransposedMap, composed

#: Which rows or columns are kept.
Mask = NDArray[np.bool_]


def whole(block: LinearMap, kept: Mask, *, rows: bool) -> Mask:
    """The rows or columns that a map keeps at least, with those that are kept."""
    if isinstance(block, SumMap):
        for part in block.parts:
            kept = whole(part, kept, rows=rows)
        return kept
    if isinstance(block, TransposedMap):
        return whole(block.core, kept, rows=not rows)
    shape = _shape(block, rows)
    if shape is None:
        return kept
    if isinstance(block, ConvMap) and block.groups > 1:
        return np.full_like(kept, fill_value=bool(kept.any()))
    channels = kept.reshape(shape).any(axis=(0, 2), keepdims=True)
    return np.broadcast_to(channels, shape).reshape(-1)


def restricted(block: LinearMap, rows: Mask, columns: Mask) -> LinearMap:
    """A map without rows and columns, whole ones as :func:`whole` has them."""
    if rows.all() and columns.all():
        return block
    if isinstance(block, SumMap):
        return SumMap([restricted(part, rows, columns) for part in block.parts])
    if isinstance(block, TransposedMap):
        core = restricted(block.core, columns, rows)
        assert isinstance(core, ConvMap)
        return TransposedMap(core)
    if isinstance(block, CsrMap):
        return CsrMap(block.to_csr()[rows][:, columns])
    if isinstance(block, ConvMap | RepeatedMap):
        return _cut(block, rows, columns)
    taken = GatherMap(np.flatnonzero(rows), rows.size, dtype=block.dtype)
    given = GatherMap(np.where(columns, np.cumsum(columns) - 1, -1), int(columns.sum()), dtype=block.dtype)
    return composed(composed(taken, block), given)


def _shape(block: LinearMap, rows: bool) -> tuple[int, int, int] | None:
    """(repeats, channels, places) of the rows or columns of a map that is the same in many places."""
    if isinstance(block, ConvMap):
        shape = block.output_shape if rows else block.input_shape
        return 1, shape[0], math.prod(shape[1:])
    if isinstance(block, RepeatedMap):
        return block.repeats, block.weight.shape[0 if rows else 1], block.inner
    return None


def _cut(block: ConvMap | RepeatedMap, rows: Mask, columns: Mask) -> LinearMap:
    shapes = _shape(block, True), _shape(block, False)
    assert shapes[0] is not None
    assert shapes[1] is not None
    out, into = (mask.reshape(shape)[0, :, 0] for mask, shape in zip((rows, columns), shapes, strict=True))
    factors = {
        side: None if values is None else values[mask]
        for side, values, mask in (("left", block.left, rows), ("right", block.right, columns))
    }
    changes: dict[str, Any] = dict(factors)
    if isinstance(block, ConvMap):
        changes["input_shape"] = (int(into.sum()), *block.input_shape[1:])
    weight = block.weight[out]
    return block.with_weight(weight if into.all() else weight[:, into], **changes)
