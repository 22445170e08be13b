r"""Fixed points by Picard's iteration, with bounds that hold before and after.

Let N = diag(L)|A| and s > 0, ρ < 1 with N s <= ρ s (:class:`simplicit.implicit.spectral.Contraction`). Then

- x ← φ(A x + c) contracts by ρ in |e|_s = maxᵢ |eᵢ|/sᵢ, and
- ḡ ← x̄ + Aᵀ(φ'(z) ∘ ḡ), its adjoint, contracts by ρ in the dual norm Σᵢ sᵢ|eᵢ|,

so that in either norm |x* - x_t| <= ρᵗ/(1-ρ) |x₁ - x₀| (a priori) and <= ρ/(1-ρ) |x_t - x_{t-1}| (a posteriori). The
second is never larger than the first, and both refine the bound |A|ᵗ(I-|A|)⁻¹|x₁ - x₀| of Theorem 2.3 into numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.implicit.plan import Plan
from simplicit.implicit.spectral import Contraction

__all__ = ["FixedPoint", "picard", "picard_adjoint"]

# Steps that no longer shrink are taken for rounding once they are below so many units in the last place.
_NOISE_ULPS = 64.0


@dataclass(frozen=True)
class FixedPoint:
    """Where an iteration stopped.

    Z, X : (m, n), with X = φ(Z). step : (m,), |x_t - x_{t-1}|_s. iterations : t. iteration_bound : the a-priori t.
    """

    Z: Tensor
    X: Tensor
    step: Tensor
    iterations: int
    iteration_bound: int


def picard(plan: Plan, contraction: Contraction, drive: Tensor, tol: float) -> FixedPoint:
    """x ← φ(A x + drive) from x₀ = 0 until the a-posteriori bound on maxᵢ|x*ᵢ - xᵢ| is at most ``tol``.

    A tolerance below the resolution of the dtype, relative to |x₁|_s, is raised to it, so that the a-priori number of
    iterations stays meaningful; at that number the iteration stops in any case.
    """
    inverse = torch.from_numpy(1.0 / contraction.s)
    Z = drive

    def advance(X: Tensor) -> Tensor:
        nonlocal Z
        Z = plan.product(X).add_(drive)
        return plan.activate(Z)

    def norm(X: Tensor) -> Tensor:
        return (X.abs().double() * inverse).amax(dim=1)

    X, step, iterations, bound = _iterate(advance, norm, plan.activate(drive), tol, contraction.rho)
    return FixedPoint(Z, X, step, iterations, bound)


def picard_adjoint(plan: Plan, contraction: Contraction, slopes: Tensor, X_bar: Tensor) -> Tensor:
    """Z̄ = slopes ∘ (Z̄ A + X̄), to the resolution of the dtype relative to the first iterate, in Σᵢ sᵢ|ḡᵢ|."""
    weights = torch.from_numpy(contraction.s)

    def advance(gradient: Tensor) -> Tensor:
        return plan.transposed_product(gradient * slopes).add_(X_bar)

    def norm(gradient: Tensor) -> Tensor:
        return gradient.abs().double() @ weights

    gradient, *_ = _iterate(advance, norm, X_bar, 0.0, contraction.rho)
    return gradient * slopes


def _iterate(
    advance: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor], first: Tensor, tol: float, rho: float
) -> tuple[Tensor, Tensor, int, int]:
    """x_t from x₁ = ``first`` (x₀ = 0), with the norm of its last step, t, and the t that suffices a priori."""
    eps = torch.finfo(first.dtype).eps
    gain = rho / (1.0 - rho)
    current, step = first, norm(first)
    target = (eps * step).clamp(min=tol)
    bound = _iterations_needed(step, target, rho)
    done = gain * step <= target
    iterations = 1
    while iterations < bound and not bool(done.all()):
        following = advance(current)
        previous, step = step, norm(following.sub(current))
        # A contraction shortens every step; one that grows at the level of rounding is nothing but rounding.
        stalled = (step >= previous) & (step <= _NOISE_ULPS * eps * norm(following))
        done |= (gain * step <= target) | stalled
        current = following
        iterations += 1
    return current, step, iterations, bound


def _iterations_needed(first_step: Tensor, target: Tensor, rho: float) -> int:
    """The smallest t >= 1 with ρᵗ/(1-ρ) · first_step <= target for every sample."""
    moving = first_step > 0
    if rho == 0.0 or not bool(moving.any()):
        return 1
    ratio = float((target[moving] / first_step[moving]).min())
    return max(1, math.ceil((math.log(ratio) + math.log1p(-rho)) / math.log(rho)))
