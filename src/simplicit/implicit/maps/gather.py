r"""Maps with at most one entry in a row: identities, diagonals, slices, permutations, padding with zeros."""

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
from simplicit.implicit.maps.base import Csr, as_factors, float_for, rounded

__all__ = ["GatherMap"]


class GatherMap:
    """yᵢ = fᵢ x[cᵢ], or 0 where cᵢ = -1.

    Parameters
    ----------
    columns : integer array, shape (out,)
        c, from -1 to width - 1.
    width : int
        Length of x.
    factors : array, shape (out,), optional
        f; ones if None. Copied; a zero makes its row empty.
    dtype : float32 or float64
        Of the entries; that of ``factors`` wins.

    Raises
    ------
    InputError
        Columns out of range, factors of another length or not finite.
    """

    def __init__(
        self, columns: ArrayLike, width: int, factors: NDArray[Any] | None = None, dtype: Any = np.float64
    ) -> None:
        given = np.asarray(columns)
        if given.dtype.kind not in "iu":
            raise InputError(f"columns must be integers, got dtype {given.dtype}")
        self.columns: NDArray[np.int64] = np.array(given, dtype=np.int64)
        if self.columns.ndim != 1 or ((self.columns < -1) | (self.columns >= width)).any():
            raise InputError(f"columns must be one-dimensional, each from -1 to {width - 1}")
        self.width = width
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self.factors: NDArray[Any] | None = None
        if factors is not None:
            taken = as_array("factors", factors)
            self._take_factors(taken.astype(float_for(taken.dtype), copy=False))

    def _take_factors(self, factors: NDArray[Any]) -> None:
        if factors.shape != self.columns.shape:
            raise InputError(f"factors must have shape {self.columns.shape}, got {factors.shape}")
        if not np.isfinite(factors[self.columns >= 0]).all():
            raise InputError("factors must be finite")
        self._dtype = factors.dtype
        self.columns[factors == 0] = -1
        factors = np.where(self.columns >= 0, factors, factors.dtype.type(1))
        if (factors != 1).any():
            self.factors = factors

    @classmethod
    def identity(cls, size: int, dtype: Any = np.float64) -> GatherMap:
        """The identity on ``size`` numbers."""
        return cls(np.arange(size), size, dtype=dtype)

    def __repr__(self) -> str:
        return f"GatherMap(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.columns.size, self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    @cached_property
    def nnz(self) -> int:
        """How many entries differ from zero."""
        return int((self.columns >= 0).sum())

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,): 1 or 0."""
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
        used = self.columns[self.columns >= 0]
        return len(np.unique(used)) == len(used)

    @cached_property
    def _rows(self) -> Tensor:
        """The rows that are not empty."""
        return torch.from_numpy(np.flatnonzero(self.columns >= 0))

    @cached_property
    def _used(self) -> Tensor:
        """Their columns."""
        return torch.from_numpy(self.columns[self.columns >= 0])

    @cached_property
    def _scale(self) -> Tensor | None:
        """Their factors."""
        return None if self.factors is None else torch.from_numpy(self.factors[self.columns >= 0])

    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ: (m, in) to (m, out)."""
        if self.in_order:
            return x.clone() if self._scale is None else x * self._scale
        picked = x[:, self._used]
        if self._scale is not None:
            picked *= self._scale
        if self.nnz == self.columns.size:
            return picked
        return x.new_zeros(x.shape[0], self.columns.size).index_copy_(1, self._rows, picked)

    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M: (m, out) to (m, in)."""
        if self.in_order:
            return y.clone() if self._scale is None else y * self._scale
        taken = y[:, self._rows]
        if self._scale is not None:
            taken *= self._scale
        return y.new_zeros(y.shape[0], self.width).index_add_(1, self._used, taken)

    def absolute(self) -> GatherMap:
        """|M|."""
        return self if self.factors is None else GatherMap(self.columns, self.width, np.abs(self.factors))

    def pattern(self) -> GatherMap:
        """Ones in float64 where M is not zero."""
        return GatherMap(self.columns, self.width)

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatherMap:
        """diag(left) M diag(right), in the dtype of M."""
        factors = np.ones(self.columns.size) if self.factors is None else self.factors.astype(np.float64)
        with np.errstate(over="ignore"):  # refused as infinite
            if left is not None:
                factors = factors * as_factors(left, self.shape[0], "left")
            if right is not None:
                factors = factors * as_factors(right, self.width, "right")[self.columns]
            return GatherMap(self.columns, self.width, factors.astype(self.dtype))

    def astype(self, dtype: Any) -> GatherMap:
        """The same entries as float32 or float64; InputError where they leave its range."""
        if self.dtype == np.dtype(dtype):
            return self
        return GatherMap(self.columns, self.width, rounded(self.factors, dtype), dtype)

    def to_csr(self) -> Csr:
        """All entries, canonical."""
        kept = self.columns >= 0
        values = np.ones(self.nnz, self.dtype) if self.factors is None else self.factors[kept]
        indptr = np.concatenate([[0], np.cumsum(kept)])
        return sp.csr_array((values, self.columns[kept], indptr), shape=self.shape)
