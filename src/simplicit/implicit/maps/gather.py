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
from simplicit.implicit.maps.slices import Slice, slices
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

    @property
    def moves(self) -> bool:
        """Whether it has no factors, so that it computes nothing."""
        return self.factors is None

    @cached_property
    def injective(self) -> bool:
        """Whether no element of x is used twice."""
        return len(np.unique(self.columns[self.columns >= 0])) == self.nnz

    @property
    def work(self) -> int:
        return 0

    @property
    def stored(self) -> int:
        return self.columns.size * (1 if self.factors is None else 2)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows that are not empty, their columns, and their factors, None for ones."""
        rows = np.flatnonzero(self.columns >= 0)
        factors = None if self.factors is None else torch.from_numpy(self.factors[rows])
        return torch.from_numpy(rows), torch.from_numpy(self.columns[rows]), factors

    @cached_property
    def _slices(self) -> tuple[Slice, ...]:
        """The rows that are not empty and their columns as slices of arrays; none where these are too many."""
        rows = np.flatnonzero(self.columns >= 0)
        return slices(rows, self.columns[rows])

    @property
    def is_sliced(self) -> bool:
        """Whether it takes slices of an array to slices of another, which is faster than element by element."""
        return bool(self._slices)

    @cached_property
    def _multipliers(self) -> Tensor | float | None:
        """The factors of all rows, (1, out); one number where they are equal, None for ones."""
        if self.factors is None:
            return None
        kept = self.factors[self.columns >= 0]
        return float(kept[0]) if (kept == kept[0]).all() else torch.from_numpy(self.factors)[None]

    def _gathered(self, x: Tensor, places: Tensor) -> Tensor:
        """Columns of x times the factors of the rows that are not empty, as a new tensor."""
        factors = self._tensors[2]
        gathered = x.index_select(1, places)
        return gathered if factors is None else gathered.mul_(factors)

    def apply(self, x: Tensor) -> Tensor:
        if self.in_order:
            return x.clone() if self.factors is None else x * torch.from_numpy(self.factors).to(x.dtype)
        if self._slices and self.nnz == self.columns.size and self.moves:
            made = x.new_empty(x.shape[0], self.columns.size)
            for part in self._slices:
                part.rows_of(made).copy_(part.columns_of(x))
            return made
        made = x.new_zeros(x.shape[0], self.columns.size)
        self.add_to_(made, x)
        return made

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        if not self._slices:
            rows, columns, _ = self._tensors
            sums.index_add_(1, rows, self._gathered(x, columns))
        for part in self._slices:
            into, taken, factors = part.rows_of(sums), part.columns_of(x), self._multipliers
            if isinstance(factors, Tensor):
                into.addcmul_(taken, part.rows_of(factors.to(x.dtype)))
            else:
                into.add_(taken, alpha=1 if factors is None else factors)

    def write_(self, sums: Tensor, x: Tensor, bias: Tensor) -> None:
        """Write X Mᵀ + bias into the rows of ``sums`` that are not empty, where they are slices."""
        for part in self._slices:
            into, taken, factors = part.rows_of(sums), part.columns_of(x), self._multipliers
            offset = part.rows_of(bias[None])
            if isinstance(factors, Tensor):
                torch.addcmul(offset, taken, part.rows_of(factors.to(x.dtype)), out=into)
            else:
                torch.add(offset, taken, alpha=1 if factors is None else factors, out=into)

    def apply_transpose(self, y: Tensor) -> Tensor:
        if self.in_order:
            return self.apply(y)
        made = y.new_zeros(y.shape[0], self.width)
        if not self._slices or not self.injective:
            rows, columns, _ = self._tensors
            return made.index_add_(1, columns, self._gathered(y, rows))
        for part in self._slices:
            taken, factors = part.rows_of(y), self._multipliers
            if factors is not None:
                taken = taken * (part.rows_of(factors.to(y.dtype)) if isinstance(factors, Tensor) else factors)
            part.columns_of(made).copy_(taken)
        return made

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
