"""Maps with at most one entry in a row: identities, diagonals, slices, permutations, padding with zeros."""

from __future__ import annotations

from copy import copy
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

    # A part of a concatenation fills few of its rows: columns and factors are kept from the first to the last of those.
    _first: int
    _columns: NDArray[Any]
    _factors: NDArray[Any] | None

    def __init__(
        self, columns: ArrayLike, width: int, factors: NDArray[Any] | None = None, dtype: Any = np.float64
    ) -> None:
        given = np.asarray(columns)
        if given.dtype.kind not in "iu":
            raise InputError(f"columns must be integers, got dtype {given.dtype}", argument="columns")
        if given.ndim != 1 or ((given < -1) | (given >= width)).any():
            raise InputError(f"columns must be one-dimensional, each from -1 to {width - 1}", argument="columns")
        self.width, self.shape, self.dtype = width, (given.size, width), np.dtype(dtype)
        filled = given >= 0
        if factors is not None:
            taken = as_array("factors", factors)
            factors = taken.astype(float_for(taken.dtype), copy=False)
            self.dtype = factors.dtype
            filled &= self._checked(factors, filled) != 0
        rows = slice(int(filled.argmax()), filled.size - int(filled[::-1].argmax())) if filled.any() else slice(0, 0)
        own = np.where(filled[rows], given[rows], -1)
        self._first, self._columns = rows.start, own.astype(np.int32 if width < 2**31 else np.int64)
        self._factors = None
        if factors is not None:
            kept = np.where(filled[rows], factors[rows], factors.dtype.type(1))
            self._factors = kept if (kept != 1).any() else None

    def _checked(self, factors: NDArray[Any], filled: NDArray[np.bool_]) -> NDArray[Any]:
        if factors.shape != filled.shape:
            raise InputError(f"factors must have shape {filled.shape}, got {factors.shape}", argument="factors")
        if not np.isfinite(factors[filled]).all():
            raise InputError("factors must be finite", argument="factors")
        return factors

    @property
    def columns(self) -> NDArray[np.int64]:
        """c, (out,), as a new array."""
        columns = np.full(self.shape[0], -1)
        columns[self._first : self._first + self._columns.size] = self._columns
        return columns

    @property
    def factors(self) -> NDArray[Any] | None:
        """f, (out,), as a new array, with ones in empty rows; None where all are ones."""
        if self._factors is None:
            return None
        factors = np.ones(self.shape[0], self.dtype)
        factors[self._first : self._first + self._factors.size] = self._factors
        return factors

    @classmethod
    def identity(cls, size: int, dtype: Any = np.float64) -> GatherMap:
        """The identity on ``size`` numbers."""
        return cls(np.arange(size), size, dtype=dtype)

    @cached_property
    def nnz(self) -> int:
        """How many rows are not empty."""
        return int(np.count_nonzero(self._columns >= 0))

    def row_counts(self) -> NDArray[np.int64]:
        return (self.columns >= 0).astype(np.int64)

    @cached_property
    def in_order(self) -> bool:
        """Whether it is diagonal: yᵢ = fᵢ xᵢ."""
        return self.shape[0] == self._columns.size == self.width and bool(
            (self._columns == np.arange(self.width)).all()
        )

    @cached_property
    def is_identity(self) -> bool:
        """Whether it is the identity."""
        return self.in_order and self.moves

    @property
    def moves(self) -> bool:
        """Whether it has no factors, so that it computes nothing."""
        return self._factors is None

    @cached_property
    def injective(self) -> bool:
        """Whether no element of x is used twice."""
        return len(np.unique(self._columns[self._columns >= 0])) == self.nnz

    @property
    def work(self) -> int:
        return 0

    @property
    def stored(self) -> int:
        return self.shape[0] * (1 if self.moves else 2)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows that are not empty, their columns, and their factors, None for ones."""
        rows = np.flatnonzero(self._columns >= 0)
        factors = None if self._factors is None else torch.from_numpy(self._factors[rows])
        columns = self._columns[rows].astype(np.int64)
        return torch.from_numpy(rows + self._first), torch.from_numpy(columns), factors

    @cached_property
    def _slices(self) -> tuple[Slice, ...]:
        """The rows that are not empty and their columns as slices of arrays; none where these are too many."""
        rows = np.flatnonzero(self._columns >= 0)
        return slices(rows + self._first, self._columns[rows].astype(np.int64))

    @property
    def is_sliced(self) -> bool:
        """Whether it takes slices of an array to slices of another, which is faster than element by element."""
        return bool(self._slices)

    @cached_property
    def run(self) -> tuple[int, slice] | None:
        """The first row and the columns where it takes one run of an array to another; None where it does not."""
        if len(self._slices) != 1:
            return None
        part = self._slices[0]
        if part.shape and not part.rows == part.columns == (1,):
            return None
        row, column = part.first
        return row, slice(column, column + self.nnz)

    @cached_property
    def _multipliers(self) -> Tensor | float | None:
        """The factors from the first row with an entry on, (1, k); one number where they are equal, None for ones."""
        if self._factors is None:
            return None
        kept = self._factors[self._columns >= 0]
        return float(kept[0]) if (kept == kept[0]).all() else torch.from_numpy(self._factors)[None]

    def _gathered(self, x: Tensor, places: Tensor) -> Tensor:
        """Columns of x times the factors of the rows that are not empty, as a new tensor."""
        factors = self._tensors[2]
        gathered = x.index_select(1, places)
        return gathered if factors is None else gathered.mul_(factors)

    def apply(self, x: Tensor) -> Tensor:
        if self.in_order:
            return x.clone() if self._factors is None else x * torch.from_numpy(self._factors).to(x.dtype)
        if self._slices and self.nnz == self.shape[0] and self.moves:
            made = x.new_empty(x.shape[0], self.shape[0])
            for part in self._slices:
                part.rows_of(made).copy_(part.columns_of(x))
            return made
        made = x.new_zeros(x.shape[0], self.shape[0])
        self.add_to_(made, x)
        return made

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        if not self._slices:
            rows, columns, _ = self._tensors
            sums.index_add_(1, rows, self._gathered(x, columns))
        for part in self._slices:
            into, taken, factors = part.rows_of(sums), part.columns_of(x), self._multipliers
            if isinstance(factors, Tensor):
                into.addcmul_(taken, part.rows_of(factors.to(x.dtype), self._first))
            else:
                into.add_(taken, alpha=1 if factors is None else factors)

    def write_(self, sums: Tensor, x: Tensor, bias: Tensor) -> None:
        """Write X Mᵀ + bias into the rows of ``sums`` that are not empty, where they are slices."""
        for part in self._slices:
            into, taken, factors = part.rows_of(sums), part.columns_of(x), self._multipliers
            offset = part.rows_of(bias[None])
            if isinstance(factors, Tensor):
                torch.addcmul(offset, taken, part.rows_of(factors.to(x.dtype), self._first), out=into)
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
                taken = taken * (
                    part.rows_of(factors.to(y.dtype), self._first) if isinstance(factors, Tensor) else factors
                )
            part.columns_of(made).copy_(taken)
        return made

    def absolute(self) -> GatherMap:
        return self if self.factors is None else GatherMap(self.columns, self.width, np.abs(self.factors))

    def pattern(self) -> GatherMap:
        """The map with ones in float64 where M is not zero."""
        return GatherMap(self.columns, self.width)

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatherMap:
        own, columns = self.factors, self.columns
        factors = np.ones(columns.size) if own is None else own.astype(np.float64)
        with np.errstate(over="ignore"):  # refused as infinite
            if left is not None:
                factors = factors * as_factors(left, self.shape[0], "left")
            if right is not None:
                factors = factors * as_factors(right, self.width, "right")[columns]
            return GatherMap(columns, self.width, factors.astype(self.dtype))

    def astype(self, dtype: Any) -> GatherMap:
        if self.dtype == np.dtype(dtype):
            return self
        factors = self.factors
        if factors is None:
            same = copy(self)  # with the same columns in memory
            same.dtype = np.dtype(dtype)
            return same
        return GatherMap(self.columns, self.width, rounded(factors, dtype), dtype)

    def to_csr(self) -> Csr:
        kept = self._columns >= 0
        values = np.ones(self.nnz, self.dtype) if self._factors is None else self._factors[kept]
        indptr = np.full(self.shape[0] + 1, values.size, self._columns.dtype)
        indptr[: self._first + 1] = 0
        indptr[self._first + 1 : self._first + 1 + kept.size] = np.cumsum(kept)
        return sp.csr_array((values, self._columns[kept], indptr), shape=self.shape)

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(np.empty(0, self.dtype))

    def with_values(self, values: Tensor) -> GatherMap:
        return self

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        return X.new_empty(0)

    def to_stored(self) -> tuple[Entry, Arrays]:
        arrays = {"columns": (self.columns + 1).astype(np.min_scalar_type(self.width))}
        factors = {} if (own := self.factors) is None else {"factors": own}
        return {"kind": "gather", "factors": bool(factors)}, arrays | factors

    @classmethod
    def from_stored(cls, stored: Stored) -> GatherMap:
        rows, width = stored.shape
        columns = stored.integers("columns", rows) - 1
        factors = stored.floats("factors", rows) if stored.entry["factors"] else None
        return cls(columns, width, factors, stored.dtype)
