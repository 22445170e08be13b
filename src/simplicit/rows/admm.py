r"""Over-relaxed ADMM on a whole block of rows at once: from anywhere to nearly the right support.

Split w = y with the metric R = ρ diag(G), in which every column counts alike whatever its unit:

    x ← (G + R)⁻¹ (c + R (y − u)),   x̂ = αx + (1 − α)y,   y ← prox_{R⁻¹(h/2λ + ball)}(x̂ + u),   u ← u + x̂ − y

One factorisation of G + R serves all rows and all iterations, so that an iteration is one matrix product. ρ follows the
balance of primal and dual residuals (Boyd et al. 2011, §3.4.1) on a grid, so that blocks meet at the same values and
share the inverses. ``y`` is feasible and has exact zeros: it, and not an average, is what the polish starts from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simplicit.rows.ball import ball_multiplier
from simplicit.rows.penalties import Penalty
from simplicit.rows.problem import RowProblem

__all__ = ["admm"]

RELAXATION = 1.6
FIRST_RHO = 10.0**-1.5
CHECK_EVERY = 10
#: Share of the signs that may still change between two checks when the polish takes over. Measured on Fashion-MNIST:
#: from .002 to .01 makes no difference in time, .04 leaves hard problems twice as much to polish.
SETTLED = 0.003
#: A smaller ρ would leave G + ρ diag(G) singular to working precision.
LEAST_RHO = 1e-9


def admm(
    problem: RowProblem[Penalty], start: Tensor | None = None, *, iterations: int = 300, tol: float = 1e-3
) -> Tensor:
    """Approximate minimisers of a block of row problems.

    Parameters
    ----------
    problem : RowProblem
    start : (r, k) tensor, optional
        Coefficients to begin from.
    iterations : int
        At most so many.
    tol : float
        Stop when the relative primal and dual residuals of every row are below it, or when the signs have settled: the
        polish needs the support and not the digits.

    Returns
    -------
    (r, k) tensor
        Feasible, with exact zeros.
    """
    design, rho = problem.design, FIRST_RHO
    curvature, root = design.curvature, design.curvature.sqrt()
    y = torch.zeros(problem.shape, dtype=torch.float64) if start is None else start.clone()
    u = torch.zeros_like(y) if start is None else (problem.cross - y @ design.gram) / (rho * curvature)
    inverse, pattern = design.ridge_inverse(rho), y.sign()
    for iteration in range(1, iterations + 1):
        x = (problem.cross + (rho * curvature) * (y - u)) @ inverse
        v = torch.lerp(y, x, RELAXATION).add_(u)
        previous, y = y, _prox(problem, v, 1 / (rho * curvature))
        u = v - y
        if iteration % CHECK_EVERY:
            continue
        size = torch.maximum((x * root).norm(dim=1), (y * root).norm(dim=1))
        primal = ((x - y) * root).norm(dim=1) / size.clamp(min=1e-300)
        dual = ((y - previous) * root).norm(dim=1) / (u * root).norm(dim=1).clamp(min=1e-300)
        signs = y.sign()
        changed, pattern = (signs != pattern).sum(), signs
        if int(changed) <= SETTLED * int(signs.count_nonzero()) or float(torch.maximum(primal, dual).max()) <= tol:
            break
        change = _rebalance(float(primal.median()), float(dual.median()))
        if change != 1.0:
            new = max(10 ** (round(4 * math.log10(rho * change)) / 4), LEAST_RHO)
            u, rho = u * (rho / new), new
            inverse = design.ridge_inverse(rho)
    return y


def _rebalance(primal: float, dual: float) -> float:
    """The factor on ρ, a power of 10^(1/4), that evens out the two residuals; 1 while they are within a factor of 4."""
    ratio = math.sqrt(max(primal, 1e-12) / max(dual, 1e-12))
    if 0.5 < ratio < 2:
        return 1.0
    return float(10.0 ** (round(4 * math.log10(min(max(ratio, 0.1), 10.0))) / 4))


def _prox(problem: RowProblem[Penalty], v: Tensor, step: Tensor) -> Tensor:
    """prox of h/(2λ) + ball + support in the metric 1/step."""
    y = problem.penalty.prox(v, step / (2 * problem.weight))
    if problem.allowed is not None:
        y *= problem.allowed
    if len(problem.ball_columns):
        inside = y[:, problem.ball_columns]
        size = inside.abs()
        if bool((size.sum(1, keepdim=True) > problem.radius).any()):
            steps = step[:, problem.ball_columns]
            mu = ball_multiplier(size, steps, problem.radius)
            y[:, problem.ball_columns] = torch.nn.functional.relu(size - mu * steps).copysign(inside)
    return y
