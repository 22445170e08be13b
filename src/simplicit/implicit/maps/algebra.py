r"""M N and M + N of maps: as one map of a known kind where there is one, entry by entry where there is not.

What batch norm, padding with whole channels, 1×1 convolutions, concatenation and residual additions do to a convolution
is again a convolution. Only what has no such form is written down in compressed sparse rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.errors import InputError
from simplicit.implicit.maps.base import CsrMap, LinearMap
from simplicit.implicit.maps.composite import GatheredConvMap, SumMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap

__all__ = ["added", "composed"]

# Entries that composing may write down in one block, and terms that it may add up: 12 GB as CSR in float64.
LARGEST_NNZ = 10**9


def composed(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """M N: first N = ``inner``, then M = ``outer``.

    Raises
    ------
    InputError
        Shapes that do not fit; entries that are not finite; or too many entries to be written down.
    """
    if outer.shape[1] != inner.shape[0]:
        raise InputError(f"cannot compose a map of shape {outer.shape} with an inner map of shape {inner.shape}")
    known = _composed(outer, inner)
    if known is not None:
        return known
    if inner.nnz + outer.nnz <= LARGEST_NNZ:
        last, first = outer.to_csr(), inner.to_csr()
        # What every entry of the last meets in its row of the first: the terms of the product, at least its entries.
        terms = np.bincount(last.indices, minlength=last.shape[1]) @ np.diff(first.indptr).astype(np.int64)
        if terms <= LARGEST_NNZ:
            return CsrMap(last @ first)
    raise InputError(
        f"two linear maps of {inner.nnz:,} and {outer.nnz:,} entries follow each other without an activation between "
        "them, and their product has no short form"
    )


def _composed(outer: LinearMap, inner: LinearMap) -> LinearMap | None:
    """M N in a short form; None if there is none."""
    if isinstance(outer, GatherMap) and outer.in_order:
        return inner if outer.is_identity else inner.scaled(left=outer.factors)
    if isinstance(inner, GatherMap) and inner.in_order:
        return outer if inner.is_identity else outer.scaled(right=inner.factors)
    if isinstance(inner, SumMap):
        return _summed([composed(outer, part) for part in inner.parts])
    if isinstance(outer, SumMap):
        return _summed([composed(part, inner) for part in outer.parts])
    if isinstance(outer, GatherMap):
        return _gather_after(outer, inner)
    if isinstance(inner, GatherMap):
        return _gather_before(outer, inner)
    if isinstance(outer, ConvMap) and isinstance(inner, ConvMap):
        return _two_convolutions(outer, inner)
    return None


def _summed(parts: list[LinearMap]) -> LinearMap:
    total = parts[0]
    for part in parts[1:]:
        total = added(total, part)
    return total


def _gather_after(outer: GatherMap, inner: LinearMap) -> LinearMap | None:
    if isinstance(inner, GatherMap):
        picked = np.where(outer.columns >= 0, inner.columns[outer.columns], -1)
        factors = _at(inner.factors, outer.columns) * _at(outer.factors, slice(None))
        return GatherMap(picked, inner.width, np.broadcast_to(factors, picked.shape).astype(inner.dtype))
    if isinstance(inner, GatheredConvMap):
        after = _gather_after(outer, inner.after)
        assert isinstance(after, GatherMap)
        return GatheredConvMap(after, inner.core, inner.before)
    if not isinstance(inner, ConvMap):
        return None
    channels = _whole_channels(outer, inner.output_shape)
    if channels is not None and inner.left is None and inner.groups == 1:
        source, factors = channels
        weight = np.where(_trailing(source >= 0, inner.weight), inner.weight[source], 0.0)
        return inner.with_((weight * _trailing(factors, weight)).astype(inner.dtype))
    return GatheredConvMap(outer, inner, GatherMap.identity(inner.shape[1], inner.dtype))


def _gather_before(outer: LinearMap, inner: GatherMap) -> LinearMap | None:
    if isinstance(outer, GatheredConvMap):
        before = _gather_after(outer.before, inner)
        assert isinstance(before, GatherMap)
        return GatheredConvMap(outer.after, outer.core, before)
    if not isinstance(outer, ConvMap):
        return None
    places = math.prod(outer.input_shape[1:])
    channels = _whole_channels(inner, outer.input_shape)
    if channels is not None and outer.right is None and outer.groups == 1:
        source, factors = channels
        weight = np.zeros((outer.weight.shape[0], inner.width // places, *outer.kernel), dtype=outer.dtype)
        for place in np.flatnonzero(source >= 0):
            weight[:, source[place]] += factors[place] * outer.weight[:, place]
        return outer.with_(weight, input_shape=(inner.width // places, *outer.input_shape[1:]))
    return GatheredConvMap(GatherMap.identity(outer.shape[0], outer.dtype), outer, inner)


def _whole_channels(gather: GatherMap, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """Of a gather that moves whole channels only: where each comes from, -1 for zeros, and its factor.

    ``shape`` is that of what it gathers from (for one that follows), or of what it makes (for one that precedes);
    places of a channel are the same on both sides.
    """
    places = math.prod(shape[1:])
    if gather.columns.size % places or gather.width % places:
        return None
    columns = gather.columns.reshape(-1, places)
    first = columns[:, :1]
    moved = np.where(first >= 0, first + np.arange(places), -1)
    if (columns != moved).any() or (first[first >= 0] % places).any():
        return None
    factors = np.ones(columns.shape) if gather.factors is None else gather.factors.reshape(columns.shape)
    if (factors != factors[:, :1]).any():
        return None
    source: NDArray[np.int64] = np.where(first[:, 0] >= 0, first[:, 0] // places, -1)
    return source, factors[:, 0]


def _two_convolutions(outer: ConvMap, inner: ConvMap) -> ConvMap | None:
    """One convolution for two, if either is pointwise."""
    if outer.right is not None or inner.left is not None:
        return None
    if outer.pointwise:
        if outer.groups == inner.groups == outer.input_shape[0]:
            weight = outer.weight * inner.weight if outer.weight.shape[0] == inner.weight.shape[0] else None
            return None if weight is None else inner.with_(weight, left=outer.left)
        first, last = inner.ungrouped(), outer.ungrouped()
        weight = np.tensordot(last.weight.reshape(last.weight.shape[:2]), first.weight, axes=1)
        return first.with_(weight, left=outer.left)
    if inner.pointwise:
        first, last = inner.ungrouped(), outer.ungrouped()
        across = first.weight.reshape(first.weight.shape[:2])
        weight = np.moveaxis(np.tensordot(last.weight, across, axes=(1, 0)), -1, 1)
        return last.with_(weight, input_shape=inner.input_shape, right=inner.right)
    return None


def added(first: LinearMap, second: LinearMap) -> LinearMap:
    """M + N.

    Raises
    ------
    InputError
        Shapes that do not fit, or entries that are not finite.
    """
    if first.shape != second.shape:
        raise InputError(f"cannot add maps of shapes {first.shape} and {second.shape}")
    if isinstance(first, GatherMap) and isinstance(second, GatherMap):
        return _two_gathers(first, second)
    for one, other in ((first, second), (second, first)):
        if isinstance(one, ConvMap) and isinstance(other, ConvMap | GatherMap):
            merged = _into_convolution(one, other)
            if merged is not None:
                return merged
    kinds = (CsrMap, GatherMap)
    if isinstance(first, kinds) and isinstance(second, kinds):
        return CsrMap(first.to_csr() + second.to_csr())
    parts = [part for one in (first, second) for part in (one.parts if isinstance(one, SumMap) else (one,))]
    return _collected(parts)


def _collected(parts: list[LinearMap]) -> LinearMap:
    """The sum, with what is written down anyway in one matrix."""
    lazy = [part for part in parts if not isinstance(part, CsrMap | GatherMap)]
    written = [part for part in parts if isinstance(part, CsrMap | GatherMap)]
    if len(written) > 1:
        total = written[0].to_csr()
        for part in written[1:]:
            total = total + part.to_csr()
        written = [CsrMap(total)]
    return SumMap([*lazy, *written])


def _two_gathers(first: GatherMap, second: GatherMap) -> LinearMap:
    if ((first.columns >= 0) & (second.columns >= 0)).any():
        return CsrMap(first.to_csr() + second.to_csr())
    from_first = first.columns >= 0
    factors = np.where(from_first, _at(first.factors, slice(None)), _at(second.factors, slice(None)))
    return GatherMap(np.where(from_first, first.columns, second.columns), first.width, factors.astype(first.dtype))


def _into_convolution(conv: ConvMap, other: ConvMap | GatherMap) -> ConvMap | None:
    """The sum as a convolution of the geometry of ``conv``, if the other's taps are among its own."""
    if isinstance(other, GatherMap):
        as_conv = _as_convolution(other, conv)
        if as_conv is None:
            return None
        other = as_conv
    if not (conv.plain and other.plain) or _frame(conv) != _frame(other):
        return None
    if conv.groups != other.groups:
        conv, other = conv.ungrouped(), other.ungrouped()
    weight, taps = conv.weight.copy(), []
    geometry = zip(conv.kernel, conv.padding, conv.dilation, other.kernel, other.padding, other.dilation, strict=True)
    for k, p, d, other_k, other_p, other_d in geometry:
        own = [t * d - p for t in range(k)]
        offsets = [t * other_d - other_p for t in range(other_k)]
        if not set(offsets) <= set(own):
            return None
        taps.append([own.index(offset) for offset in offsets])
    weight[np.ix_(range(weight.shape[0]), range(weight.shape[1]), *taps)] += other.weight
    return conv.with_(weight)


