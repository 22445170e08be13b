r"""Fixed points by Picard's iteration, with bounds that hold before and after.

Let N = diag(L)|A| and s > 0, ρ < 1 with N s <= ρ s (:class:`simplicit.implicit.spectral.Contraction`). Then

- x ← φ(A x + c) contracts by ρ in |e|_s = maxᵢ |eᵢ|/sᵢ, and
- ḡ ← x̄ + Aᵀ(φ'(z) ∘ ḡ), its adjoint, contracts by ρ in the dual norm Σᵢ sᵢ|eᵢ|,

so that in either norm |x* - x_t| <= ρᵗ/(1-ρ) |x₁ - x₀| (a priori) and <= ρ/(1-ρ) |x_t - x_{t-1}| (a posteriori), which
make the bound |A|ᵗ(I-|A|)⁻¹|x₁ - x₀| of Theorem 2.3 numbers.

Close to ρ = 1 the number of steps goes like 1/(1-ρ). The a-posteriori bound holds for x_t = F(y) with any y in place of
x_{t-1}; where the a-priori bound is large, y is taken from Newton's method, δ = (I - diag(φ'(z))A)⁻¹ (F(x) - x), if
that leaves less than the plain step would. The matrix is regular because λ_pf(N) < 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from simplicit.errors import ConvergenceError
from simplicit.implicit.plan import Plan
from simplicit.implicit.spectral import Contraction

#: Steps that no longer shrink are taken for rounding once they are below so many units in the last place: sums of n
#: terms err by about √n of them, and this is √4096.
NOISE_ULPS = 64.0
# Newton's method takes over after so many plain steps, or four for each state: about what one solve costs.
_PLAIN_STEPS, _PLAIN_STEPS_PER_STATE = 1_000, 4
# It converges quadratically, for piecewise linear φ in a few steps; more than this is a failure.
_NEWTON_STEPS = 50
# Above this size its dense solves are too slow; there, and where it stalls, plain steps go on up to this number.
_LARGEST_NEWTON, _LAST_PLAIN_STEP = 1_500, 50_000
# Its matrices, n² for each sample, are made for as many samples at a time as fit into so many numbers.
_NEWTON_NUMBERS = 2**24

Rows: TypeAlias = slice | Tensor
_ALL = slice(None)


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


@dataclass(frozen=True)
class _FixedPoint:
    """A problem x = F(x) for m samples: F, the norm in which it contracts by ρ, δ with (I - F') δ = difference at x.

    F and δ take the samples' ``rows`` as last argument.
    """

    advance: Callable[[Tensor, Rows], Tensor]
    norm: Callable[[Tensor], Tensor]
    newton: Callable[[Tensor, Tensor, Rows], Tensor]
    rho: float

    @property
    def gain(self) -> float:
        """The distance to the fixed point, relative to the last step, is at most this."""
        return self.rho / (1.0 - self.rho)


def picard(plan: Plan, contraction: Contraction, drive: Tensor, tol: float) -> StateSolution:
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
        slopes = plan.derivative(plan.product(X).add_(drive[rows])).matrix
        return _correction(plan, slopes, difference, transposed=False)

    problem = _FixedPoint(advance, norm, newton, contraction.rho)
    before, iterations, bound = _iterate(problem, plan.activate(drive), tol)
    Z = plan.product(before).add_(drive)
    X = plan.activate(Z)
    _mark_overflow_(X, norm(X - before))
    return StateSolution(Z, X, iterations, bound, (X - before).abs())


def picard_adjoint(plan: Plan, contraction: Contraction, slopes: Tensor, X_bar: Tensor) -> Tensor:
    """Z̄ = slopes ∘ (Z̄ A + X̄), to the resolution of the dtype relative to the first iterate, in Σᵢ sᵢ|ḡᵢ|.

    All are (m, n). ConvergenceError is raised as in :func:`picard`.
    """
    weights = torch.from_numpy(contraction.s)

    def advance(gradient: Tensor, rows: Rows) -> Tensor:
        return plan.transposed_product(gradient * slopes[rows]).add_(X_bar[rows])

    def norm(gradient: Tensor) -> Tensor:
        return gradient.abs().double() @ weights

    def newton(gradient: Tensor, difference: Tensor, rows: Rows) -> Tensor:
        return _correction(plan, slopes[rows], difference, transposed=True)

    before, *_ = _iterate(_FixedPoint(advance, norm, newton, contraction.rho), X_bar, 0.0)
    gradient = advance(before, _ALL)
    _mark_overflow_(gradient, norm(gradient - before))
    return gradient * slopes


def _mark_overflow_(X: Tensor, step: Tensor) -> None:
    """Overwrite with NaN the samples of X (m, n) whose iteration was given up because its steps (m,) left the range."""
    X[~torch.isfinite(step)] = math.nan


def _iterate(problem: _FixedPoint, first: Tensor, tol: float) -> tuple[Tensor, int, int]:
    """x_{t-1} with x₁ = ``first`` (x₀ = 0), t, and the t that suffices a priori."""
    eps, n = torch.finfo(first.dtype).eps, first.shape[1]
    previous, current, step = torch.zeros_like(first), first, problem.norm(first)
    # Not zero, also where the first step is so small that its square underflows.
    target = (eps * step).clamp(min=max(tol, torch.finfo(torch.float64).tiny))
    bound = _iterations_needed(step, target, problem.rho)
    last = _last_plain_step(bound, n)
    done = (problem.gain * step <= target) | ~torch.isfinite(step)
    iterations = 1
    while not bool(done.all()) and iterations < bound:
        if iterations >= last:
            if n <= _LARGEST_NEWTON and last < bound:
                rows = torch.nonzero(~done).flatten()
                previous[rows], steps, settled = _newton(problem, previous[rows], current[rows], target[rows], rows)
                iterations += steps
                if settled:
                    break
                current = problem.advance(previous, _ALL)
                step = problem.norm(current - previous)
            if bound > _LAST_PLAIN_STEP:
                raise _too_slow(problem.rho, bound, n)
            last = bound  # Newton's method stalled, but plain steps are still affordable
        following = problem.advance(current, _ALL)
        longer, step = step, problem.norm(following.sub(current))
        # A contraction shortens every step; one that grows at the level of rounding is nothing but rounding.
        stalled = (step >= longer) & (step <= NOISE_ULPS * eps * problem.norm(following))
        done |= (problem.gain * step <= target) | stalled | ~torch.isfinite(step)
        previous, current = current, following
        iterations += 1
    return previous, iterations, bound


def _last_plain_step(bound: int, n: int) -> int:
    if n > _LARGEST_NEWTON:
        return min(bound, _LAST_PLAIN_STEP)
    plain = max(_PLAIN_STEPS, _PLAIN_STEPS_PER_STATE * n)
    return bound if bound <= plain + _NEWTON_STEPS else plain


def _newton(problem: _FixedPoint, x: Tensor, image: Tensor, target: Tensor, rows: Tensor) -> tuple[Tensor, int, bool]:
    """From x with F(x) = ``image``, a point whose step is shorter, the steps taken, and whether it is short enough.

    Every step takes Newton's point or F(x), whichever F moves less, so that none is worse than a plain one.
    """
    eps = torch.finfo(x.dtype).eps
    step = problem.norm(image - x)
    for count in range(1, _NEWTON_STEPS + 1):
        better = x + problem.newton(x, image - x, rows)
        better_image, plain_image = problem.advance(better, rows), problem.advance(image, rows)
        better_step, plain_step = problem.norm(better_image - better), problem.norm(plain_image - image)
        choose = (better_step < plain_step)[:, None]
        following = torch.where(choose, better, image)
        following_image = torch.where(choose, better_image, plain_image)
        shortest = torch.where(choose[:, 0], better_step, plain_step)
        noise = shortest <= NOISE_ULPS * eps * problem.norm(following_image)
        done = (problem.gain * shortest <= target) | (noise & (shortest >= 0.5 * step)) | ~torch.isfinite(shortest)
        x, image, step = following, following_image, shortest
        if bool(done.all()):
            return x, count, True
    return x, _NEWTON_STEPS, False


def _correction(plan: Plan, slopes: Tensor, difference: Tensor, *, transposed: bool) -> Tensor:
    """Solve (I - diag(slopes) A) δ = difference for every sample, or with the transposed matrices; all are (m, n)."""
    n = difference.shape[1]
    A_transposed = plan.product(torch.eye(n, dtype=difference.dtype)).double()
    delta = torch.empty_like(difference)
    for rows in torch.split(torch.arange(difference.shape[0]), max(1, _NEWTON_NUMBERS // (n * n))):
        # The transpose of I - diag(slopes) A, one for each sample.
        matrices = torch.eye(n, dtype=torch.float64) - A_transposed * slopes[rows].double()[:, None, :]
        right = difference[rows].double()[:, :, None]
        # NumPy, which takes one sample after the other: torch 2.13 on two threads fails on some batches of 256 × 256.
        solved = np.linalg.solve((matrices if transposed else matrices.mT).numpy(), right.numpy())
        delta[rows] = torch.from_numpy(solved[:, :, 0]).to(delta.dtype)
    return delta


def _iterations_needed(first_step: Tensor, target: Tensor, rho: float) -> int:
    """The smallest t >= 1 with ρᵗ/(1-ρ) · first_step <= target for every sample that is finite."""
    moving = (first_step > 0) & torch.isfinite(first_step)
    if rho == 0.0 or not bool(moving.any()):
        return 1
    logarithm = float((target[moving].log() - first_step[moving].log()).min())
    return max(1, math.ceil((logarithm + math.log1p(-rho)) / math.log(rho)))


def _too_slow(rho: float, bound: int, n: int) -> ConvergenceError:
    return ConvergenceError(
        f"the equilibrium of this model takes too many steps: it contracts by only ρ = {rho:.9g} a step, so that "
        f"up to {bound} are needed, and Newton's method does not help with its {n} states; scale A down, train it "
        "with a smaller κ, or ask for a larger tol"
    )
