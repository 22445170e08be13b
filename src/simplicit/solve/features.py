r"""Features Φ as samples, dense or sparse, behind one set of methods.

A sparse Φ is never dense as a whole: the columns of a design are made dense some at a time, and where there are many
more samples than columns (:meth:`SparseFeatures.tall`) only ΦᵀΦ is formed, by sparse products.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array

from simplicit.checks import SMALLEST, check_magnitudes, refused
from simplicit.rows import Gram
from simplicit.rows.batch import Array, Index, Mask

Floats = npt.NDArray[np.floating[Any]]
#: Columns that are converted at a time.
CHUNK = 256
#: Sparse features are made dense as a whole with fewer entries than this (64 MiB), or fewer samples per column: what
#: that takes is no more than twice the Gram matrix, and the samples tell smaller gaps than it does.
DENSE_ENTRIES, SAMPLES_PER_COLUMN = 2**23, 2


class DenseFeatures:
    """An array (m, d) of floats."""

    def __init__(self, array: Floats) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: tuple[slice, Index]) -> Floats:
        """Some of the columns."""
        return self.array[part]

    def means(self, weights: Array | None) -> Array:
        """The mean of every column, weighted (m,) or not; (d,)."""
        if weights is None:
            return np.asarray(self.array.mean(axis=0, dtype=np.float64))
        return np.asarray(np.einsum("i,ij->j", weights, self.array, dtype=np.float64) / weights.sum())

    def squares(self, mean: Array | None, weights: Array | None) -> Array:
        """Σᵢ sᵢ(aᵢⱼ − meanⱼ)² of every column, in float64."""
        squares = np.empty(self.array.shape[1])
        for first in range(0, len(squares), CHUNK):
            part = slice(first, first + CHUNK)
            shifted = self.array[:, part] - (0.0 if mean is None else mean[part])
            if weights is not None:
                shifted = shifted * np.sqrt(weights)[:, None]
            squares[part] = np.einsum("ij,ij->j", shifted, shifted, dtype=np.float64)
        return squares

    def nonzero(self) -> Mask:
        """Which columns have an entry that is not zero, nor so small that the column counts as zero; (d,)."""
        return np.asarray(np.maximum(self.array.max(axis=0), -self.array.min(axis=0)) >= SMALLEST)

    def varying(self) -> Mask:
        """Which columns are neither constant nor everywhere so small that they count as zero; (d,)."""
        largest, least = self.array.max(axis=0), self.array.min(axis=0)
        return np.asarray((largest != least) & (np.maximum(largest, -least) >= SMALLEST))

    def identity(self) -> dict[str, Any]:
        """The arrays that say which features these are."""
        return {"features": self.array}


class SparseFeatures:
    """A sparse matrix (m, d) of floats; entries at one place count as their sum.

    Raises
    ------
    InputError
        If it has no floats, another number of dimensions, no entry in some dimension, or a value that is not finite or
        beyond the range of :func:`simplicit.checks.check_magnitudes`.
    """

    def __init__(self, matrix: Any) -> None:
        if matrix.dtype.kind != "f":
            raise refused("features", f"expected floats, got {matrix.dtype}; convert with features.astype('float64')")
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise refused("features", f"expected samples x columns, at least one of each, got shape {matrix.shape}")
        if not matrix.dtype.isnative or matrix.dtype.itemsize == 2:  # which SciPy's own conversions do not know
            matrix = copy(matrix)
            matrix.data = matrix.data.astype(np.float64)
        _check_entries(matrix)
        self.matrix = csc_array(matrix, dtype=np.float64, copy=True)
        self.matrix.sum_duplicates()
        self.matrix.eliminate_zeros()
        check_magnitudes("features", np.stack([self._largest(), -self._largest()]), or_tiny=True)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, part: tuple[slice, Index]) -> Floats:
        """Some of the columns, dense."""
        return np.asarray(self.matrix[part].toarray())

    @property
    def tall(self) -> bool:
        """Whether ΦᵀΦ is all that is formed of it."""
        m, d = self.matrix.shape
        return bool(m * d > DENSE_ENTRIES and m > SAMPLES_PER_COLUMN * d)

    def taken(self, lines: Mask) -> SparseFeatures:
        """Some of the samples."""
        result = object.__new__(SparseFeatures)
        result.matrix = self.matrix[np.flatnonzero(lines)]
        return result

    def means(self, weights: Array | None) -> Array:
        """As of :class:`DenseFeatures`, like the methods below."""
        weights = np.ones(len(self)) if weights is None else weights
        return np.asarray(self.matrix.T @ weights) / float(weights.sum())

    def squares(self, mean: Array | None, weights: Array | None) -> Array:
        weights = np.ones(len(self)) if weights is None else weights
        mean = np.zeros(self.matrix.shape[1]) if mean is None else mean
        entry, counts = weights[self.matrix.indices], np.diff(self.matrix.indptr)
        column = np.repeat(np.arange(len(mean)), counts)
        shifted = self.matrix.data - mean[column]
        inside = np.bincount(column, entry * shifted * shifted, len(mean))
        zeros = np.maximum(weights.sum() - np.bincount(column, entry, len(mean)), 0.0)
        return np.asarray(inside + np.where(counts < len(self), zeros, 0.0) * mean * mean)

    def nonzero(self) -> Mask:
        return self._largest() >= SMALLEST

    def varying(self) -> Mask:
        # Explicit, for min and max of a csc_array are sparse arrays of another shape from version to version.
        starts, counts = self.matrix.indptr[:-1], np.diff(self.matrix.indptr)
        full = np.flatnonzero(counts == len(self))
        lines = starts[full, None] + np.arange(len(self)) if len(full) else np.zeros((0, 1), dtype=np.intp)
        result = counts > 0
        entries = self.matrix.data[lines]
        result[full] = (entries != entries[:, :1]).any(axis=1)
        return np.asarray(result & self.nonzero())

    def identity(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            f"features {name}": getattr(self.matrix, name) for name in ("data", "indices", "indptr")
        }
        return parts | {"features shape": list(self.matrix.shape)}

    def gram(self, targets: Floats, weights: Array | None, *, centred: bool) -> Gram:
        """ΦᵀSΦ, ΦᵀSz and zᵀSz by sparse products, about the weighted means if ``centred``.

        About its mean a sparse column loses no more digits than its share of non-zeros has: the square of its mean is
        at most that share of its mean square.
        """
        z = targets.astype(np.float64)
        s = np.ones(len(z)) if weights is None else weights
        scaled = self.matrix.copy()
        scaled.data *= np.sqrt(s)[self.matrix.indices]
        total, dense = float(s.sum()), DenseFeatures(z)
        z_mean = dense.means(weights) if centred else np.zeros(z.shape[1])
        shifted = z - z_mean
        product = np.asarray((scaled.T @ scaled).toarray())
        product = (product + product.T) / 2
        cross = np.asarray((self.matrix.T @ (shifted * s[:, None])).T)
        if not centred:
            return Gram.of_products(product, cross, dense.squares(None, weights), len(z))
        mean = self.means(weights)
        product -= total * np.outer(mean, mean)
        product[np.diag_indices_from(product)] = self.squares(mean, weights)
        constant = ~self.varying()
        product[constant] = product[:, constant] = cross[:, constant] = 0.0
        return Gram.of_products(product, cross, dense.squares(z_mean, weights), len(z)).about(mean, z_mean, total)

    def _largest(self) -> Array:
        """The largest magnitude in every column; (d,)."""
        counts = np.diff(self.matrix.indptr)
        column = np.repeat(np.arange(len(counts)), counts)
        largest = np.zeros(len(counts))
        np.maximum.at(largest, column, np.abs(self.matrix.data))
        return largest


def _check_entries(matrix: Any) -> None:
    """Raise InputError with the place of the first entry that is not finite."""
    entries = matrix.tocoo()
    odd = np.flatnonzero(~np.isfinite(entries.data))
    if len(odd):
        row, column = int(entries.coords[0][odd[0]]), int(entries.coords[1][odd[0]])
        found = f"holds {entries.data[odd[0]]} at index ({row}, {column})"
        raise refused("features", f"{found}; remove or replace non-finite values first")


Features = DenseFeatures | SparseFeatures