def _frame(conv: ConvMap) -> tuple[tuple[int, ...], ...]:
    """What two convolutions have in common if the same place of their outputs begins at the same place of the input."""
    return conv.input_shape, conv.output_shape[1:], conv.stride


def _as_convolution(gather: GatherMap, conv: ConvMap) -> ConvMap | None:
    """A gather that picks whole channels, at the places that a 1×1 convolution of the same stride would see."""
    if conv.groups != 1:
        return None
    grid = np.zeros(1, dtype=np.int64)
    for n, o, s in zip(conv.input_shape[1:], conv.output_shape[1:], conv.stride, strict=True):
        if (o - 1) * s >= n:
            return None
        grid = (grid[:, None] * n + np.arange(o) * s).ravel()
    places = math.prod(conv.input_shape[1:])
    columns = gather.columns.reshape(conv.output_shape[0], -1)
    source = np.where(columns[:, :1] >= 0, (columns[:, :1] - grid[0]) // places, -1)
    factors = np.ones(columns.shape) if gather.factors is None else gather.factors.reshape(columns.shape)
    if (columns != np.where(source >= 0, source * places + grid, -1)).any() or (factors != factors[:, :1]).any():
        return None
    weight = np.zeros((conv.output_shape[0], conv.input_shape[0], *(1 for _ in conv.kernel)), dtype=conv.dtype)
    rows = np.flatnonzero(source[:, 0] >= 0)
    weight[rows, source[rows, 0]] = factors[rows, 0].reshape(-1, *(1 for _ in conv.kernel))
    pointwise = ConvMap(weight, conv.input_shape, stride=conv.stride)
    return pointwise if pointwise.output_shape == conv.output_shape else None


def _at(factors: NDArray[Any] | None, places: Any) -> Any:
    return 1.0 if factors is None else factors[places]


def _trailing(values: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """A value per output channel, to be broadcast along a weight."""
    return values.reshape(-1, *(1,) * (weight.ndim - 1))
