r"""M N and M + N of maps: as one map of a known kind where there is one, entry by entry where there is not.

What batch norm, padding with whole channels, 1×1 convolutions, concatenation and residual additions do to a convolution
is again a convolution, and I ⊗ W after I ⊗ V is I ⊗ WV. Only what has no such form is written down in compressed sparse
rows. A short form for a pair of kinds is one function here and one line in :data:`COMPOSITIONS` or :data:`ADDITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from simplicit.errors import InputError
from simplicit.implicit.maps.base import LinearMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.csr import CsrMap
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.maps.gathered import GatheredMap
from simplicit.implicit.maps.repeated import RepeatedMap
from simplicit.implicit.maps.sums import SumMap
from simplicit.implicit.maps.weighted import WeightedMap

#: Entries that composing may write down in one block, and terms that it may add up: 600 MB as CSR in float64.
LARGEST_NNZ = 5 * 10**7
# Maps of so many entries are written down to see whether their product is no larger.
_LARGEST_WRITTEN = 2**22
# Rows of a map may be repeated up to so many entries: 200 MB as CSR in float64.
_MOST_TAKEN = 2**24
# A product is small up to so many numbers, and up to so many products for each sample; a weight that is filled up with
# zeros up to so many.
_SMALL_PRODUCT, _SMALL_WEIGHT = 2**14, 2**16
#: Two kinds of maps, ``object`` for any, and what makes one map of two such, or None where it finds no short form.
Rule: TypeAlias = tuple[type[object], type[object], Callable[[Any, Any], LinearMap | None]]


class TooLargeError(InputError):
    """The product of two maps is too large: to be written down, or beside the two."""


def composed(outer: LinearMap, inner: LinearMap, *, no_larger: bool = False) -> LinearMap:
    """Return M N: first N = ``inner``, then M = ``outer``.

    InputError is raised where shapes do not fit or entries are not finite, TooLargeError where too many of them had to
    be written down; with ``no_larger`` also where M N takes more numbers or products than M and N, unless it is small.
    """
    if outer.shape[1] != inner.shape[0]:
        raise InputError(f"cannot compose a map of shape {outer.shape} with an inner map of shape {inner.shape}")
    known = _short_form(COMPOSITIONS, outer, inner)
    if known is not None:
        if no_larger and not isinstance(outer, GatherMap) and not isinstance(inner, GatherMap):
            limits = _bound(outer.work, inner.work), _bound(outer.stored, inner.stored)
            if known.work > limits[0] or known.stored > limits[1]:
                raise _too_large(outer, inner)
        return known
    largest = _bound(outer.stored, inner.stored) if no_larger else LARGEST_NNZ
    written = inner.work + outer.work <= (min(largest, _LARGEST_WRITTEN) if no_larger else largest)
    if written and _terms(outer, inner) <= largest:
        return CsrMap(outer.to_csr() @ inner.to_csr())
    raise _too_large(outer, inner)


def _terms(outer: LinearMap, inner: LinearMap) -> int:
    """What all entries of the last map meet in their rows of the first: the terms of the product, at least its entries.

    A weight is not written down for it, which takes several times its own memory.
    """
    met = inner.row_counts()
    if isinstance(outer, WeightedMap):
        return int(outer.pattern().apply(torch.from_numpy(met.astype(np.float64))[None]).sum())
    return int(np.bincount(outer.to_csr().indices, minlength=outer.shape[1]) @ met)


def check_composed(outer: LinearMap, inner: LinearMap) -> None:
    """Raise a TooLargeError where :func:`composed` would with ``no_larger``, if their kinds and sizes show it."""
    known = any(isinstance(outer, one) and isinstance(inner, other) for one, other, _ in COMPOSITIONS)
    if not known and inner.work + outer.work > min(_bound(outer.stored, inner.stored), _LARGEST_WRITTEN):
        raise _too_large(outer, inner)
    size, places = _size_of_product(outer, inner)
    if size > _bound(outer.stored, inner.stored) or size * places > _bound(outer.work, inner.work):
        raise _too_large(outer, inner)


def _size_of_product(outer: LinearMap, inner: LinearMap) -> tuple[int, int]:
    """How many numbers the weight of a product has, and at how many places it is used; 0 where that is not known."""
    if isinstance(outer, RepeatedMap) and isinstance(inner, RepeatedMap):
        alike = (outer.repeats, outer.inner) == (inner.repeats, inner.inner)
        free = alike and outer.right is None and inner.left is None
        return outer.weight.shape[0] * inner.weight.shape[1] * free, outer.repeats * outer.inner
    if not (isinstance(outer, ConvMap) and isinstance(inner, ConvMap)) or outer.right is not None:
        return 0, 0
    each_channel = outer.groups == inner.groups == outer.input_shape[0]
    if inner.left is not None or each_channel or not (outer.pointwise or inner.pointwise):
        return 0, 0
    taps = math.prod(inner.kernel if outer.pointwise else outer.kernel)
    return outer.weight.shape[0] * inner.input_shape[0] * taps, math.prod(outer.output_shape[1:])


def _bound(first: int, second: int) -> int:
    """How large the product of two maps of so many numbers may be where it is to be no larger than the two."""
    return max(_SMALL_PRODUCT, first + second)


def _too_large(outer: LinearMap, inner: LinearMap) -> TooLargeError:
    return TooLargeError(
        f"two linear maps of {inner.work:,} and {outer.work:,} entries follow each other without an activation between "
        "them, and their product has no short form"
    )


def added(first: LinearMap, second: LinearMap) -> LinearMap:
    """Return M + N; InputError where shapes do not fit, or entries are not finite."""
    if first.shape != second.shape:
        raise InputError(f"cannot add maps of shapes {first.shape} and {second.shape}")
    known = _short_form(ADDITIONS, first, second) or _short_form(ADDITIONS, second, first)
    if known is not None:
        return known
    parts = [*first.parts, *second.parts]
    together = [part for part in parts if part.is_written]
    apart = [part for part in parts if not part.is_written]
    if len(together) > 1:
        together = [CsrMap(reduce(lambda total, csr: total + csr, (part.to_csr() for part in together)))]
    return SumMap([*apart, *together]) if apart else together[0]


def _short_form(rules: Sequence[Rule], first: LinearMap, second: LinearMap) -> LinearMap | None:
    """What the first rule for the kinds of two maps makes of them that finds a form; None if there is none."""
    for one, other, rule in rules:
        if isinstance(first, one) and isinstance(second, other):
            found = rule(first, second)
            if found is not None:
                return found
    return None


def _scaled_rows(outer: GatherMap, inner: LinearMap) -> LinearMap | None:
    if not outer.in_order:
        return None
    return inner if outer.is_identity else inner.scaled(left=outer.factors)


def _scaled_columns(outer: LinearMap, inner: GatherMap) -> LinearMap | None:
    if not inner.in_order:
        return None
    return outer if inner.is_identity else outer.scaled(right=inner.factors)


def _gathered_twice(outer: GatherMap, inner: GatherMap) -> GatherMap:
    columns = outer.columns
    picked = np.where(columns >= 0, inner.columns[columns], -1)
    factors = _at(inner.factors, columns) * _at(outer.factors, slice(None))
    return GatherMap(picked, inner.width, np.broadcast_to(factors, picked.shape).astype(inner.dtype))


def _rows_taken(outer: GatherMap, inner: CsrMap) -> CsrMap | None:
    """The rows taken, unless full ones are repeated until they are many more entries: a mean over all tokens, say, for
    each token."""
    if not outer.moves or outer.nnz != outer.shape[0]:
        return None
    entries = int(inner.row_sizes[outer.columns].sum())
    return inner.taken(outer.columns) if entries <= max(_MOST_TAKEN, outer.nnz + inner.nnz) else None


def _gather_after(outer: GatherMap, inner: ConvMap) -> LinearMap | None:
    """The convolution of which whole channels are taken, with channels of zeros between them if they are few."""
    channels = _whole_channels(outer, inner.output_shape)
    if channels is None or inner.left is not None or inner.groups != 1:
        return None
    source, factors = channels
    if not _fits(source.size * inner.weight[0].size, inner.weight.size):
        return None
    weight = np.where(_trailing(source >= 0, inner.weight), inner.weight[source], inner.dtype.type(0))
    return inner.with_weight(_times(weight, factors, inner.dtype))


def _gather_before(outer: ConvMap, inner: GatherMap) -> LinearMap | None:
    """The convolution of images of which it took whole channels, if it left out few."""
    places = math.prod(outer.input_shape[1:])
    channels = _whole_channels(inner, outer.input_shape)
    if channels is None or outer.right is not None or outer.groups != 1:
        return None
    source, factors = channels
    width = inner.width // places
    if not _fits(width * outer.weight[:, 0].size, outer.weight.size):
        return None
    weight = np.zeros((outer.weight.shape[0], width, *outer.kernel), dtype=outer.dtype)
    for place in np.flatnonzero(source >= 0):
        weight[:, source[place]] += factors[place] * outer.weight[:, place]
    return outer.with_weight(weight, input_shape=(width, *outer.input_shape[1:]))


def _fits(size: int, known: int) -> bool:
    """Whether a weight that is filled up with zeros to a size is small, or not much larger than it was."""
    return size <= max(_SMALL_WEIGHT, 2 * known)


def _times(weight: NDArray[Any], factors: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A weight times factors, one per output channel, in its dtype."""
    return weight if (factors == 1).all() else (weight * _trailing(factors, weight)).astype(dtype)


