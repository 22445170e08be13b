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

A bound of 0.8 of the error says that no other support is better by more than a fifth. A low one need not mean that
there is a better support: the smaller α, which is the ridge where columns are dependent, the looser (P). What rounding
may have done to H is taken off the bound: ε·tr(H)·‖w‖², where α‖w‖² is at most the error at w = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simplicit.machine import one_thread_each
from simplicit.rows import Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.problem import LeastSquares

#: The bound is sought until the rows' relaxations are known to this share of their errors, or so many steps.
TOLERANCE, STEPS, EVERY = 0.01, 200, 10
#: What of a row's energy counts as no error, for that.
NOISE = 1e-8
#: Nor any further than until no row's can come to more than this share of its error.
WORTHLESS = 0.02
#: Over-relaxation of ADMM; the most that ρ changes by at a time, and the least change that is made.
RELAXATION, STRETCH, LEAST_STRETCH = 1.6, 5.0, 1.5
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
        problem.gram[np.ix_(columns, columns)],
        problem.cross[:, columns],
        np.count_nonzero(start, axis=1),
        problem.support[:, columns],
        problem.rounding,
    )
    scale = solution.objective / weight + NOISE * problem.energy
    bound = np.full(len(start), -np.inf)
    with one_thread_each():
        rounded = problem.energy * (1 - rows.rounding / rows.alpha)
        worthless = WORTHLESS * scale - rounded
        # The error itself is the most that a bound comes to.
        sought = scale - problem.energy > worthless
        if sought.any():
            bound[sought] = rows.of(sought).least_of_size(start[sought], scale[sought], worthless[sought])
    least_error = weight * np.maximum(rounded + bound, 0.0)
    gap = np.maximum(solution.objective - least_error, 0.0)
    # Where all columns are in there is no choice, and no error is below zero.
    known = np.minimum(solution.dual_gap, solution.objective)
    return replace(solution, cardinality_gap=np.where(rows.k >= rows.allowed.sum(axis=1), known, gap))


@dataclass(frozen=True, eq=False)
class _Rows:
    """(P) of r rows: H (d, d), c (r, d), k (r,), where a row may have columns, (r, d), and ε."""

    H: Array
    c: Array
    k: Index
    allowed: Mask
    epsilon: float

    def of(self, chosen: Mask) -> _Rows:
        """Some of the rows, (r,)."""
        rows = replace(self, c=self.c[chosen], k=self.k[chosen], allowed=self.allowed[chosen])
        rows.__dict__["eigen"] = self.eigen
        return rows

    @cached_property
    def eigen(self) -> tuple[Array, Array]:
        """Eigenvalues of H in increasing order, and eigenvectors."""
        values, vectors = np.linalg.eigh(self.H)
        return values, vectors

    @property
    def rounding(self) -> float:
        """How far rounding can move an eigenvalue."""
        return float(self.epsilon * np.trace(self.H))

    @property
    def alpha(self) -> float:
        """The least eigenvalue of H, but no less than what rounding can move it by."""
        return max(float(self.eigen[0][0]), self.rounding, TINY)

    def dual(self, v: Array, Gv: Array) -> Array:
        """The value of (D) at v, (r,)."""
        squares = np.where(self.allowed, np.square(self.c - Gv), 0.0)
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
        alpha, (eigenvalues, U) = self.alpha, self.eigen
        G = self.H.copy()
        G[np.diag_indices_from(G)] -= alpha
        eigenvalues, rotated = np.maximum(eigenvalues - alpha, 0.0), self.c @ U
        rho = np.full((len(start), 1), 2 * np.sqrt(alpha * max(float(eigenvalues.mean()), alpha)))
        # With all columns in, there is no less.
        lower = -(np.square(rotated) / (eigenvalues + alpha)).sum(axis=1)
        upper, x, y = np.zeros(len(start)), start.copy(), np.zeros_like(start)
        for step in range(1, STEPS + 1):
            w = ((2 * rotated + rho * ((x - y) @ U)) / (2 * eigenvalues + rho)) @ U.T
            before, relaxed = x, RELAXATION * w + (1 - RELAXATION) * x
            x, t = _prox(relaxed + y, self.k, self.allowed, 2 * alpha / rho)
            y = y + relaxed - x
            if step % EVERY == 0:
                Gx = x @ G
                lower = np.maximum(lower, np.maximum(self.dual(w, w @ G), self.dual(x, Gx)))
                upper = np.minimum(upper, self.primal(x, Gx, t))
                if bool(np.all((upper - lower <= TOLERANCE * scale) | (upper <= worthless))):
                    break
                stretch = _stretch(w - x, rho * (x - before), x, rho * y)
                rho, y = rho * stretch, y / stretch
        return np.asarray(lower)


def _prox(z: Array, k: Index, allowed: Mask, b: Array) -> tuple[Array, Array]:
    """x and t, (r, d) both."""
    size = np.where(allowed, np.abs(z), 0.0)
    t = np.clip(_slope(size, k, b) * size - b, 0.0, 1.0)
    return np.asarray(z * (t / (t + b))), np.asarray(t)


def _slope(size: Array, k: Index, b: Array) -> Array:
    """θ with Σⱼ clip(θ·sizeⱼ − b, 0, 1) = k, (r, 1), exactly: the sum is piecewise linear, and grows, in θ.

    Where so many columns are not zero, the least θ that has all of them in.
    """
    inverse = np.divide(1.0, size, out=np.full_like(size, np.inf), where=size > TINY)
    knots = np.concatenate([b * inverse, (1 + b) * inverse], axis=1)
    order = np.argsort(knots, axis=1, kind="stable")
    knots = np.take_along_axis(knots, order, axis=1)
    slopes = np.cumsum(np.take_along_axis(np.concatenate([size, -size], axis=1), order, axis=1), axis=1)
    finite = np.isfinite(knots)
    knots = np.where(finite, knots, np.where(finite, knots, 0.0).max(axis=1, keepdims=True))
    sums = np.cumsum(slopes[:, :-1] * np.diff(knots, axis=1), axis=1)
    at = (sums < k[:, None]).sum(axis=1, keepdims=True)  # the piece in which the sum comes to k
    sums = np.concatenate([np.zeros_like(b), sums], axis=1)
    left, slope, last = (np.take_along_axis(a, np.minimum(at, a.shape[1] - 1), axis=1) for a in (knots, slopes, sums))
    missing = np.maximum(k[:, None] - last, 0.0)
    return np.asarray(left + np.divide(missing, slope, out=np.zeros_like(left), where=slope > 0))


def _stretch(primal: Array, dual: Array, x: Array, y: Array) -> Array:
    """What ρ is multiplied by, (r, 1), to bring both residuals to the same size, relative to x and y."""
    of_primal, of_x, of_dual, of_y = (np.linalg.norm(a, axis=1, keepdims=True) for a in (primal, x, dual, y))
    above, below = of_primal * of_y, of_x * of_dual
    known = (above > 0) & (below > 0)
    ratio = np.sqrt(np.where(known, above, 1.0)) / np.sqrt(np.where(known, below, 1.0))
    ratio = np.clip(ratio, 1 / STRETCH, STRETCH)
    return np.where((ratio > LEAST_STRETCH) | (ratio < 1 / LEAST_STRETCH), ratio, 1.0)
