r"""The entries of a linear map as numbers that can be trained.

:data:`ENTRIES` has one entry per kind of map: how its free numbers are read, how a map is made of others, and what the
gradient by them is. Gathers are not trained: they are identities, slices and padding, the network's wiring. A new kind
is one class and one line.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.maps.base import CsrMap, LinearMap
from simplicit.implicit.maps.composite import GatheredConvMap, SumMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap

__all__ = ["ENTRIES", "Entries", "entries_of"]

# Gathered products are formed for so many numbers at a time.
_GATHERED_NUMBERS = 2**22
# From so many non-zeros on, relative to the size, a dense product Ȳᵀ X is cheaper than gathering; unless it is large.
_DENSE_ABOVE, _LARGEST_DENSE = 0.02, 2**24


class Entries(Protocol):
    """The free numbers of one map M, (k,), in an order of their own."""

    @property
    def values(self) -> Tensor:
        """(k,), a copy, in the map's dtype."""
        ...

    @property
    def pattern(self) -> bytes:
        """What tells where the numbers stand."""
        ...

    def rebuilt(self, values: Tensor) -> LinearMap:
        """The map with other numbers, in their dtype."""
        ...

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """By the numbers, (k,): of Σ Ȳ ∘ (X Mᵀ), for Ȳ (m, out) and X (m, in)."""
        ...


