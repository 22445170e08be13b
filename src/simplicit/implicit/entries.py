r"""The entries of a linear map as numbers that can be trained.

:data:`ENTRIES` has one entry per kind of map: how its free numbers are read, how a map is made of others, and what the
gradient by them is. A kind that is missing stays as it is; a new kind (a convolution, say) is one class and one line.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.convolution import ConvMap
from simplicit.implicit.maps import CsrMap, LinearMap

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
        """The geometry and where the weights stand."""
        return b"conv" + repr(self._block).encode() + self._places.numpy().tobytes()

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


#: Kind of map to what its entries are.
ENTRIES: dict[type[Any], type[Any]] = {CsrMap: CsrEntries, ConvMap: ConvEntries}


def entries_of(block: LinearMap, key: tuple[str, str], *, needed: bool) -> Entries | None:
    """The entries of a block; None where its kind has none.

    Raises
    ------
    InputError
        Its kind has none and they are ``needed``.
    """
    kind = ENTRIES.get(type(block))
    if kind is not None:
        entries: Entries = kind(block)
        return entries
    if needed:
        known = ", ".join(one.__name__ for one in ENTRIES)
        raise InputError(
            f"trainable: block {key} is a {type(block).__name__}, whose entries cannot be trained (those of {known} "
            "can); leave trainable out, or train the network that the model came from"
        )
    return None
