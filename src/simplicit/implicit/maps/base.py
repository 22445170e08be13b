r"""Blocks of A, B, C and D: linear maps that know how to multiply.

A block is anything that satisfies :class:`LinearMap`. Samples come first, so that a map M of shape (out, in) takes
X (m, in) to X Mᵀ (m, out). :class:`CsrMap` holds its entries; :class:`~simplicit.implicit.maps.gather.GatherMap` and
:class:`~simplicit.implicit.maps.convolution.ConvMap` never write theirs down. What becomes of two of them, one after
the other or added up, is in :mod:`~simplicit.implicit.maps.algebra`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError

__all__ = ["CsrMap", "LinearMap", "as_factors", "canonical_csr", "float_for", "rounded", "row_counts_of"]

Csr: TypeAlias = sp.csr_array

# SciPy's CSR product is one thread of axpy; a dense GEMM does some 25 times as many operations a second. Very small
# blocks are all overhead, and that is lower for GEMM.
_DENSE_ABOVE = 0.04
_SMALL_SIZE = 2**12
_LARGEST_DENSE_BYTES = 256 * 2**20


@runtime_checkable
class LinearMap(Protocol):
    """A linear map M of ``shape`` (out, in), with entries of ``dtype`` float32 or float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the entries, and of what :meth:`apply` takes and returns."""
        ...

    @property
    def nnz(self) -> int:
        """How many entries differ from zero."""
        ...

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,)."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ: (m, in) to (m, out), a new tensor."""
        ...

    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M: (m, out) to (m, in), a new tensor."""
        ...

    def absolute(self) -> LinearMap:
        """|M|, entry by entry."""
        ...

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> LinearMap:
        """diag(left) M diag(right); None stands for ones."""
        ...

    def astype(self, dtype: Any) -> LinearMap:
        """The same map with entries of ``dtype``."""
        ...

    def to_csr(self) -> Csr:
        """All entries, canonical: sorted indices, no duplicates, no stored zeros."""
        ...


def canonical_csr(matrix: ArrayLike | sp.sparray | sp.spmatrix, name: str = "matrix") -> Csr:
    """A copy of ``matrix`` as a canonical float32 or float64 ``csr_array``: sorted, no duplicates, no stored zeros.

    Integers and booleans become float64, float16 becomes float32.

    Raises
    ------
    InputError
        Not two-dimensional, not real, or not finite; the message calls the matrix ``name``.
    """
    entries: Any = matrix if sp.issparse(matrix) else as_array(name, matrix)
    if entries.ndim != 2:
        raise InputError(f"{name} must be a matrix with two dimensions, got shape {entries.shape}")
    if entries.dtype.kind not in "fiub":
        raise InputError(f"{name} must hold real numbers, got dtype {entries.dtype}")
    csr = sp.csr_array(entries, dtype=float_for(entries.dtype), copy=True)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    finite = np.isfinite(csr.data)
    if not finite.all():
        bad = int(np.argmin(finite))
        row = int(np.searchsorted(csr.indptr, bad, side="right")) - 1
        raise InputError(f"{name} must be finite, got {csr.data[bad]} in row {row}, column {csr.indices[bad]}")
    return csr


def float_for(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for itself and float16, float64 for all other real numbers."""
    return np.dtype(np.float32 if dtype in (np.float16, np.float32) else np.float64)


class CsrMap:
    """A linear map that keeps its entries in compressed sparse rows.

    Products go through a dense GEMM where that is faster (more than about 4 % non-zeros, or a very small matrix) and
    the dense copy, made at the first product, takes at most 256 MiB; through SciPy's CSR product otherwise. Both sum
    the same terms in a different order.

    Parameters
    ----------
    matrix : array or sparse array, shape (out, in)
        Copied; stored zeros are dropped.

    Raises
    ------
    InputError
        As :func:`canonical_csr`.
    """

    def __init__(self, matrix: ArrayLike | sp.sparray | sp.spmatrix) -> None:
        self._matrix = canonical_csr(matrix)

    def __repr__(self) -> str:
        return f"CsrMap(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self._matrix.shape
        return int(rows), int(columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        dtype: np.dtype[Any] = self._matrix.dtype
        return dtype

    @property
    def nnz(self) -> int:
        """How many entries differ from zero."""
        return int(self._matrix.nnz)

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,)."""
        return row_counts_of(self._matrix)

    @property
    def multiplies_densely(self) -> bool:
        """Whether products go through a dense copy."""
        size = self.shape[0] * self.shape[1]
        if size * self.dtype.itemsize > _LARGEST_DENSE_BYTES:
            return False
        return size <= _SMALL_SIZE or self.nnz > _DENSE_ABOVE * size

    @cached_property
    def _dense(self) -> Tensor:
        return torch.from_numpy(self._matrix.toarray())

    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ: (m, in) to (m, out)."""
        if self.multiplies_densely:
            return x @ self._dense.T
        return _sparse_product(self._matrix, x)

    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M: (m, out) to (m, in)."""
        if self.multiplies_densely:
            return y @ self._dense
        return _sparse_product(self._matrix.T, y)

    def absolute(self) -> CsrMap:
        """|M|."""
        return CsrMap(abs(self._matrix))

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> CsrMap:
        """diag(left) M diag(right), in the dtype of M."""
        data = self._matrix.data.astype(np.float64)
        structure = (self._matrix.indices, self._matrix.indptr)
        with np.errstate(over="ignore"):  # what overflows is refused as infinite, with its place
            if left is not None:
                data *= np.repeat(as_factors(left, self.shape[0], "left"), np.diff(self._matrix.indptr))
            if right is not None:
                data *= as_factors(right, self.shape[1], "right")[self._matrix.indices]
            scaled = data.astype(self.dtype)
        return CsrMap(sp.csr_array((scaled, *structure), shape=self.shape))

    def astype(self, dtype: Any) -> CsrMap:
        """The same entries as float32 or float64; InputError where they leave its range."""
        if self.dtype == np.dtype(dtype):
            return self
        with np.errstate(over="ignore"):  # refused as infinite, with its place
            return CsrMap(self._matrix.astype(dtype))

    def to_csr(self) -> Csr:
        """A copy of the matrix."""
        return self._matrix.copy()


def row_counts_of(matrix: Csr) -> NDArray[np.int64]:
    """How many entries each row of a canonical matrix has, (out,)."""
    counts: NDArray[np.int64] = np.diff(matrix.indptr).astype(np.int64)
    return counts


def as_factors(values: NDArray[Any], length: int, name: str) -> NDArray[np.float64]:
    """The entries of a diagonal, (length,), as float64; InputError, with their ``name``, for another shape."""
    factors = np.asarray(values, dtype=np.float64)
    if factors.shape != (length,):
        raise InputError(f"{name} must have shape ({length},), got {factors.shape}")
    return factors


def rounded(values: NDArray[Any] | None, dtype: Any) -> NDArray[Any] | None:
    """``values`` in another dtype; what leaves its range becomes infinite, for the map to refuse."""
    if values is None:
        return None
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _sparse_product(matrix: Csr, x: Tensor) -> Tensor:
    # SciPy wants the vectors as columns in C order; the result comes back as a transposed view, without a copy.
    product = matrix @ x.detach().T.contiguous().numpy()
    return torch.from_numpy(product).T