class CsrEntries:
    """The non-zeros of a :class:`CsrMap`, row by row; their places are fixed."""

    def __init__(self, block: CsrMap) -> None:
        self._matrix = block.to_csr()
        rows = np.repeat(np.arange(block.shape[0]), np.diff(self._matrix.indptr))
        self._rows, self._columns = torch.from_numpy(rows), torch.from_numpy(self._matrix.indices.astype(np.int64))

    @property
    def values(self) -> Tensor:
        """(nnz,), a copy."""
        return torch.from_numpy(self._matrix.data.copy())

    @property
    def pattern(self) -> bytes:
        """Shape, row pointers and column indices."""
        places = (np.array(self._matrix.shape), self._matrix.indptr, self._matrix.indices)
        return b"csr" + b"".join(np.ascontiguousarray(array, dtype="<i8").tobytes() for array in places)

    def rebuilt(self, values: Tensor) -> CsrMap:
        """The map with other values at the same places."""
        parts = (values.detach().numpy(), self._matrix.indices, self._matrix.indptr)
        return CsrMap(sp.csr_array(parts, shape=self._matrix.shape))

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """Σ over samples of ȳᵢ xⱼ at the places (i, j) of the values."""
        size = self._matrix.shape[0] * self._matrix.shape[1]
        if size <= _LARGEST_DENSE and len(self._rows) > _DENSE_ABOVE * size:
            return (Y_bar.T @ X)[self._rows, self._columns]
        step = max(1, _GATHERED_NUMBERS // max(1, len(X)))
        pieces = [slice(start, start + step) for start in range(0, len(self._rows), step)]
        sums = [(Y_bar[:, self._rows[piece]] * X[:, self._columns[piece]]).sum(dim=0) for piece in pieces]
        return torch.cat(sums)


class ConvEntries:
    """The weights of a :class:`ConvMap` that are not zero, each for all its places; factors stay as they are."""

    def __init__(self, block: ConvMap) -> None:
        self._block = block
        self._places = torch.from_numpy(block.weight != 0)

    @property
    def values(self) -> Tensor:
        """(number of weights,), a copy."""
        return torch.from_numpy(self._block.weight)[self._places]

    @property
    def pattern(self) -> bytes:
        """The geometry, where the weights stand, and the factors."""
        block = self._block
        geometry = (block.weight.shape, block.input_shape, block.stride, block.padding, block.dilation, block.groups)
        factors = [b"-" if part is None else part.tobytes() for part in (block.left, block.right)]
        return b"conv" + repr(geometry).encode() + self._places.numpy().tobytes() + b"".join(factors)

    def rebuilt(self, values: Tensor) -> ConvMap:
        """The convolution with other weights at the same places."""
        weight = torch.zeros(self._places.shape, dtype=values.dtype)
        weight[self._places] = values.detach()
        return self._block.with_(weight.numpy())

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """By the weights, summed over samples and places."""
        weight = torch.from_numpy(self._block.weight).to(X.dtype).requires_grad_()
        with torch.enable_grad():
            y = self._block.product(X.detach(), weight)
            (gradient,) = torch.autograd.grad((Y_bar * y).sum(), weight)
        return gradient[self._places]


class GatheredConvEntries:
    """The weights of the convolution in a :class:`GatheredConvMap`; its gathers stay as they are."""

    def __init__(self, block: GatheredConvMap) -> None:
        self._block, self._core = block, ConvEntries(block.core)

    @property
    def values(self) -> Tensor:
        """(number of weights,), a copy."""
        return self._core.values

    @property
    def pattern(self) -> bytes:
        """Those of the convolution, and where the gathers lead."""
        gathers = (self._block.before, self._block.after)
        factors = [np.ones(0) if one.factors is None else one.factors for one in gathers]
        arrays = [*(one.columns for one in gathers), *factors]
        return b"gathered" + self._core.pattern + b"".join(array.tobytes() for array in arrays)

    def rebuilt(self, values: Tensor) -> GatheredConvMap:
        """The same gathers around a convolution with other weights."""
        core = self._core.rebuilt(values)
        before, after = (one.astype(core.dtype) for one in (self._block.before, self._block.after))
        return GatheredConvMap(after, core, before)

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """By the weights, summed over samples and places."""
        return self._core.gradient(self._block.after.apply_transpose(Y_bar), self._block.before.apply(X))


class SumEntries:
    """The entries of the parts of a :class:`SumMap`, part by part."""

    def __init__(self, block: SumMap) -> None:
        self._parts = block.parts
        self._entries = [None if isinstance(part, GatherMap) else ENTRIES[type(part)](part) for part in block.parts]

    @property
    def values(self) -> Tensor:
        """Of all parts, one after the other."""
        return torch.cat([entries.values for entries in self._entries if entries is not None])

    @property
    def pattern(self) -> bytes:
        """Of all parts."""
        fixed = [part.columns.tobytes() for part in self._parts if isinstance(part, GatherMap)]
        return b"sum" + b"".join([*(entries.pattern for entries in self._entries if entries is not None), *fixed])

    def rebuilt(self, values: Tensor) -> SumMap:
        """The sum of the parts with other values."""
        sizes = [0 if entries is None else len(entries.values) for entries in self._entries]
        given = zip(self._parts, self._entries, torch.split(values, sizes), strict=True)
        parts = [part if entries is None else entries.rebuilt(own) for part, entries, own in given]
        dtype = np.dtype(str(values.dtype).removeprefix("torch."))
        return SumMap([part.astype(dtype) for part in parts])

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        """Of all parts, one after the other."""
        return torch.cat([entries.gradient(Y_bar, X) for entries in self._entries if entries is not None])


#: Kind of map to what its entries are.
ENTRIES: dict[type[Any], type[Any]] = {
    CsrMap: CsrEntries,
    ConvMap: ConvEntries,
    GatheredConvMap: GatheredConvEntries,
    SumMap: SumEntries,
}


def entries_of(block: LinearMap, key: tuple[str, str], *, needed: bool) -> Entries | None:
    """The entries of a block; None for a gather, and for a kind that has none.

    Raises
    ------
    InputError
        Its kind has none and they are ``needed``.
    """
    kind = ENTRIES.get(type(block))
    if kind is not None:
        entries: Entries = kind(block)
        return entries
    if needed and not isinstance(block, GatherMap):
        known = ", ".join(one.__name__ for one in ENTRIES)
        raise InputError(
            f"trainable: block {key} is a {type(block).__name__}, whose entries cannot be trained (those of {known} "
            "can); leave trainable out, or train the network that the model came from"
        )
    return None
