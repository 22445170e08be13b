r"""Fixed points of the state equation and of its adjoint, with bounds that hold before and after.

Let N = diag(L)|A| and s > 0, ρ < 1 with N s <= ρ s (:class:`simplicit.implicit.spectral.Contraction`), or for loops
through blocks T(s) <= ρ s (:mod:`simplicit.implicit.blockwise`). Then

- x ← φ(A x + c) contracts by ρ in |e|_s = maxᵢ |eᵢ|/sᵢ, and
- ḡ ← x̄ + Aᵀ (∂φ/∂z)ᵀ ḡ, its adjoint, contracts by ρ in the dual norm Σᵢ sᵢ|eᵢ|,

so that in either norm |x* - x_t| <= ρᵗ/(1-ρ) |x₁ - x₀| (a priori) and <= ρ/(1-ρ) |x_t - x_{t-1}| (a posteriori), which
make the bound |A|ᵗ(I-|A|)⁻¹|x₁ - x₀| of Theorem 2.3 numbers. How it is iterated is
:mod:`~simplicit.implicit.fixed_point`'s affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit.fixed_point import ALL, METHODS, FixedPoint, Rows, by_picard
from simplicit.implicit.plan import Plan, Slopes
from simplicit.implicit.spectral import Contraction

# Newton's matrices, n² for each sample, are made for as many samples at a time as fit into so many numbers.
_NEWTON_NUMBERS = 2**24


@dataclass(frozen=True)
class StateSolution:
    """The pre-activations Z and states X = φ(Z), (m, n), in the plan's working order, and how they were found.

    ``step`` is |x_t - x_{t-1}|, (m, n), of the last step of the iteration; None after a substitution. ``iterations`` is
    t, ``iteration_bound`` the t that suffices a priori.
    """

    Z: Tensor
    X: Tensor
    iterations: int = 0
    iteration_bound: int | None = None
    step: Tensor | None = None


def picard(plan: Plan, contraction: Contraction, drive: Tensor, tol: float, method: str = "picard") -> StateSolution:
    """Iterate x ← φ(A x + drive) from x₀ = 0 until the a-posteriori bound on maxᵢ|x*ᵢ - xᵢ| is at most ``tol``.

    A tolerance below the resolution of the dtype, relative to |x₁|_s, is raised to it, so that the a-priori number of
    iterations stays meaningful; at that number the iteration stops in any case. ConvergenceError is raised where ρ is
    too close to 1 for the size of the model.
    """
    inverse = torch.from_numpy(1.0 / contraction.s)

    def advance(X: Tensor, rows: Rows) -> Tensor:
        return plan.activate(plan.product(X).add_(drive[rows]))

    def norm(X: Tensor) -> Tensor:
        return (X.abs().double() * inverse).amax(dim=1)

    def newton(X: Tensor, difference: Tensor, rows: Rows) -> Tensor:
        slopes = plan.derivative(plan.product(X).add_(drive[rows]))
        return _correction(plan, slopes, difference, transposed=False)

    problem = FixedPoint(advance, norm, newton, contraction.rho, inverse)
    before, iterations, bound = METHODS[method](problem, plan.activate(drive), tol)
    Z = plan.product(before).add_(drive)
    X = plan.activate(Z)
    _mark_overflow_(X, norm(X - before))
    return StateSolution(Z, X, iterations, bound, (X - before).abs())


def picard_adjoint(plan: Plan, contraction: Contraction, slopes: Slopes, X_bar: Tensor) -> Tensor:
    """Z̄ = (∂φ/∂z)ᵀ (Z̄ A + X̄), to the resolution of the dtype relative to the first iterate, in Σᵢ sᵢ|ḡᵢ|.

    X̄ is (m, n), Z̄ (m, n_pre). ConvergenceError is raised as in :func:`picard`.
    """
    weights = torch.from_numpy(contraction.s)

    def advance(gradient: Tensor, rows: Rows) -> Tensor:
        there = slopes if rows is ALL else slopes.samples(rows)
        return plan.transposed_product(there.back(gradient)).add_(X_bar[rows])

    def norm(gradient: Tensor) -> Tensor:
        return gradient.abs().double() @ weights

    def newton(gradient: Tensor, difference: Tensor, rows: Rows) -> Tensor:
        return _correction(plan, slopes.samples(rows), difference, transposed=True)

    before, *_ = by_picard(FixedPoint(advance, norm, newton, contraction.rho, weights), X_bar, 0.0)
    gradient = advance(before, ALL)
    _mark_overflow_(gradient, norm(gradient - before))
    return slopes.back(gradient)


def _mark_overflow_(X: Tensor, step: Tensor) -> None:
    """Overwrite with NaN the samples of X (m, n) whose iteration was given up because its steps (m,) left the range."""
    X[~torch.isfinite(step)] = math.nan


def _correction(plan: Plan, slopes: Slopes, difference: Tensor, *, transposed: bool) -> Tensor:
    """Solve (I - (∂φ/∂z) A) δ = difference for every sample, or with the transposed matrices; all are (m, n)."""
    n = difference.shape[1]
    A = plan.product(torch.eye(n, dtype=difference.dtype)).double().T
    delta = torch.empty_like(difference)
    for rows in torch.split(torch.arange(difference.shape[0]), max(1, _NEWTON_NUMBERS // (n * n))):
        matrices = torch.eye(n, dtype=torch.float64) - slopes.samples(rows).times(A)
        right = difference[rows].double()[:, :, None]
        # NumPy, which takes one sample after the other: torch 2.13 on two threads fails on some batches of 256 × 256.
        solved = np.linalg.solve((matrices.mT if transposed else matrices).numpy(), right.numpy())
        delta[rows] = torch.from_numpy(solved[:, :, 0]).to(delta.dtype)
    return delta