def _gathered(after: GatherMap, core: WeightedMap, before: GatherMap) -> LinearMap:
    """P W R without the rows of W that P leaves out."""
    if core.left is None and isinstance(core, ConvMap | RepeatedMap):
        after, core, before = _narrowed(after, core, before)
    return core if after.is_identity and before.is_identity else GatheredMap(after, core, before)


def _narrowed(after: GatherMap, core: WeightedMap, before: GatherMap) -> tuple[GatherMap, WeightedMap, GatherMap]:
    """P, W and R, with those features of W only that P takes, and those positions of a repeated W."""
    repeats, features, inner = _result_axes(core)
    taken = after.columns
    kept = taken >= 0
    position, rest = np.divmod(taken[kept], features * inner)
    feature, place = np.divmod(rest, inner)
    used, feature = np.unique(feature, return_inverse=True)
    used_positions, position = np.unique(position, return_inverse=True)
    if not used.size or (len(used) == features and len(used_positions) == repeats):
        return after, core, before
    if len(used) < features:
        if isinstance(core, ConvMap) and core.groups != 1:
            return after, core, before
        core = core.with_weight(core.weight[used])
    if isinstance(core, RepeatedMap) and len(used_positions) < repeats and core.right is None:
        width = core.weight.shape[1] * inner
        columns = (used_positions[:, None] * width + np.arange(width)).ravel()
        before = _gathered_twice(GatherMap(columns, core.shape[1], dtype=before.dtype), before)
        core = RepeatedMap(core.weight, len(used_positions), inner, copy=False)
    else:
        position = used_positions[position]
    columns = np.full(taken.size, -1)
    columns[kept] = (position * len(used) + feature) * inner + place
    return GatherMap(columns, core.shape[0], after.factors, after.dtype), core, before


