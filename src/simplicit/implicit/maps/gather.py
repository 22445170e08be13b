"""Maps with at most one entry in a row: identities, diagonals, slices, permutations, padding with zeros."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit.maps.base import LinearMap, as_factors, rounded
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.sparse import Csr, float_for


class GatherMap(LinearMap, kind="gather"):
    """The map yᵢ = fᵢ x[cᵢ], or 0 where cᵢ = -1. It has no values to train: it is a network's wiring.

    Parameters
    ----------
    columns : integer array, shape (out,)
        c, from -1 to width - 1.
    width : int
        The length of x.
    factors : array, shape (out,), optional
        f, finite; ones if None. It is copied; a zero makes its row empty.
    dtype : float32 or float64
        The dtype of the entries; that of ``factors`` wins.
    """

    is_written = True

    def __init__(
        self, columns: ArrayLike, width: int, factors: NDArray[Any] | None = None, dtype: Any = np.float64
    ) -> None:
        given = np.asarray(columns)
        if given.dtype.kind not in "iu":
            raise InputError(f"columns must be integers, got dtype {given.dtype}", argument="columns")
        self.columns: NDArray[np.int64] = np.array(given, dtype=np.int64)
        if self.columns.ndim != 1 or ((self.columns < -1) | (self.columns >= width)).any():
            raise InputError(f"columns must be one-dimensional, each from -1 to {width - 1}", argument="columns")
        self.width, self.shape, self.dtype = width, (self.columns.size, width), np.dtype(dtype)
        self.factors: NDArray[Any] | None = None
        if factors is not None:
            taken = as_array("factors", factors)
            self._take_factors(taken.astype(float_for(taken.dtype), copy=False))

    def _take_factors(self, factors: NDArray[Any]) -> None:
        if factors.shape != self.columns.shape:
            shape = self.columns.shape
            raise InputError(f"factors must have shape {shape}, got {factors.shape}", argument="factors")
        if not np.isfinite(factors[self.columns >= 0]).all():
            raise InputError("factors must be finite", argument="factors")
        self.dtype = factors.dtype
        self.columns[factors == 0] = -1
        factors = np.where(self.columns >= 0, factors, factors.dtype.type(1))
        if (factors != 1).any():
            self.factors = factors

    @classmethod
    def identity(cls, size: int, dtype: Any = np.float64) -> GatherMap:
        """The identity on ``size`` numbers."""
        return cls(np.arange(size), size, dtype=dtype)

    def row_counts(self) -> NDArray[np.int64]:
        return (self.columns >= 0).astype(np.int64)

    @cached_property
    def in_order(self) -> bool:
        """Whether it is diagonal: yᵢ = fᵢ xᵢ."""
        return self.columns.size == self.width and bool((self.columns == np.arange(self.width)).all())

    @cached_property
    def is_identity(self) -> bool:
        """Whether it is the identity."""
        return self.in_order and self.factors is None

    @cached_property
    def injective(self) -> bool:
        """Whether no element of x is used twice."""
        return len(np.unique(self.columns[self.columns >= 0])) == self.nnz

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows that are not empty, their columns, and their factors, None for ones."""
        rows = np.flatnonzero(self.columns >= 0)
        factors = None if self.factors is None else torch.from_numpy(self.factors[rows])
        return torch.from_numpy(rows), torch.from_numpy(self.columns[rows]), factors

    def _gathered(self, x: Tensor, places: Tensor) -> Tensor:
        """Columns of x times the factors of the rows that are not empty, as a new tensor."""
        factors = self._tensors[2]
        if self.in_order:
            return x.clone() if factors is None else x * factors.to(x.dtype)
        gathered = x[:, places]
        return gathered if factors is None else gathered.mul_(factors)

    def apply(self, x: Tensor) -> Tensor:
        rows, columns, _ = self._tensors
        picked = self._gathered(x, columns)
        if self.nnz == self.columns.size:
            return picked
        return x.new_zeros(x.shape[0], self.columns.size).index_copy_(1, rows, picked)

    def apply_transpose(self, y: Tensor) -> Tensor:
        rows, columns, _ = self._tensors
        taken = self._gathered(y, rows)
        return taken if self.in_order else y.new_zeros(y.shape[0], self.width).index_add_(1, columns, taken)

    def absolute(self) -> GatherMap:
        return self if self.factors is None else GatherMap(self.columns, self.width, np.abs(self.factors))

    def pattern(self) -> GatherMap:
        """The map with ones in float64 where M is not zero."""
        return GatherMap(self.columns, self.width)

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatherMap:
        factors = np.ones(self.columns.size) if self.factors is None else self.factors.astype(np.float64)
        with np.errstate(over="ignore"):  # refused as infinite
            if left is not None:
                factors = factors * as_factors(left, self.shape[0], "left")
            if right is not None:
                factors = factors * as_factors(right, self.width, "right")[self.columns]
            return GatherMap(self.columns, self.width, factors.astype(self.dtype))

    def astype(self, dtype: Any) -> GatherMap:
        if self.dtype == np.dtype(dtype):
            return self
        factors = None if self.factors is None else rounded(self.factors, dtype)
        return GatherMap(self.columns, self.width, factors, dtype)

    def to_csr(self) -> Csr:
        kept = self.columns >= 0
        values = np.ones(self.nnz, self.dtype) if self.factors is None else self.factors[kept]
        indptr = np.concatenate([[0], np.cumsum(kept)])
        return sp.csr_array((values, self.columns[kept], indptr), shape=self.shape)

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(np.empty(0, self.dtype))

    def with_values(self, values: Tensor) -> GatherMap:
        return self

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        return X.new_empty(0)

    def to_stored(self) -> tuple[Entry, Arrays]:
        arrays = {"columns": (self.columns + 1).astype(np.min_scalar_type(self.width))}
        factors = {} if self.factors is None else {"factors": self.factors}
        return {"kind": "gather", "factors": bool(factors)}, arrays | factors

    @classmethod
    def from_stored(cls, stored: Stored) -> GatherMap:
        rows, width = stored.shape
        columns = stored.integers("columns", rows) - 1
        factors = stored.floats("factors", rows) if stored.entry["factors"] else None
        return cls(columns, width, factors, stored.dtype)
