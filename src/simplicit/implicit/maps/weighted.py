r"""Maps that share a weight over many places, with factors for single rows and columns.

Such a map is M = diag(l) W̃ diag(r), where W̃ repeats the entries of a weight W in a way of its own. The factors l and r,
one per row and column, are what rescaling makes of it (Theorem 2.4: S A S⁻¹ repeats nothing any more). Factors that are
equal over all places go into W. Its values are the entries of W that are not zero, each for all its places.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit.maps.base import LinearMap, Product, as_factors, rounded
from simplicit.implicit.maps.files import Arrays, Entry, Stored, csr_arrays
from simplicit.implicit.maps.sparse import Csr, float_for

#: Numbers in one weight that a file may ask for: 16 GB in float64.
LARGEST_WEIGHT = 2**31


class WeightedMap(LinearMap):
    """A map diag(l) W̃ diag(r); a subclass says what W̃ is by :meth:`_multiplied`, and how W takes factors.

    ``weight`` is W, ``left`` and ``right`` are l and r, (out,) and (in,) in float64, or None for ones. Every subclass
    takes all three; a weight is float32 for itself and float16, float64 for other real numbers, and is copied unless
    ``copy`` is False: then nobody may change it. InputError is raised where shapes do not fit or entries are not
    finite.
    """

    weight: NDArray[Any]
    left: NDArray[np.float64] | None
    right: NDArray[np.float64] | None
    #: What W̃ is called in errors.
    _what: str

    def _take_weight(self, weight: ArrayLike, *, copy: bool) -> None:
        given = as_array("weight", weight)
        taken = np.array if copy else np.asarray
        self.weight = taken(given, dtype=float_for(given.dtype), order="C")
        self.dtype = self.weight.dtype

    def _take_factors(self, left: NDArray[Any] | None, right: NDArray[Any] | None) -> None:
        self.left = None if left is None else self._folded(left, "left")
        self.right = None if right is None else self._folded(right, "right")
        parts = [part for part in (self.weight, self.left, self.right) if part is not None]
        with np.errstate(over="ignore", invalid="ignore"):
            sizes = [float(max(part.max(initial=0.0), -part.min(initial=0.0))) for part in parts]
        if not max(*sizes, float(np.prod(sizes))) <= float(np.finfo(self.dtype).max):
            raise InputError(f"the entries of {self._what} must be finite in {self.dtype}")

    @abstractmethod
    def _folded(self, factors: NDArray[Any], side: str) -> NDArray[np.float64] | None:
        """Factors, one per element; None if they are equal over all places, and now part of the weight."""

    @abstractmethod
    def with_weight(self, weight: NDArray[Any], **changes: Any) -> Self:
        """The same geometry with another weight, which is not copied; other parameters of the class change it too."""

    @abstractmethod
    def _multiplied(self, x: Tensor, weight: Tensor) -> Tensor:
        """X W̃ᵀ with a weight of the same shape, as a new tensor."""

    @abstractmethod
    def _multiplied_back(self, y: Tensor, weight: Tensor) -> Tensor:
        """Y W̃, as a new tensor."""

    @property
    def plain(self) -> bool:
        """Whether it is W̃ alone, without factors on single elements."""
        return self.left is None and self.right is None

    @property
    def stored(self) -> int:
        return sum(part.size for part in (self.weight, self.left, self.right) if part is not None)

    @property
    def is_zero(self) -> bool:
        return not self.weight.any() or (not self.plain and self.nnz == 0)

    def row_counts(self) -> NDArray[np.int64]:
        return self.pattern().row_sums().astype(np.int64)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """W, l and r in the dtype of the map."""
        left, right = (None if f is None else torch.from_numpy(f.astype(self.dtype)) for f in (self.left, self.right))
        return torch.from_numpy(self.weight), left, right

    def apply(self, x: Tensor) -> Tensor:
        return self._with_factors(x, self._tensors[0])

    def _with_factors(self, x: Tensor, weight: Tensor) -> Tensor:
        """X Mᵀ with a weight of the same shape."""
        _, left, right = self._tensors
        y = self._multiplied(x if right is None else x * right.to(x.dtype), weight)
        return y if left is None else y.mul_(left)

    def apply_transpose(self, y: Tensor) -> Tensor:
        weight, left, right = self._tensors
        x = self._multiplied_back(y if left is None else y * left, weight)
        return x if right is None else x.mul_(right)

    def absolute(self) -> Self:
        return self._entrywise(np.abs)

    def pattern(self) -> Self:
        """The map with ones in float64 where M is not zero."""
        return self._entrywise(lambda numbers: (numbers != 0).astype(np.float64))

    def _entrywise(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Self:
        left, right = (None if factors is None else function(factors) for factors in (self.left, self.right))
        return self.with_weight(function(self.weight), left=left, right=right)

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> Self:
        with np.errstate(over="ignore"):  # refused as infinite
            both = _times(self.left, left, self.shape[0]), _times(self.right, right, self.shape[1])
            return self.with_weight(self.weight, left=both[0], right=both[1])

    def astype(self, dtype: Any) -> Self:
        return self if self.dtype == np.dtype(dtype) else self.with_weight(rounded(self.weight, dtype))

    def _times_factors(self, matrix: Csr) -> Csr:
        """The canonical matrix of M from that of W̃, which is overwritten."""
        if self.left is not None:
            matrix.data *= np.repeat(self.left, np.diff(matrix.indptr)).astype(self.dtype)
        if self.right is not None:
            matrix.data *= self.right[matrix.indices].astype(self.dtype)
        matrix.eliminate_zeros()
        return matrix

    @cached_property
    def _kept(self) -> Tensor:
        """Where the weight is not zero."""
        return torch.from_numpy(self.weight != 0)

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(self.weight)[self._kept]

    def _weight_of(self, values: Tensor) -> Tensor:
        return values.new_zeros(self._kept.shape).masked_scatter(self._kept, values)

    def with_values(self, values: Tensor) -> Self:
        return self.with_weight(self._weight_of(values.detach()).numpy())

    def product(self, values: Tensor | None = None) -> Product:
        weight = self._tensors[0] if values is None else self._weight_of(values)
        return lambda x: self._with_factors(x, weight)

    def _scale_weight_(self, factors: NDArray[Any]) -> None:
        """Multiply W by factors that are broadcast to it; what becomes infinite is refused later."""
        with np.errstate(over="ignore"):
            self.weight = (self.weight * factors).astype(self.weight.dtype, copy=False)

    def _stored_as(self, kind: str, **geometry: Any) -> tuple[Entry, Arrays]:
        """The entry and the arrays of a file, for a kind of map and what it has beside a weight and factors."""
        factors, matrix = self._stored_factors(), sp.csr_array(self.weight.reshape(len(self.weight), -1))
        entry = {"kind": kind, "weight_shape": list(self.weight.shape), **geometry, "factors": list(factors)}
        return entry, csr_arrays(matrix) | factors

    def _stored_factors(self) -> dict[str, NDArray[np.float64]]:
        """The factors that there are, by the names of their arrays."""
        return {side: values for side in ("left", "right") if (values := getattr(self, side)) is not None}

    def _with_stored_factors(self, stored: Stored) -> Self:
        """The map with the factors that its file has."""
        sizes, wide = dict(zip(("left", "right"), self.shape, strict=True)), np.dtype(np.float64)
        factors = {side: stored.floats(side, sizes[side], wide) for side in stored.entry["factors"]}
        return self.with_weight(self.weight, **factors) if factors else self


def _times(own: NDArray[np.float64] | None, more: NDArray[Any] | None, size: int) -> NDArray[np.float64] | None:
    if more is None:
        return own
    factors = as_factors(more, size, "factors")
    return factors if own is None else own * factors
