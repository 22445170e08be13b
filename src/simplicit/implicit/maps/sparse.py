"""Compressed sparse rows: the form in which every linear map can be written down."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from simplicit.checks import as_array
from simplicit.errors import InputError

Csr: TypeAlias = sp.csr_array


def canonical_csr(matrix: ArrayLike | sp.sparray | sp.spmatrix, name: str = "matrix") -> Csr:
    """A copy of ``matrix`` as canonical float32 or float64 ``csr_array``: sorted, no duplicates, no stored zeros.

    Integers and booleans become float64, float16 becomes float32. InputError is raised where it is not two-dimensional,
    not real, or not finite; the message calls it ``name``.
    """
    entries: Any = matrix if sp.issparse(matrix) else as_array(name, matrix)
    if entries.ndim != 2:
        defect = f"must be a matrix with two dimensions, got shape {entries.shape}"
        raise InputError(f"{name} {defect}", argument=name)
    if entries.dtype.kind not in "fiub":
        raise InputError(f"{name} must hold real numbers, got dtype {entries.dtype}", argument=name)
    csr = sp.csr_array(entries, dtype=float_for(entries.dtype), copy=True)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    if csr.indices.dtype != np.int32 and max(csr.nnz, *csr.shape) < 2**31:
        csr.indices, csr.indptr = csr.indices.astype(np.int32), csr.indptr.astype(np.int32)
    finite = np.isfinite(csr.data)
    if not finite.all():
        bad = int(np.argmin(finite))
        row = int(np.searchsorted(csr.indptr, bad, side="right")) - 1
        found = f"got {csr.data[bad]} in row {row}, column {csr.indices[bad]}"
        raise InputError(f"{name} must be finite, {found}", argument=name)
    return csr


def float_for(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for itself and float16, float64 for all other real numbers."""
    return np.dtype(np.float32 if dtype in (np.float16, np.float32) else np.float64)


def row_counts(matrix: Csr) -> NDArray[np.int64]:
    """How many entries each row of a canonical matrix has, (out,)."""
    return np.diff(matrix.indptr).astype(np.int64)  # type: ignore[no-any-return]
