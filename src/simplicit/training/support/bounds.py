r"""How far the support of a row can be from the best one of its size: the dual of the perspective relaxation.

For a row with the positive definite Gram matrix H and the cross-correlations c, let α be the least eigenvalue of H, and
G = H − αI. The best choice of k of its columns has

    min over ‖w‖₀ ≤ k   f(w) = wᵀHw − 2cᵀw
      ≥ min over w, 0 ≤ t ≤ 1, Σ t ≤ k   wᵀGw − 2cᵀw + α Σⱼ wⱼ²/tⱼ                                         (P)
      = max over v   −vᵀGv − (1/α) Σ of the k largest (c − Gv)ⱼ²                                           (D)

(P) gives every column a share t of being in: the perspective of αw², as in Günlük and Linderoth, *Perspective
reformulations of mixed integer nonlinear programs with indicator variables*, 2010; with a price γ in place of the
number k it is :class:`simplicit.Perspective`. In (D) *every* v gives a bound, so it is enough to come near the best:
ADMM on (P) with the splitting w = x,

    w ← (2G + ρI)⁻¹(2c + ρ(x − y)),   x ← prox(w + y),   y ← y + w − x

in the eigenvectors of G, so that ρ is free to follow the residuals, row by row. The proximal map of the second term of
(P) is xⱼ = zⱼ·tⱼ/(tⱼ + b), tⱼ = clip(θ|zⱼ| − b, 0, 1), b = 2α/ρ, with θ such that Σ t = k (Argyriou, Foygel and Srebro,
*Sparse prediction with the k-support norm*, 2012).

Where (P) at the point reached is nearly at no error at all, less what rounding may have done, no bound can say
anything, and it is not sought on.

Under a pattern (:mod:`~simplicit.training.support.pattern`) the k largest in (D) are those of the pattern, which is the
dual with Σ t over each group bounded too.

A bound of 0.8 of the error says that no other support is better by more than a fifth. A low one need not mean that
there is a better support: the smaller α, which is the ridge where columns are dependent, the looser (P). What rounding
may have done to H is taken off the bound: ε·tr(H)·‖w‖², where α‖w‖² is at most the error at w = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from simplicit.machine import one_thread_each
from simplicit.progress import counted
from simplicit.rows import Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.problem import LeastSquares
from simplicit.training.support.pattern import Groups

#: The bound is sought until the rows' relaxations are known to this share of their errors, or so many steps.
TOLERANCE, STEPS, EVERY = 0.01, 200, 10
#: What of a row's energy counts as no error, for that.
NOISE = 1e-8
#: Nor any further than until no row's can come to more than this share of its error.
WORTHLESS = 0.02
#: Over-relaxation of ADMM; the most that ρ changes by at a time, and the least change that is made.
RELAXATION, STRETCH, LEAST_STRETCH = 1.6, 5.0, 1.5
#: θ of the proximal map is sought for so many steps at most, until Σ t is k up to this share: it takes five to ten.
NEWTON_STEPS, NEWTON_SHARE = 100, 1e-13
#: Rows of low rank are taken together as long as an array of theirs has so many bytes, which stay in the cache.
CACHE = 2**20
#: Less counts as zero there: its inverse is far from the end of float64's range.
LEAST_SIZE = 1e-280
#: Stands for zero under a division.
TINY = np.finfo(np.float64).tiny


def with_support_gap(solution: Solution, problem: LeastSquares, weight: float) -> Solution:
    """The rows' solutions on their supports, with ``cardinality_gap`` set: how much lower the objective of a row can be
    at most with another support of the same size, and without a ball. The objective is λ(f(w) + energy), with λ the
    ``weight``."""
    columns = problem.support.any(axis=0)
    if not columns.any():
        return replace(solution, cardinality_gap=np.zeros(len(solution.objective)))
    start = solution.coefficients.toarray()[:, columns]
    rows = _Rows(
        _Spectrum.of(problem, np.flatnonzero(columns)),
        problem.cross[:, columns],
        np.count_nonzero(start, axis=1),
        problem.support[:, columns],
        None if problem.groups is None else problem.groups.on(np.flatnonzero(columns)),
    )
    scale = solution.objective / weight + NOISE * problem.energy
    bound = np.full(len(start), -np.inf)
    with one_thread_each():
        rounded = problem.energy * (1 - rows.spectrum.rounding / rows.alpha)
        worthless = WORTHLESS * scale - rounded
        # The error itself is the most that a bound comes to.
        sought = np.flatnonzero(scale - problem.energy > worthless)
        parts = rows.parts(sought)
        for part in counted(parts, "bounds on other supports", len(parts)):
            bound[part] = rows.on(part).least_of_size(start[part], scale[part], worthless[part])
    least_error = weight * np.maximum(rounded + bound, 0.0)
    gap = np.maximum(solution.objective - least_error, 0.0)
    # Where all columns are in there is no choice, and no error is below zero.
    known = np.minimum(solution.dual_gap, solution.objective)
    return replace(solution, cardinality_gap=np.where(rows.k >= rows.allowed.sum(axis=1), known, gap))


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """H (d, d) by its ``vectors`` (d, n) with the eigenvalues ``values`` (n,) in increasing order.

    All that is orthogonal to them has the eigenvalue ``other``, the least, where n < d. ``rounding`` is how far
    rounding can move an eigenvalue, and ``H`` the matrix, where n = d.
    """

    values: Array
    vectors: Array
    rounding: float
    H: Array | None = None
    other: float = np.inf

    @classmethod
    def of(cls, problem: LeastSquares, columns: Index) -> _Spectrum:
        """Of some columns of a problem."""
        low_rank, H = problem.low_rank_for(len(columns)), problem.gram
        rounding = float(problem.rounding * H.diagonal()[columns].sum())
        if low_rank is not None:
            values, vectors = low_rank.on(columns).eigen
            return cls(values, vectors, rounding, other=low_rank.ridge)
        H = H[np.ix_(columns, columns)]
        return cls(*np.linalg.eigh(H), rounding, H)

    @cached_property
    def alpha(self) -> float:
        """The least eigenvalue of H, but no less than what rounding can move it by."""
        return max(float(min(self.values.min(initial=np.inf), self.other)), self.rounding, TINY)

    @cached_property
    def shifted(self) -> Array:
        """The eigenvalues of G = H − αI."""
        return np.maximum(self.values - self.alpha, 0.0)

    @property
    def mean(self) -> float:
        """The mean of all eigenvalues of G."""
        return float(self.shifted.sum() / len(self.vectors))

    @cached_property
    def _matrix(self) -> Array | None:
        """G itself, of a full spectrum."""
        if self.H is None:
            return None
        G = self.H.copy()
        G[np.diag_indices_from(G)] -= self.alpha
        return G

    def times(self, rows: Array) -> Array:
        """The products of rows (r, d) with G."""
        return (
            rows @ self._matrix if self._matrix is not None else (rows @ self.vectors * self.shifted) @ self.vectors.T
        )

    def step(self, c: Array, rotated: Array, z: Array, rho: Array) -> Array:
        """(2G + ρI)⁻¹(2c + ρz), row by row, with ``rotated`` c (r, n) in the eigenvectors."""
        right = 2 * rotated + rho * (z @ self.vectors)
        inner = right / (2 * self.shifted + rho)
        if self.H is not None:
            return np.asarray(inner @ self.vectors.T)
        return np.asarray(z + 2 * c / rho + (inner - right / rho) @ self.vectors.T)

    def least(self, c: Array, rotated: Array) -> Array:
        """The least of f over all w, (r,)."""
        inside = -(np.square(rotated) / (self.shifted + self.alpha)).sum(axis=1)
        if self.H is not None:
            return np.asarray(inside)
        return np.asarray(inside - np.square(c - rotated @ self.vectors.T).sum(axis=1) / self.alpha)


@dataclass(frozen=True, eq=False)
class _Rows:
    """(P) of r rows: the spectrum of H (d, d), c (r, d), k (r,), where a row may have columns, (r, d), in groups."""

    spectrum: _Spectrum
    c: Array
    k: Index
    allowed: Mask
    groups: Groups | None = None

    @property
    def alpha(self) -> float:
        return self.spectrum.alpha

    def parts(self, rows: Index) -> list[Index]:
        """Which of some rows are bounded together: all where products with a full spectrum are most of the work."""
        step = max(1, len(rows) if self.spectrum.H is not None else CACHE // (8 * self.c.shape[1]))
        return [rows[first : first + step] for first in range(0, len(rows), step)]

    def on(self, part: Index) -> _Rows:
        """Some of the rows."""
        groups = None if self.groups is None else self.groups.of_rows(part)
        return replace(self, c=self.c[part], k=self.k[part], allowed=self.allowed[part], groups=groups)

    def dual(self, v: Array, Gv: Array) -> Array:
        """The value of (D) at v, (r,)."""
        squares = np.where(self.allowed, np.square(self.c - Gv), 0.0)
        if self.groups is not None:
            squares = np.where(self.groups.largest(torch.from_numpy(squares)).numpy(), squares, 0.0)
        largest = np.cumsum(-np.sort(-squares, axis=1), axis=1)
        taken = np.where(self.k > 0, largest[np.arange(len(v)), self.k - 1], 0.0)
        return np.asarray(-np.einsum("ij,ij->i", v, Gv) - taken / self.alpha)

    def primal(self, x: Array, Gx: Array, t: Array) -> Array:
        """The value of (P) at x, which is zero where t is, (r,)."""
        shared = np.divide(np.square(x), t, out=np.zeros_like(x), where=t > 0).sum(axis=1)
        return np.asarray(np.einsum("ij,ij->i", x, Gx - 2 * self.c) + self.alpha * shared)

    def least_of_size(self, start: Array, scale: Array, worthless: Array) -> Array:
        """A lower bound of f over all supports of k columns, (r,), from coefficients ``start`` (r, d).

        It is wanted to ``TOLERANCE`` in units of f of that ``scale`` (r,), and where it can be more than ``worthless``
        (r,): (P) at any point says that it cannot be.
        """
        alpha, spectrum = self.alpha, self.spectrum
        rotated = self.c @ spectrum.vectors
        rho = np.full((len(start), 1), 2 * np.sqrt(alpha * max(spectrum.mean, alpha)))
        # With all columns in, there is no less.
        lower = spectrum.least(self.c, rotated)
        upper, x, y, theta = np.zeros(len(start)), start.copy(), np.zeros_like(start), None
        for step in range(1, STEPS + 1):
            w = spectrum.step(self.c, rotated, x - y, rho)
            before, relaxed = x, RELAXATION * w + (1 - RELAXATION) * x
            x, t, theta = _prox(relaxed + y, self.k, self.allowed, 2 * alpha / rho, theta)
            y = y + relaxed - x
            if step % EVERY == 0:
                Gx = spectrum.times(x)
                lower = np.maximum(lower, np.maximum(self.dual(w, spectrum.times(w)), self.dual(x, Gx)))
                upper = np.minimum(upper, self.primal(x, Gx, t))
                if bool(np.all((upper - lower <= TOLERANCE * scale) | (upper <= worthless))):
                    break
                stretch = _stretch(w - x, rho * (x - before), x, rho * y)
                rho, y = rho * stretch, y / stretch
        return np.asarray(lower)


def _prox(z: Array, k: Index, allowed: Mask, b: Array, near: Array | None) -> tuple[Array, Array, Array]:
    """x and t, (r, d) both, and θ (r, 1), which is sought from one that may be ``near``."""
    size = np.where(allowed, np.abs(z), 0.0)
    theta = _slope(size, k, b, near)
    t = np.clip(theta * size - b, 0.0, 1.0)
    return np.asarray(z * (t / (t + b))), np.asarray(t), theta


def _slope(size: Array, k: Index, b: Array, near: Array | None = None) -> Array:
    """θ with Σⱼ clip(θ·sizeⱼ − b, 0, 1) = k, (r, 1): the sum is piecewise linear, and grows, in θ.

    Where so many columns are not zero, the least θ that has all of them in. Newton's method finds the piece; where it
    leaves what is known to contain θ, and at every fourth step, the middle of that in the logarithm is taken.
    """
    known = size > LEAST_SIZE
    count, largest = known.sum(axis=1), np.maximum(size.max(axis=1, initial=0.0), LEAST_SIZE)
    low, high = b[:, 0] / largest, (1 + b[:, 0]) / np.where(known, size, largest[:, None]).min(axis=1, initial=np.inf)
    theta = np.where(count == 0, 0.0, np.where(k >= count, high, low))
    rows = np.flatnonzero((k > 0) & (k < count))
    size, wanted, low, high, b = size[rows], k[rows], low[rows], high[rows], b[rows]
    found = (wanted + b[:, 0] * size.shape[1]) / size.sum(axis=1) if near is None else near[rows, 0]
    found = np.clip(found, low, high)
    for step in range(NEWTON_STEPS):
        t = found[:, None] * size - b
        share = np.clip(t, 0.0, 1.0)
        missing = wanted - share.sum(axis=1)
        theta[rows] = found
        going = np.abs(missing) > NEWTON_SHARE * wanted
        if not going.any():
            break
        low, high = np.where(missing > 0, found, low), np.where(missing > 0, high, found)
        slope = np.where(share == t, size, 0.0).sum(axis=1)
        found = found + np.divide(missing, slope, out=np.full_like(slope, np.inf), where=slope > 0)
        found = np.where((found > low) & (found < high) & (step % 4 < 3), found, np.sqrt(low) * np.sqrt(high))
        rows, size, wanted, low, high, b, found = (one[going] for one in (rows, size, wanted, low, high, b, found))
    return theta[:, None]


def _stretch(primal: Array, dual: Array, x: Array, y: Array) -> Array:
    """What ρ is multiplied by, (r, 1), to bring both residuals to the same size, relative to x and y."""
    of_primal, of_x, of_dual, of_y = (np.linalg.norm(a, axis=1, keepdims=True) for a in (primal, x, dual, y))
    above, below = of_primal * of_y, of_x * of_dual
    known = (above > 0) & (below > 0)
    ratio = np.sqrt(np.where(known, above, 1.0)) / np.sqrt(np.where(known, below, 1.0))
    ratio = np.clip(ratio, 1 / STRETCH, STRETCH)
    return np.where((ratio > LEAST_STRETCH) | (ratio < 1 / LEAST_STRETCH), ratio, 1.0)
