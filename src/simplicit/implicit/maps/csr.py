"""Matrices in compressed sparse rows as linear maps."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.implicit.maps.base import LinearMap, Product, as_factors
from simplicit.implicit.maps.files import Stored
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.maps.sparse import Csr, canonical_csr, row_counts
from simplicit.products import LARGEST_INDEX, from_scipy, has_product, product

# Measured in float32 on one core, 64 to 2,048 wide, with 1 to 1,000 samples: from 4 to 8 % non-zeros on a dense GEMM is
# faster than SciPy's CSR product, which is one thread of axpy; up to 64 x 64 it always is, since both are all overhead.
_DENSE_ABOVE = 0.04
# Likewise of MKL's product, by the number of samples: up to 64 of them it wins while a quarter are non-zeros, above,
# where what it reads leaves the caches, while a tenth are. What is fixed here gives the same bits on every machine.
_FEW_SAMPLES, _FEW_DENSE_ABOVE, _MANY_DENSE_ABOVE = 64, 0.2, 0.08
_SMALL_SIZE = 2**12
_LARGEST_DENSE_BYTES = 256 * 2**20
# Measured likewise, with 10 to 1,000 samples: from 0.5 to 1 % non-zeros on a dense product Ȳᵀ X is cheaper than
# gathering, by a factor of 10 at 2 %.
_DENSE_GRADIENT_ABOVE, _LARGEST_DENSE_GRADIENT = 0.01, 2**24
# Rows of so many entries at most are looked at as gathers.
_MOST_SLICES = 4
# Gathered products are formed for so many numbers at a time.
_GATHERED_NUMBERS = 2**22
_TORCH_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class CsrMap(LinearMap, kind="csr"):
    """A linear map that keeps its entries in compressed sparse rows.

    Products go through a dense GEMM where that is faster (a very small matrix, or more non-zeros than a share that
    depends on the number of samples) and the dense copy, made at the first product, takes at most 256 MiB; through
    torch's product of compressed rows otherwise, or SciPy's where torch has none. All sum the same terms, in different
    orders. Its values are the non-zeros, row by row; their places are fixed.

    Parameters
    ----------
    matrix : array or sparse array, shape (out, in)
        It is copied; stored zeros are dropped. InputError is raised where it is not two-dimensional, real and finite.
    """

    is_written = True

    def __init__(self, matrix: ArrayLike | sp.sparray | sp.spmatrix) -> None:
        self._matrix = canonical_csr(matrix)
        rows, columns = self._matrix.shape
        self.shape, self.dtype = (int(rows), int(columns)), self._matrix.dtype

    def __getstate__(self) -> dict[str, Any]:
        # torch warns of compressed rows again where they are read; they are made anew in no time.
        return {name: value for name, value in vars(self).items() if name != "_compressed"}

    def row_counts(self) -> NDArray[np.int64]:
        return row_counts(self._matrix)

    @cached_property
    def multiplies_densely(self) -> bool:
        """Whether products go through a dense copy, but for those of a few samples by compressed rows."""
        size = self.shape[0] * self.shape[1]
        fits = size * self.dtype.itemsize <= _LARGEST_DENSE_BYTES
        return fits and (size <= _SMALL_SIZE or self.nnz > _DENSE_ABOVE * size)

    def _is_dense_for(self, samples: int) -> bool:
        """Whether a product with so many samples goes through the dense copy."""
        size = self.shape[0] * self.shape[1]
        if not self.multiplies_densely or size <= _SMALL_SIZE or self._compressed is None:
            return self.multiplies_densely
        return self.nnz > (_FEW_DENSE_ABOVE if samples <= _FEW_SAMPLES else _MANY_DENSE_ABOVE) * size

    @cached_property
    def _compressed(self) -> Tensor | None:
        """The matrix as torch multiplies by it; None where it cannot."""
        fits = max(self._matrix.nnz, *self.shape) <= LARGEST_INDEX
        return from_scipy(self._matrix) if fits and has_product(_TORCH_DTYPES[self.dtype]) else None

    @cached_property
    def _dense(self) -> Tensor:
        return torch.from_numpy(self._matrix.toarray())

    @cached_property
    def _slices(self) -> list[GatherMap] | None:
        """Maps of one entry in a row that make it up where these are slices of arrays, as in a maximum over windows."""
        counts, rows = self.row_counts(), self.shape[0]
        if self.multiplies_densely or not 1 <= counts.max(initial=0) <= _MOST_SLICES:
            return None
        found = []
        for place in range(int(counts.max())):
            has = counts > place
            at = self._matrix.indptr[:-1][has] + place
            columns, factors = np.full(rows, -1), np.ones(rows, self.dtype)
            columns[has], factors[has] = self._matrix.indices[at], self._matrix.data[at]
            found.append(GatherMap(columns, self.shape[1], factors))
        return found if all(part.is_sliced for part in found) else None

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        if self._slices is None:
            super().add_to_(sums, x)
            return
        for part in self._slices:
            part.add_to_(sums, x)

    def apply(self, x: Tensor) -> Tensor:
        if self._is_dense_for(x.shape[0]):
            return x @ self._dense.T
        if self._compressed is None or not x.shape[0]:
            return _sparse_product(self._matrix, x)
        return product(self._compressed, x.detach())

    def affine(self, bias: Tensor, x: Tensor) -> Tensor:
        if self._is_dense_for(x.shape[0]):
            return torch.addmm(bias, x, self._dense.T)
        if self._compressed is None or self._slices is not None or not x.shape[0]:
            return super().affine(bias, x)
        return product(self._compressed, x.detach(), bias)

    def apply_transpose(self, y: Tensor) -> Tensor:
        return y @ self._dense if self.multiplies_densely else _sparse_product(self._matrix.T, y)

    def absolute(self) -> CsrMap:
        return CsrMap(abs(self._matrix))

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> CsrMap:
        data = self._matrix.data.astype(np.float64)
        with np.errstate(over="ignore"):  # what overflows is refused as infinite, with its place
            if left is not None:
                data *= np.repeat(as_factors(left, self.shape[0], "left"), np.diff(self._matrix.indptr))
            if right is not None:
                data *= as_factors(right, self.shape[1], "right")[self._matrix.indices]
            return self._with_data(data.astype(self.dtype))

    def astype(self, dtype: Any) -> CsrMap:
        if self.dtype == np.dtype(dtype):
            return self
        with np.errstate(over="ignore"):  # refused as infinite, with its place
            return CsrMap(self._matrix.astype(dtype))

    def to_csr(self) -> Csr:
        return self._matrix.copy()

    @property
    def row_sizes(self) -> NDArray[np.int64]:
        """How many entries each row has, (rows,)."""
        sizes: NDArray[np.int64] = np.diff(self._matrix.indptr).astype(np.int64)
        return sizes

    def taken(self, rows: NDArray[np.int64]) -> CsrMap:
        """Some of its rows, (k,), in any order."""
        return CsrMap(self._matrix[rows])

    def _with_data(self, data: NDArray[Any]) -> CsrMap:
        return CsrMap(sp.csr_array((data, self._matrix.indices, self._matrix.indptr), shape=self.shape))

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(self._matrix.data.copy())

    def with_values(self, values: Tensor) -> CsrMap:
        return self._with_data(values.detach().numpy())

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The rows and the columns of the values."""
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self._matrix.indptr))
        return torch.from_numpy(rows), torch.from_numpy(self._matrix.indices.astype(np.int64))

    def product(self, values: Tensor | None = None) -> Product:
        values = self.values if values is None else values
        if self.multiplies_densely:
            dense = values.new_zeros(self.shape).index_put(self._places, values)
            return lambda x: x @ dense.T
        places = torch.stack(self._places)
        sparse = torch.sparse_coo_tensor(places, values, self.shape, is_coalesced=True, check_invariants=False)
        return lambda x: torch.sparse.mm(sparse, x.T).T

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        rows, columns = self._places
        size = self.shape[0] * self.shape[1]
        if size <= _LARGEST_DENSE_GRADIENT and len(rows) > _DENSE_GRADIENT_ABOVE * size:
            return (Y_bar.T @ X)[rows, columns]
        step = max(1, _GATHERED_NUMBERS // max(1, len(X)))
        pieces = zip(torch.split(rows, step), torch.split(columns, step), strict=True)
        return torch.cat([(Y_bar[:, i] * X[:, j]).sum(dim=0) for i, j in pieces])

    @classmethod
    def from_stored(cls, stored: Stored) -> CsrMap:
        return cls(stored.csr(stored.shape))


def _sparse_product(matrix: Csr, x: Tensor) -> Tensor:
    # SciPy wants the vectors as columns in C order; the result comes back as a transposed view, without a copy.
    product = matrix @ x.detach().T.contiguous().numpy()
    return torch.from_numpy(product).T