def _result_axes(core: WeightedMap) -> tuple[int, int, int]:
    """The axes of what a weight makes: positions, features, places."""
    if isinstance(core, RepeatedMap):
        return core.repeats, core.weight.shape[0], core.inner
    assert isinstance(core, ConvMap)
    return 1, core.output_shape[0], math.prod(core.output_shape[1:])


def _two_repeated(outer: RepeatedMap, inner: RepeatedMap) -> RepeatedMap | None:
    """I ⊗ WV ⊗ I for I ⊗ W ⊗ I after I ⊗ V ⊗ I."""
    if outer.right is not None or inner.left is not None:
        return None
    if (outer.repeats, outer.inner) != (inner.repeats, inner.inner):
        return None
    return RepeatedMap(
        outer.weight @ inner.weight, outer.repeats, outer.inner, left=outer.left, right=inner.right, copy=False
    )


def _both_repeated(first: RepeatedMap, second: RepeatedMap) -> RepeatedMap | None:
    """The sum of two weights that are repeated alike."""
    alike = (first.repeats, first.inner, first.weight.shape) == (second.repeats, second.inner, second.weight.shape)
    if not (alike and first.plain and second.plain):
        return None
    return first.with_weight(first.weight + second.weight)


def _whole_channels(gather: GatherMap, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """Of a gather that moves whole channels only, where each comes from, -1 for zeros, and its factor; else None.

    ``shape`` is that of what it gathers from (for one that follows), or of what it makes (for one that precedes);
    places of a channel are the same on both sides.
    """
    places = math.prod(shape[1:])
    if gather.shape[0] % places or gather.width % places:
        return None
    return _channels(gather, np.arange(places), places)


def _channels(gather: GatherMap, grid: NDArray[np.int64], places: int) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """As :func:`_whole_channels`, for channels of which only the places ``grid`` of ``places`` are taken."""
    columns, own = gather.columns.reshape(-1, grid.size), gather.factors
    source: NDArray[np.int64] = np.where(columns[:, :1] >= 0, (columns[:, :1] - grid[0]) // places, -1)
    factors = np.ones(columns.shape) if own is None else own.reshape(columns.shape)
    if (columns != np.where(source >= 0, source * places + grid, -1)).any() or (factors != factors[:, :1]).any():
        return None
    return source[:, 0], factors[:, 0]


def _two_convolutions(outer: ConvMap, inner: ConvMap) -> ConvMap | None:
    """One convolution for two, if either is pointwise."""
    if outer.right is not None or inner.left is not None:
        return None
    if outer.pointwise:
        if outer.groups == inner.groups == outer.input_shape[0]:
            weight = outer.weight * inner.weight if outer.weight.shape[0] == inner.weight.shape[0] else None
            return None if weight is None else inner.with_weight(weight, left=outer.left)
        first, last = inner.ungrouped(), outer.ungrouped()
        weight = np.tensordot(last.weight.reshape(last.weight.shape[:2]), first.weight, axes=1)
        return first.with_weight(weight, left=outer.left)
    if inner.pointwise:
        first, last = inner.ungrouped(), outer.ungrouped()
        across = first.weight.reshape(first.weight.shape[:2])
        weight = np.moveaxis(np.tensordot(last.weight, across, axes=(1, 0)), -1, 1)
        return last.with_weight(weight, input_shape=inner.input_shape, right=inner.right)
    return None


def _side_by_side(first: GatherMap, second: GatherMap) -> LinearMap | None:
    """The sum of two gathers as one, if no row has an entry in both."""
    ours, theirs = first.columns, second.columns
    from_first = ours >= 0
    if (from_first & (theirs >= 0)).any():
        return None
    factors = np.where(from_first, _at(first.factors, slice(None)), _at(second.factors, slice(None)))
    return GatherMap(np.where(from_first, ours, theirs), first.width, factors.astype(first.dtype))


def _merged(conv: ConvMap, other: ConvMap) -> ConvMap | None:
    """The sum as a convolution of the geometry of ``conv``, if the other's taps are among its own."""
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
    return conv.with_weight(weight)


def _frame(conv: ConvMap) -> tuple[tuple[int, ...], ...]:
    """What two convolutions share if the same place of their outputs begins at the same place of the input."""
    return conv.input_shape, conv.output_shape[1:], conv.stride


def _with_gather(conv: ConvMap, gather: GatherMap) -> ConvMap | None:
    """The sum, if the gather takes whole channels at the places that ``conv`` begins at: a 1×1 of the same stride."""
    if conv.groups != 1:
        return None
    grid = np.zeros(1, dtype=np.int64)
    for n, o, s in zip(conv.input_shape[1:], conv.output_shape[1:], conv.stride, strict=True):
        if (o - 1) * s >= n:
            return None
        grid = (grid[:, None] * n + np.arange(o) * s).ravel()
    channels = _channels(gather, grid, math.prod(conv.input_shape[1:]))
    if channels is None:
        return None
    source, factors = channels
    weight = np.zeros((conv.output_shape[0], conv.input_shape[0], *(1 for _ in conv.kernel)), dtype=conv.dtype)
    rows = np.flatnonzero(source >= 0)
    weight[rows, source[rows]] = _trailing(factors[rows], weight[0])
    pointwise = ConvMap(weight, conv.input_shape, stride=conv.stride)
    return _merged(conv, pointwise) if pointwise.output_shape == conv.output_shape else None


def _at(factors: NDArray[Any] | None, places: Any) -> Any:
    return 1.0 if factors is None else factors[places]


def _trailing(values: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Values, one per output channel, in a shape that broadcasts along a weight."""
    return values.reshape(-1, *(1,) * (weight.ndim - 1))


#: Short forms of M N by the kinds of M and N; the first that finds one counts.
COMPOSITIONS: list[Rule] = [
    (GatherMap, object, _scaled_rows),
    (object, GatherMap, _scaled_columns),
    (object, SumMap, lambda outer, inner: reduce(added, [composed(outer, part) for part in inner.parts])),
    (SumMap, object, lambda outer, inner: reduce(added, [composed(part, inner) for part in outer.parts])),
    (GatherMap, GatherMap, _gathered_twice),
    (GatherMap, CsrMap, _rows_taken),
    (GatherMap, GatheredMap, lambda P, m: _gathered(_gathered_twice(P, m.after), m.core, m.before)),
    (GatherMap, ConvMap, _gather_after),
    (GatherMap, WeightedMap, lambda P, W: _gathered(P, W, GatherMap.identity(W.shape[1], W.dtype))),
    (GatheredMap, GatherMap, lambda m, R: _gathered(m.after, m.core, _gathered_twice(m.before, R))),
    (ConvMap, GatherMap, _gather_before),
    (WeightedMap, GatherMap, lambda W, R: _gathered(GatherMap.identity(W.shape[0], W.dtype), W, R)),
    (ConvMap, ConvMap, _two_convolutions),
    (RepeatedMap, RepeatedMap, _two_repeated),
]

#: Short forms of M + N by the kinds of M and N, in either order; the first that finds one counts.
ADDITIONS: list[Rule] = [
    (GatherMap, GatherMap, _side_by_side),
    (ConvMap, ConvMap, _merged),
    (ConvMap, GatherMap, _with_gather),
    (RepeatedMap, RepeatedMap, _both_repeated),
]
