r"""Perron-Frobenius eigenvalues of non-negative matrices, with bounds on both sides.

The states fall into classes that reach each other (strongly connected components); the eigenvalue of the whole is the
largest among the classes, each of which is irreducible. There, for any v > 0 (Collatz, Wielandt),

    minᵢ (N v)ᵢ/vᵢ <= λ_pf(N) <= maxᵢ (N v)ᵢ/vᵢ,

so that whatever finds v, the bounds hold. Sums of non-negative terms have small relative errors; the bounds are widened
by them, and so hold in floating point too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg.lapack import dgebal
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, eigs

from simplicit.errors import NotWellPosedError
from simplicit.implicit.maps import Csr

__all__ = ["Contraction", "PerronFrobenius", "contraction", "dominating", "ratios", "resolvent", "spectral_bounds"]

Vector = NDArray[np.float64]

# Up to this size a class is solved by Noda's iteration on dense matrices, above by power steps from ARPACK's vector.
_DENSE_SIZE = 1500
_NODA_STEPS = 60
_POWER_STEPS = 20_000
# Components of v, and balanced entries of N relative to the largest, stay above this, so that no product underflows.
_FLOOR = 1e-120


@dataclass(frozen=True)
class PerronFrobenius:
    """λ_pf(|A|) with ``lower`` <= λ_pf <= ``upper``; ``float()`` gives ``value``, a point between the bounds."""

    value: float
    lower: float
    upper: float

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Contraction:
    """s > 0, (n,), with maxᵢ sᵢ = 1, and ρ < 1, with N s <= ρ s."""

    s: Vector
    rho: float


def ratios(N: Csr, v: Vector) -> tuple[float, float]:
    """min and max of (N v)ᵢ/vᵢ for v > 0, widened by the rounding of the sums; (0, 0) for an empty matrix."""
    if not v.size:
        return 0.0, 0.0
    quotients = (N @ v) / v
    slack = (int(np.diff(N.indptr).max()) + 3) * np.finfo(np.float64).eps
    return max(0.0, float(quotients.min()) * (1.0 - slack)), float(quotients.max()) * (1.0 + slack)


def spectral_bounds(N: Csr, tol: float = 1e-12) -> PerronFrobenius:
    """λ_pf of a non-negative matrix, (n, n), with upper - lower <= tol · upper where floating point allows it."""
    _, labels = connected_components(N, directed=True, connection="strong")
    sizes = np.bincount(labels, minlength=1)
    diagonal = N.diagonal()
    # Classes of one state have its diagonal entry as eigenvalue: zero if it does not depend on itself.
    lower = upper = float(diagonal.max(initial=0.0))
    for members in _members(labels, sizes):
        part = N[members][:, members]
        if float(part.sum(axis=1).max()) <= lower:
            continue
        bounds = _irreducible_bounds(part, tol)
        lower, upper = max(lower, bounds[0]), max(upper, bounds[1])
    return PerronFrobenius(0.5 * (lower + upper) if lower < upper else lower, lower, upper)


def _members(labels: NDArray[np.integer], sizes: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """The states of every class of more than one."""
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return [members for members in by_class if members.size > 1]


def _irreducible_bounds(N: Csr, tol: float) -> tuple[float, float]:
    """Collatz-Wielandt bounds on λ_pf of an irreducible matrix of at least two states."""
    small = N.shape[0] <= _DENSE_SIZE
    # A similarity with powers of two, hence exact, that evens out rows and columns.
    scaled = sp.csr_array(dgebal(N.toarray(), scale=1, permute=0)[0]) if small else N.copy()
    exponent = int(np.frexp(scaled.data.max())[1])
    scaled.data = np.ldexp(scaled.data, -exponent)
    # Raising tiny entries keeps the upper bound valid, not the lower one.
    raised = bool((scaled.data < _FLOOR).any())
    scaled.data = np.maximum(scaled.data, _FLOOR)
    lower, upper = (_noda if small else _shifted_power)(scaled, tol)
    if raised:
        lower = float(scaled.diagonal().max())
    return float(np.ldexp(lower, exponent)), float(np.ldexp(upper, exponent))


def _noda(N: Csr, tol: float) -> tuple[float, float]:
    """Noda's iteration: v ← (ρ I - N)⁻¹ v with ρ = maxᵢ (N v)ᵢ/vᵢ, which stays positive and converges quadratically.

    T. Noda, "Note on the computation of the maximal eigenvalue of a non-negative irreducible matrix", 1971.
    """
    dense, identity = N.toarray(), np.eye(N.shape[0])
    v = np.ones(N.shape[0])
    lower, upper = ratios(N, v)
    for _ in range(_NODA_STEPS):
        if upper - lower <= tol * upper:
            break
        try:
            v = np.abs(np.linalg.solve(upper * identity - dense, v))
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(v).all():
            break
        v = np.maximum(v / v.max(), _FLOOR)
        low, high = ratios(N, v)
        if low <= lower and high >= upper:
            break
        lower, upper = max(lower, low), min(upper, high)
    return lower, upper


def _shifted_power(N: Csr, tol: float) -> tuple[float, float]:
    """Power steps with N + σ I, which is aperiodic, from the vector that ARPACK finds."""
    v = _arpack_vector(N)
    lower, upper = ratios(N, v)
    for _ in range(_POWER_STEPS):
        if upper - lower <= tol * upper:
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
        _, vectors = eigs(N, k=1, which="LR", v0=ones)
    except ArpackError:
        return ones
    v = np.abs(vectors[:, 0].real)
    positive: Vector = np.maximum(v / v.max(), np.finfo(np.float64).eps)
    return positive


def contraction(A: Csr, slopes: Vector | None = None) -> Contraction:
    """s and ρ for N = diag(L)|A|, chosen for few iterations.

    For τ above λ_pf, s = Σₖ (N/τ)ᵏ 1 is positive, reducible or not, and N s = τ (s - 1) < τ s. A τ close to λ_pf
    contracts best, but lets s spread over many magnitudes; among a few, the one with the smallest a-priori number of
    iterations to a ninth digit is taken. ρ is then measured on s as it came out.

    Raises
    ------
    NotWellPosedError
        λ_pf(N) >= 1, or not shown to be below 1.
    """
    N = dominating(A, slopes)
    bounds = spectral_bounds(N)
    found = [Contraction(np.ones(N.shape[0]), ratios(N, np.ones(N.shape[0]))[1])]
    if bounds.upper < 1.0:
        for fraction in (1.0 / 64.0, 1.0 / 8.0, 0.5, 1.0):
            tau = bounds.upper + fraction * (1.0 - bounds.upper)
            s = resolvent(N, tau)
            found.append(Contraction(s / s.max(), ratios(N, s)[1]))
    usable = [candidate for candidate in found if candidate.rho < 1.0]
    if not usable:
        raise not_well_posed(bounds)
    return min(usable, key=_iterations)


def dominating(A: Csr, slopes: Vector | None = None) -> Csr:
    """N = diag(L)|A| in float64; L = 1 if ``slopes`` is None."""
    N = sp.csr_array(abs(A), dtype=np.float64, copy=True)
    if slopes is not None:
        N.data *= np.repeat(slopes, np.diff(N.indptr))
    return N


def not_well_posed(bounds: PerronFrobenius) -> NotWellPosedError:
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


def resolvent(N: Csr, tau: float, tol: float = 0.0) -> Vector:
    """s = Σₖ (N/τ)ᵏ 1 for λ_pf(N) < τ; N s <= τ s, and s >= 1.

    A large N is summed term by term, until N s <= τ s holds and, for ``tol`` > 0, the terms are below ``tol`` · s.
    """
    ones = np.ones(N.shape[0])
    if N.shape[0] <= _DENSE_SIZE:
        return np.maximum(np.linalg.solve(np.eye(N.shape[0]) - N.toarray() / tau, ones), 1.0)
    s = ones
    for _ in range(_POWER_STEPS):
        following = 1.0 + N @ s / tau
        settled = tol == 0.0 or bool((following - s <= tol * following).all())
        s = following
        if settled and ratios(N, s)[1] <= tau:
            break
    return s
