"""Maps with at most one entry in a row: identities, diagonals, slices, permutations, padding with zeros."""

from __future__ import annotations

from dataclasses import dataclass
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

#: Dimensions that a slice of an array is looked for in.
_MOST_AXES = 6


@dataclass(frozen=True)
class _Grid:
    """Rows and columns that are those of slices of arrays: first + Σ stride · index, over indices of one shape."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    first: tuple[int, int]

    @classmethod
    def of(cls, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> _Grid | None:
        """The grid of pairs; None where they make none, of few dimensions and without negative strides."""
        if not rows.size:
            return None
        pairs, first, axes = np.stack([rows, columns]), (int(rows[0]), int(columns[0])), list[tuple[int, int, int]]()
        while pairs.shape[1] > 1:
            steps = np.diff(pairs)
            (breaks,) = np.nonzero((steps != steps[:, :1]).any(axis=0))
            length = int(breaks[0]) + 1 if breaks.size else pairs.shape[1]
            if pairs.shape[1] % length or steps[1, 0] < 0 or len(axes) == _MOST_AXES:
                return None
            runs, step = pairs.reshape(2, -1, length), steps[:, :1, None]
            if (runs != runs[:, :, :1] + step * np.arange(length)).any():
                return None
            axes.append((length, int(steps[0, 0]), int(steps[1, 0])))
            pairs = runs[:, :, 0]
        shape, row_strides, column_strides = zip(*reversed(axes), strict=True) if axes else ((), (), ())
        return cls(shape, row_strides, column_strides, first)

    def rows_of(self, y: Tensor) -> Tensor:
        """The rows in y (m, out), as a view (m, *shape)."""
        return self._view(y, self.rows, self.first[0])

    def columns_of(self, x: Tensor) -> Tensor:
        """The columns in x (m, in), as a view (m, *shape)."""
        return self._view(x, self.columns, self.first[1])

    def _view(self, z: Tensor, strides: tuple[int, ...], first: int) -> Tensor:
        down, across = z.stride()
        offset = z.storage_offset() + first * across
        return z.as_strided((len(z), *self.shape), (down, *(stride * across for stride in strides)), offset)


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
    def _grid(self) -> _Grid | None:
        """The rows that are not empty and their columns, where both are those of a slice of an array."""
        rows = np.flatnonzero(self.columns >= 0)
        return _Grid.of(rows, self.columns[rows])

    @cached_property
    def _grid_factors(self) -> Tensor | None:
        """The factors of the rows that are not empty, in the shape of their grid; one number where they are equal."""
        assert self._grid is not None
        if self.factors is None:
            return None
        kept = self.factors[self.columns >= 0]
        return torch.from_numpy(kept[:1] if (kept == kept[0]).all() else kept.reshape(self._grid.shape))

    @property
    def is_slice(self) -> bool:
        """Whether it takes a slice of an array to a slice of another, which is faster than element by element."""
        return self._grid is not None

    def _gathered(self, x: Tensor, places: Tensor) -> Tensor:
        """Columns of x times the factors of the rows that are not empty, as a new tensor."""
        factors = self._tensors[2]
        gathered = x.index_select(1, places)
        return gathered if factors is None else gathered.mul_(factors)

    def apply(self, x: Tensor) -> Tensor:
        if self.in_order:
            return x.clone() if self.factors is None else x * torch.from_numpy(self.factors).to(x.dtype)
        if self._grid is None:
            rows, columns, _ = self._tensors
            picked = self._gathered(x, columns)
            if self.nnz == self.columns.size:
                return picked
            return x.new_zeros(x.shape[0], self.columns.size).index_copy_(1, rows, picked)
        full, factors = self.nnz == self.columns.size, self._grid_factors
        made = (x.new_empty if full else x.new_zeros)(x.shape[0], self.columns.size)
        into, taken = self._grid.rows_of(made), self._grid.columns_of(x)
        if factors is None:
            into.copy_(taken)
        else:
            torch.mul(taken, factors.to(x.dtype), out=into)
        return made

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        if self._grid is None:
            super().add_to_(sums, x)
            return
        into, taken, factors = self._grid.rows_of(sums), self._grid.columns_of(x), self._grid_factors
        if factors is None:
            into.add_(taken)
        elif factors.numel() == 1:
            into.add_(taken, alpha=float(factors))
        else:
            into.addcmul_(taken, factors.to(x.dtype))

    def apply_transpose(self, y: Tensor) -> Tensor:
        if self.in_order:
            return self.apply(y)
        rows, columns, _ = self._tensors
        if self._grid is None or not self.injective:
            return y.new_zeros(y.shape[0], self.width).index_add_(1, columns, self._gathered(y, rows))
        made = y.new_zeros(y.shape[0], self.width)
        into, taken, factors = self._grid.columns_of(made), self._grid.rows_of(y), self._grid_factors
        into.copy_(taken if factors is None else taken * factors.to(y.dtype))
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
