r"""Perron-Frobenius eigenvalues of non-negative matrices, with bounds on both sides.

The states fall into classes that reach each other (strongly connected components); the eigenvalue of the whole is the
largest among the classes, each of which is irreducible. There, for any v > 0 (Collatz, Wielandt),

    minᵢ (N v)ᵢ/vᵢ <= λ_pf(N) <= maxᵢ (N v)ᵢ/vᵢ,

so that whatever finds v, the bounds hold. Sums of non-negative terms have small relative errors; the bounds are widened
by them, and so hold in floating point too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, eigs, gmres

from simplicit.errors import ConvergenceError, NotWellPosedError
from simplicit.implicit.balancing import balanced, cheap_order, factor
from simplicit.implicit.maps import Csr

Vector = NDArray[np.float64]

# Bounds on λ_pf are brought together to this share of it, where floating point allows it.
_TOL = 1e-12
# Up to this size a class is solved on dense matrices, in well under a second a step.
_DENSE_SIZE = 1500
# Noda's iteration converges quadratically: ten steps are usual, 60 a safeguard.
_NODA_STEPS = 60
# Where no factorisation is cheap: ARPACK's restarts, then power steps, until either has had a few seconds.
_ARPACK_RESTARTS, _ARPACK_TOL = 50, 1e-10
_POWER_STEPS = 2_000
# Components of v, and balanced entries of N relative to the largest, stay above this: no product of two underflows.
_FLOOR = 1e-120
# Where no factorisation is cheap, GMRES to three digits more than are asked for; the resolvent is taken if it satisfies
# its equation to ``_RESIDUAL_TOL``, relative, in every entry.
_GMRES_TOL, _GMRES_RESTART, _GMRES_CYCLES, _SMOOTHING_STEPS = 1e-12, 50, 40, 3
_RESIDUAL_TOL = 1e-9
# Tried shares of the way from λ_pf to 1 for τ in :func:`contraction`.
_TAU_SHARES = (1.0 / 64.0, 1.0 / 8.0, 0.5, 1.0)


@dataclass(frozen=True)
class PerronFrobenius:
    """The number λ_pf(|A|), with ``lower`` <= λ_pf <= ``upper``; ``float()`` gives ``value``, between the bounds."""

    value: float
    lower: float
    upper: float

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Contraction:
    """A vector s > 0, (n,), with maxᵢ sᵢ = 1, and ρ < 1, such that N s <= ρ s."""

    s: Vector
    rho: float


def ratios(N: Csr, v: Vector) -> tuple[float, float]:
    """Min and max of (N v)ᵢ/vᵢ for v > 0, widened by the rounding of the sums; (0, 0) for an empty matrix.

    They are (0, inf) where a row that is not empty underflows or overflows: then the quotients say nothing.
    """
    if not v.size:
        return 0.0, 0.0
    with np.errstate(over="ignore", under="ignore"):
        products = N @ v
        quotients = products / v
    # With both in here no single term can have lost more than the slack allows for.
    smallest = np.minimum(products, quotients)[np.diff(N.indptr) > 0].min(initial=np.inf)
    largest = max(products.max(), quotients.max())
    if smallest < np.finfo(np.float64).tiny or not np.isfinite(largest):
        return 0.0, float("inf")
    slack = _slack(N)
    return max(0.0, float(quotients.min()) * (1.0 - slack)), float(quotients.max()) * (1.0 + slack)


def _slack(N: Csr) -> float:
    """What rounding can do to a sum over a row of N, relative to it."""
    return float((int(np.diff(N.indptr).max(initial=0)) + 3) * np.finfo(np.float64).eps)


def spectral_bounds(N: Csr) -> PerronFrobenius:
    """λ_pf of a non-negative matrix, (n, n), with upper - lower <= ``_TOL`` · upper if floating point allows it."""
    _, labels = connected_components(N, directed=True, connection="strong")
    # Classes of one state have its diagonal entry as eigenvalue: zero if it does not depend on itself.
    lower = upper = float(N.diagonal().max(initial=0.0))
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=1))[:-1])
    for members in classes:
        if members.size < 2:
            continue
        part = N[members][:, members]
        with np.errstate(over="ignore"):
            largest_sum = float(part.sum(axis=1).max())
        if largest_sum <= lower:
            # No eigenvalue above its largest row sum; that may have been rounded down to ``lower``.
            upper = max(upper, largest_sum * (1.0 + _slack(part)))
            continue
        low, high = _irreducible_bounds(part)
        lower, upper = max(lower, low), max(upper, high)
    return PerronFrobenius(0.5 * lower + 0.5 * upper if lower < upper else lower, lower, upper)


def _irreducible_bounds(N: Csr) -> tuple[float, float]:
    """Collatz-Wielandt bounds on λ_pf of an irreducible matrix of at least two states."""
    scaled, exponent = balanced(N, dense=N.shape[0] <= _DENSE_SIZE)
    # Raising tiny entries keeps the upper bound valid, not the lower one.
    raised = bool((scaled.data < _FLOOR).any())
    scaled.data = np.maximum(scaled.data, _FLOOR)
    solver = _shifted_solver(scaled)
    lower, upper = _shifted_power(scaled) if solver is None else _noda(scaled, solver)
    if raised:
        lower = float(scaled.diagonal().max())
    with np.errstate(over="ignore", under="ignore"):
        low, high = float(np.ldexp(lower, exponent)), float(np.ldexp(upper, exponent))
    tiny = np.finfo(np.float64).tiny
    # Subnormal bounds have been rounded; the next normal number is on the safe side.
    return (low if low >= tiny else 0.0), max(high, tiny)


def _shifted_solver(N: Csr) -> Callable[[float, Vector], Vector] | None:
    """(ρ, v) ↦ (ρ I - N)⁻¹ v, dense for small N, sparse where elimination is cheap, None otherwise."""
    if N.shape[0] <= _DENSE_SIZE:
        dense, identity = N.toarray(), np.eye(N.shape[0])
        return lambda rho, v: np.asarray(np.linalg.solve(rho * identity - dense, v))
    order = cheap_order(N)
    if order is None:
        return None
    banded, unit = N[order][:, order], sp.eye_array(N.shape[0], format="csr")

    def solve(rho: float, v: Vector) -> Vector:
        x = np.empty_like(v)
        x[order] = factor(sp.csr_array(rho * unit - banded)).solve(v[order])
        return x

    return solve


def _noda(N: Csr, solve: Callable[[float, Vector], Vector]) -> tuple[float, float]:
    """Iterate v ← (ρ I - N)⁻¹ v with ρ = maxᵢ (N v)ᵢ/vᵢ, which stays positive and converges quadratically (Noda).

    T. Noda, "Note on the computation of the maximal eigenvalue of a non-negative irreducible matrix", 1971.
    """
    v = np.ones(N.shape[0])
    lower, upper = ratios(N, v)
    for _ in range(_NODA_STEPS):
        if upper - lower <= _TOL * upper:
            break
        try:
            v = np.abs(solve(upper, v))
        except (np.linalg.LinAlgError, RuntimeError):  # exactly singular: ``upper`` is λ_pf to the last digit
            break
        if not np.isfinite(v).all() or not v.any():
            break
        v = np.maximum(v / v.max(), _FLOOR)
        low, high = ratios(N, v)
        if low <= lower and high >= upper:
            break
        lower, upper = max(lower, low), min(upper, high)
    return lower, upper


def _shifted_power(N: Csr) -> tuple[float, float]:
    """Take power steps with N + σ I, which is aperiodic, from the vector that ARPACK finds."""
    v = _arpack_vector(N)
    lower, upper = ratios(N, v)
    for _ in range(_POWER_STEPS):
        if upper - lower <= _TOL * upper:
            break
        v = N @ v + 0.5 * upper * v
        v = np.maximum(v / v.max(), _FLOOR)
        low, high = ratios(N, v)
        lower, upper = max(lower, low), min(upper, high)
    return lower, upper


def _arpack_vector(N: Csr) -> Vector:
    ones = np.ones(N.shape[0])
    try:
        # Among all eigenvalues λ_pf alone has the largest real part, also where N is periodic.
        _, vectors = eigs(N, k=1, which="LR", v0=ones, maxiter=_ARPACK_RESTARTS, tol=_ARPACK_TOL)
    except ArpackError:
        return ones
    v = np.abs(vectors[:, 0].real)
    return np.asarray(np.maximum(v / v.max(), np.finfo(np.float64).eps))


def contraction(A: Csr, slopes: Vector | None = None) -> Contraction:
    """Find s and ρ for N = diag(L)|A|, chosen for few iterations.

    For τ above λ_pf, s = Σₖ (N/τ)ᵏ 1 is positive, reducible or not, and N s = τ (s - 1) < τ s. A τ close to λ_pf
    contracts best, but lets s spread over many magnitudes; among a few, the one with the smallest a-priori number of
    iterations to a ninth digit is taken. ρ is then measured on s as it came out. NotWellPosedError is raised where
    λ_pf(N) was not shown to be below 1, ConvergenceError where it was, but no such s was found in floating point.
    """
    N = dominating(A, slopes)
    return best_contraction(N, spectral_bounds(N), lambda s: ratios(N, s)[1])


def best_contraction(N: Csr, bounds: PerronFrobenius, ratio: Callable[[Vector], float]) -> Contraction:
    """Find s and ρ as :func:`contraction` does, for a monotone map T with bounds on its eigenvalue.

    ``ratio`` bounds maxᵢ T(s)ᵢ/sᵢ from above; N is the matrix of T, or one that T is where it is largest.
    """
    vectors: list[Vector | None] = [np.ones(N.shape[0])]
    if bounds.upper < 1.0:
        vectors += [resolvent(N, bounds.upper + share * (1.0 - bounds.upper)) for share in _TAU_SHARES]
    units = [s / s.max(initial=1.0) for s in vectors if s is not None]
    found = [Contraction(s, ratio(s)) for s in units]
    usable = [candidate for candidate in found if candidate.rho < 1.0]
    if not usable and bounds.upper < 1.0:
        raise ConvergenceError(
            f"the model is well-posed, λ_pf(diag(L)|A|) <= {bounds.upper:.15g} < 1, but no s > 0 with diag(L)|A| s < s "
            "was found in float64, without which its equilibrium has no error bound: the states' units spread over too "
            "many magnitudes, or λ_pf is too close to 1; measure the states in comparable units, or scale A down"
        )
    if not usable:
        raise _not_well_posed(bounds)
    return min(usable, key=_iterations)


def dominating(A: Csr, slopes: Vector | None = None) -> Csr:
    """N = diag(L)|A| in float64; L = 1 if ``slopes`` is None."""
    N = sp.csr_array(abs(A), dtype=np.float64, copy=True)
    if slopes is not None:
        N.data *= np.repeat(slopes, np.diff(N.indptr))
    return N


def _not_well_posed(bounds: PerronFrobenius) -> NotWellPosedError:
    """The error that gives λ_pf and says what to do."""
    verdict = "is not below 1" if bounds.lower >= 1.0 else "could not be shown to be below 1"
    return NotWellPosedError(
        f"the model is not well-posed: λ_pf(diag(L)|A|) = {bounds.value:.6g} (between {bounds.lower:.15g} and "
        f"{bounds.upper:.15g}) {verdict}, so that the equilibrium may not exist or not be unique; scale A "
        "down, or train it with ‖A‖∞ <= κ < 1",
        lower=bounds.lower,
        upper=bounds.upper,
    )


def _iterations(candidate: Contraction) -> float:
    if candidate.rho == 0.0:
        return 0.0
    return float(np.log(1e-9 * (1.0 - candidate.rho) * candidate.s.min()) / np.log(candidate.rho))


def resolvent(N: Csr, tau: float) -> Vector | None:
    """s = Σₖ (N/τ)ᵏ 1 = (I - N/τ)⁻¹ 1 >= 1, (n,), for λ_pf(N) < τ, with 1 + N s / τ = s to nine digits.

    It is found by elimination where that is cheap, else by GMRES; None is returned where floating point or the number
    of steps did not suffice.
    """
    scaled = sp.csr_array(N / tau)
    solver = _shifted_solver(scaled)
    ones = np.ones(N.shape[0])
    try:
        with np.errstate(all="ignore"):
            s = _iterated(scaled) if solver is None else np.maximum(solver(1.0, ones), 1.0)
            rest = 1.0 + scaled @ s - s
            if solver is not None:
                s = np.maximum(s + solver(1.0, rest), 1.0)
                rest = 1.0 + scaled @ s - s
            return s if bool((np.abs(rest) <= _RESIDUAL_TOL * s).all()) else None
    except (np.linalg.LinAlgError, RuntimeError):
        return None


def _iterated(N: Csr) -> Vector:
    """(I - N)⁻¹ 1 by GMRES, whose steps do not grow with 1/(1 - λ_pf), smoothed by its own equation."""
    ones = np.ones(N.shape[0])
    system = sp.csr_array(sp.eye_array(N.shape[0], format="csr") - N)
    s = np.maximum(gmres(system, ones, rtol=_GMRES_TOL, restart=_GMRES_RESTART, maxiter=_GMRES_CYCLES)[0], 1.0)
    for _ in range(_SMOOTHING_STEPS):
        s = 1.0 + N @ s
    return np.asarray(s)
