r"""Similarities D⁻¹ N D with powers of two, hence exact, that even out a non-negative matrix; λ_pf stays.

An irreducible N may need a Perron vector that spreads over more magnitudes than floating point has: a chain with
49 forwards and 0.0049 backwards has 100ⁱ/². D takes the spread away, and the vector of D⁻¹ N D is tame.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg.lapack import dgebal
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import SuperLU, cg, splu

from simplicit.implicit.maps import Csr

# A factorisation within the bandwidth b of a reordered matrix takes about 2 n b² operations; 1e9 are a second or two.
_LARGEST_FACTOR_WORK = 1e9
# Of entries relative to the largest: a normal number still, and far below what the caller treats as vanishing.
_LOWEST_EXPONENT = -1000
# Exponents need no more than a digit, and any of them are valid.
_CG_TOL, _CG_STEPS = 1e-3, 500
# Every sweep shrinks an imbalance between neighbours to its root; after ten a factor of 2¹⁰⁰⁰ is below 2.
_SWEEPS = 10


def balanced(N: Csr, *, dense: bool) -> tuple[Csr, int]:
    """2⁻ᵉ D⁻¹ N D with D = diag(2^k), its largest entry in [1/2, 1), and e, for irreducible N, (n, n), n >= 2.

    Entries that vanish beside the largest (below 2⁻¹⁰⁰⁰ of it) are raised to that; none becomes zero. ``dense`` says
    that n² numbers are few: then LAPACK's dgebal evens out row and column sums one by one. That needs as many sweeps as
    the graph has steps from end to end, so that large sparse matrices first get the exponents that bring all entries
    closest together, in least squares of their logarithms.
    """
    if dense:
        similar, k = sp.csr_array(dgebal(N.toarray(), scale=1, permute=0)[0]), None
    else:
        similar, k = N, _exponents(N)
    mantissa, exponent = np.frexp(similar.data)
    exponent = exponent.astype(np.int64)
    if k is not None:
        exponent += k[N.indices] - np.repeat(k, np.diff(N.indptr))
    largest = int(exponent.max())
    data = np.ldexp(mantissa, np.maximum(exponent - largest, _LOWEST_EXPONENT))
    return sp.csr_array((data, similar.indices, similar.indptr), shape=N.shape), largest


def _exponents(N: Csr) -> NDArray[np.int64]:
    """k, (n,), by least squares over the whole graph, then sweeps that even out each state's largest terms."""
    off_diagonal = sp.coo_array(N)
    keep = off_diagonal.row != off_diagonal.col
    rows, columns, sizes = off_diagonal.row[keep], off_diagonal.col[keep], np.log2(off_diagonal.data[keep])
    k = _least_squares(rows, columns, sizes, N.shape[0])
    for _ in range(_SWEEPS):
        entries = sizes + k[columns] - k[rows]
        row_size, column_size = np.full(N.shape[0], -np.inf), np.full(N.shape[0], -np.inf)
        np.maximum.at(row_size, rows, entries)
        np.maximum.at(column_size, columns, entries)
        # A half of what would even out this state alone, because its neighbours move too.
        k += 0.25 * (row_size - column_size)
    return np.asarray(np.rint(k), dtype=np.int64)


def _least_squares(
    rows: NDArray[np.integer], columns: NDArray[np.integer], sizes: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """Minimise Σ (sizeᵢⱼ + kⱼ - kᵢ)² over k: a system with the Laplacian of the graph, k = 0 at one state."""
    ones = np.ones(rows.size)
    links = sp.csr_array((np.r_[ones, ones], (np.r_[rows, columns], np.r_[columns, rows])), shape=(n, n))
    laplacian = sp.csr_array(sp.diags_array(links.sum(axis=1)) - links)
    right = np.bincount(rows, sizes, n) - np.bincount(columns, sizes, n)
    order = cheap_order(links)
    if order is None:
        return np.asarray(cg(laplacian, right, rtol=_CG_TOL, maxiter=_CG_STEPS)[0])
    k = np.zeros(n)
    free = order[1:]
    k[free] = factor(laplacian[free][:, free]).solve(right[free])
    return k


def cheap_order(N: Csr) -> NDArray[np.integer] | None:
    """An order of the states whose band is so narrow that elimination is cheap; None where none was found."""
    n = N.shape[0]
    order: NDArray[np.integer] = reverse_cuthill_mckee(sp.csr_array(N + N.T), symmetric_mode=True)
    place = np.argsort(order)
    band = int(np.abs(place[np.repeat(np.arange(n), np.diff(N.indptr))] - place[N.indices]).max(initial=0))
    return order if 2.0 * n * band**2 <= _LARGEST_FACTOR_WORK else None


def factor(M: Csr) -> SuperLU:
    """Factorise an M-matrix in the order it has: without pivots, which these do not need, and so within the band."""
    return splu(sp.csc_array(M), permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
