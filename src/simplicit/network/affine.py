r"""Affine values: what a tensor inside a network is, as seen from the input and the states.

Between two activations every tensor v of a network is an affine function of the input u and of the states x_g (one
group g per activation):

    v = Σ_s M_s s + c,   s ranging over u and the x_g,

with constant maps M_s and a constant vector c. A linear operation of torch takes affine values to affine values; an
activation reads off one row of blocks of (A, B) and its bias, and starts a new source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit import CsrMap, GatheredMap, GatherMap, LinearMap, added, composed
from simplicit.implicit.maps import check_composed
from simplicit.implicit.maps.weighted import WeightedMap
from simplicit.network.layouts import Layout
from simplicit.network.repeated import once

Shape = tuple[int, ...]
Vector = NDArray[np.float64]
Indices = NDArray[np.int64]

# A constant so many times larger than the sum that it is a part of takes two of float32's seven digits from it.
_CANCELLING = 100.0


class NotAffineError(Exception):
    """An operation does not take affine values to affine values; the message is the reason, for the user to read."""


class MixingError(NotAffineError):
    """An operation takes samples together, or is random: no block can stand for it either."""


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine value Σ_s M_s s + c, for one sample, whose ``shape`` is without torch's batch dimension.

    ``terms`` maps the name of a source s to M_s, (size, size of s); ``constant`` is c, (size,), flattened in C order
    like the rows of the maps. What is computed is float64, whatever the network's dtype: it is rounded to that when it
    is read off. A map that is a weight of the network, or moved elements of one, is still in the weight's dtype.
    ``layout`` says where samples are in torch's tensor, if not first; ``shape`` is canonical then. Operations here make
    values with samples first, and leave it to :meth:`laid_out` to say otherwise.
    """

    shape: Shape
    terms: Mapping[str, LinearMap]
    constant: Vector
    layout: Layout | None = None

    @classmethod
    def source(cls, name: str, shape: Shape) -> Affine:
        """The input or a group of states itself: one identity map."""
        size = math.prod(shape)
        return cls(shape, {name: GatherMap.identity(size)}, np.zeros(size))

    @property
    def size(self) -> int:
        """How many numbers it has for each sample."""
        return math.prod(self.shape)

    def laid_out(self, layout: Layout | None) -> Affine:
        """The same value, with its samples elsewhere in torch's tensor."""
        return self if layout == self.layout else replace(self, layout=layout)

    def renamed(self) -> Affine:
        """A source of the same shape and layout in its place."""
        return Affine.source("states of its own", self.shape).laid_out(self.layout)

    @property
    def is_constant(self) -> bool:
        """Whether no source has a part in it."""
        return not self.terms

    @property
    def cancels(self) -> bool:
        """Whether its parts cancel where its sources are one, as in -1e4 + 1e4 x of a mask x of zeros and ones."""
        if self.is_constant or not (np.abs(self.constant) > _CANCELLING).any():
            return False
        ones = (
            block.astype(np.float64).apply(torch.ones(1, block.shape[1], dtype=torch.float64))[0]
            for block in self.terms.values()
        )
        at_ones = self.constant + sum(part.numpy() for part in ones)
        return bool((np.abs(self.constant) > _CANCELLING * (1.0 + np.abs(at_ones))).any())

    def through(self, linear: LinearMap, shape: Shape) -> Affine:
        """M v, the value after the linear map M, whose results have ``shape``.

        TooLargeError is raised where the product of two maps would take more room or time than the two.
        """
        terms = {source: _product(linear, block) for source, block in self.terms.items()}
        if not self.constant.any():
            return Affine(shape, terms, np.zeros(linear.shape[0]))
        if isinstance(linear, GatherMap) and linear.moves:
            columns = linear.columns
            return Affine(shape, terms, np.where(columns >= 0, self.constant[columns], 0.0))
        constant = torch.from_numpy(self.constant)[None]
        return Affine(shape, terms, linear.astype(np.float64).apply(constant)[0].numpy())

    def selected(self, columns: Indices, shape: Shape) -> Affine:
        """The elements v_j with j in ``columns``, in that order; -1 stands for a zero."""
        if np.array_equal(columns, np.arange(self.size)):
            return Affine(shape, self.terms, self.constant)
        return self.through(GatherMap(columns, self.size), shape)

    def broadcast(self, shape: Shape) -> Affine:
        """The elements repeated by torch's broadcasting rule up to ``shape``, of as many dimensions."""
        columns = np.broadcast_to(np.arange(self.size).reshape(self.shape), shape)
        return self.selected(columns.ravel(), shape)

    def scaled(self, factors: Vector) -> Affine:
        """diag(factors) v."""
        if (factors == 1).all():
            return Affine(self.shape, self.terms, self.constant)
        terms = {source: block.astype(np.float64).scaled(left=factors) for source, block in self.terms.items()}
        return Affine(self.shape, terms, factors * self.constant)

    def plus(self, other: Affine) -> Affine:
        """v + w for a value w of the same shape."""
        terms = dict(self.terms)
        for source, block in other.terms.items():
            terms[source] = _sum(terms[source], block) if source in terms else block
        return Affine(self.shape, terms, self.constant + other.constant)

    @property
    def work(self) -> int:
        """How many products of numbers its maps take for one sample."""
        return sum(block.work for block in self.terms.values())


def _product(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """M N, in float64 unless one of them moves elements only."""
    moving = [isinstance(one, GatherMap) and one.moves for one in (outer, inner)]
    if moving[0] and isinstance(inner, GatheredMap | WeightedMap):
        return composed(outer.astype(inner.dtype), inner, no_larger=True)
    if moving[1] and isinstance(outer, WeightedMap):
        if isinstance(inner, GatherMap) and inner.is_identity:
            return outer
        return composed(outer, inner.astype(outer.dtype), no_larger=True)
    check_composed(outer, inner)
    if isinstance(outer, CsrMap | GatherMap) and isinstance(inner, CsrMap | GatherMap):
        return once(_wide_product, outer, inner)
    return _wide_product(outer, inner)


def _wide_product(outer: LinearMap, inner: LinearMap) -> LinearMap:
    return composed(outer.astype(np.float64), inner.astype(np.float64), no_larger=True)


def _sum(first: LinearMap, second: LinearMap) -> LinearMap:
    """M + N, in float64."""
    return added(first.astype(np.float64), second.astype(np.float64))


def joined(values: Sequence[Affine]) -> Affine:
    """Values one after the other, flattened."""
    if len(values) == 1:
        return values[0]
    size, first, whole = sum(value.size for value in values), 0, None
    for value in values:
        part = value.through(_placed(value.size, first, size), (size,))
        whole = part if whole is None else whole.plus(part)
        first += value.size
    assert whole is not None
    return whole


@lru_cache(maxsize=32)
def _placed(count: int, first: int, size: int) -> GatherMap:
    """So many numbers from a place on among ``size``, the others 0."""
    columns = np.full(size, -1)
    columns[first : first + count] = np.arange(count)
    return GatherMap(columns, count)


def as_vector(tensor: Tensor, what: str = "a constant of the network") -> Vector:
    """The elements of a constant tensor in C order, as float64; NotAffineError unless all are finite."""
    vector: Vector = tensor.detach().to(torch.float64).reshape(-1).numpy()
    if not np.isfinite(vector).all():
        raise NotAffineError(f"{what} is not finite")
    return vector
