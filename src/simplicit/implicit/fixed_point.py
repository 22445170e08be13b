r"""Fixed points x = F(x) of contractions, sample by sample: Picard's iteration, Newton's method and Anderson's mixing.

With |F(x) - F(y)| <= ρ |x - y| in a norm, |x* - F(y)| <= ρ/(1-ρ) |F(y) - y| holds for any y, so that every method stops
on a proof, and whatever it does before is sound. Steps that would leave more than the contraction promises are not
taken: then x ← F(x) is.

- *Picard*: x ← F(x). Close to ρ = 1 the number of steps goes like 1/(1-ρ); where it is large, Newton's method takes
  over.
- *Newton*: x ← x + δ, (I - F'(x)) δ = F(x) - x. The matrix is regular because F' contracts too.
- *Anderson* (Walker and Ni, *Anderson Acceleration for Fixed-Point Iterations*, SIAM J. Numer. Anal. 2011): of the last
  few residuals f = F(x) - x the combination that is least, in the weights of the norm, and F of the same combination.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from simplicit.errors import ConvergenceError, InputError

#: Steps that no longer shrink are taken for rounding once they are below so many units in the last place: sums of n
#: terms err by about √n of them, and this is √4096.
NOISE_ULPS = 64.0
# Newton's method takes over after so many plain steps, or four for each state: about what one solve costs.
_PLAIN_STEPS, _PLAIN_STEPS_PER_STATE = 1_000, 4
# It converges quadratically, for piecewise linear φ in a few steps; more than this is a failure.
_NEWTON_STEPS = 50
# Above this size its dense solves are too slow; there, and where it stalls, plain steps go on up to this number.
_LARGEST_NEWTON, _LAST_PLAIN_STEP = 1_500, 50_000
# Anderson's mixing combines so many points.
_MEMORY = 6
# Steps after which what is not proved to contract is given up.
_LONGEST_SEARCH = 2_000

Rows: TypeAlias = slice | Tensor
ALL = slice(None)


@dataclass(frozen=True)
class FixedPoint:
    """A problem x = F(x) for m samples: F, the norm in which it contracts by ρ, δ with (I - F') δ = difference at x.

    F and δ take the samples' ``rows`` as last argument. ``weights`` (n,) are those of the norm's single entries.
    """

    advance: Callable[[Tensor, Rows], Tensor]
    norm: Callable[[Tensor], Tensor]
    newton: Callable[[Tensor, Tensor, Rows], Tensor]
    rho: float
    weights: Tensor

    @property
    def gain(self) -> float:
        """The distance to the fixed point, relative to the last step, is at most this."""
        return self.rho / (1.0 - self.rho)


def by_picard(problem: FixedPoint, first: Tensor, tol: float) -> tuple[Tensor, int, int]:
    """x_{t-1} with x₁ = ``first`` (x₀ = 0), t, and the t that suffices a priori."""
    eps, n = torch.finfo(first.dtype).eps, first.shape[1]
    previous, current, step = torch.zeros_like(first), first, problem.norm(first)
    target, bound = _target(problem, first, tol)
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
                current = problem.advance(previous, ALL)
                step = problem.norm(current - previous)
            if bound > _LAST_PLAIN_STEP:
                raise _too_slow(problem.rho, bound, n)
            last = bound  # Newton's method stalled, but plain steps are still affordable
        following = problem.advance(current, ALL)
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


def _newton(problem: FixedPoint, x: Tensor, image: Tensor, target: Tensor, rows: Tensor) -> tuple[Tensor, int, bool]:
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


def _target(problem: FixedPoint, first: Tensor, tol: float) -> tuple[Tensor, int]:
    """What the error is to come down to in the norm, (m,), and the number of plain steps that suffices for it."""
    step, eps = problem.norm(first), torch.finfo(first.dtype).eps
    # Not zero, also where the first step is so small that its square underflows.
    target = (eps * step).clamp(min=max(tol, torch.finfo(torch.float64).tiny))
    return target, _iterations_needed(step, target, problem.rho)


def by_newton(problem: FixedPoint, first: Tensor, tol: float) -> tuple[Tensor, int, int]:
    """As :func:`by_picard`, by Newton's method from x₁ on; plain steps where it stalls."""
    n = first.shape[1]
    if n > _LARGEST_NEWTON:
        raise InputError(
            f"method 'newton' solves a dense system for every sample, with up to {_LARGEST_NEWTON:,} states, and this "
            f"model has a cycle of {n:,}; take 'anderson' or 'picard'",
            argument="method",
        )
    target, bound = _target(problem, first, tol)
    every = torch.arange(len(first))
    x, steps, settled = _newton(problem, torch.zeros_like(first), first, target, every)
    if settled:
        return x, 1 + steps, bound
    before, more, _ = by_picard(problem, first, tol)
    return before, 1 + steps + more, bound


def by_anderson(problem: FixedPoint, first: Tensor, tol: float) -> tuple[Tensor, int, int]:
    """As :func:`by_picard`, by Anderson's mixing; t counts evaluations of F."""
    eps = torch.finfo(first.dtype).eps
    target, bound = _target(problem, first, tol)
    x, image, step = torch.zeros_like(first), first.clone(), problem.norm(first)
    done = (problem.gain * step <= target) | ~torch.isfinite(step)
    history, plain = _History(problem.weights, len(first)), torch.zeros(len(first), dtype=torch.bool)
    history.add(x, image, torch.arange(len(first)))
    iterations, last = 1, min(2 * bound + 1, _LAST_PLAIN_STEP)
    while not bool(done.all()):
        if iterations >= last:
            raise _too_slow(problem.rho, bound, first.shape[1])
        rows = torch.nonzero(~done).flatten()
        mixed = torch.where(plain[rows, None], image[rows], history.mixed(rows, image[rows]))
        found = problem.advance(mixed, rows)
        iterations += 1
        after = problem.norm(found - mixed)
        # Plain steps are as good as the contraction says, but for rounding.
        taken = (after <= problem.rho * step[rows]) | plain[rows] | ~torch.isfinite(after)
        noise = plain[rows] & (after >= step[rows]) & (after <= NOISE_ULPS * eps * problem.norm(found))
        at = rows[taken]
        x[at], image[at], step[at] = mixed[taken], found[taken], after[taken]
        history.add(x[at], image[at], at)
        done[rows] |= (problem.gain * step[rows] <= target[rows]) | ~torch.isfinite(step[rows]) | noise
        plain[rows] = ~taken
    return x, iterations, bound


def settled(advance: Callable[[Tensor], Tensor], first: Tensor, tol: float = 1e-10) -> Tensor:
    """A point that F leaves as it is to ``tol``, relative to the largest entry of a sample, from x₁ = ``first`` on.

    Nothing is proved: neither that there is no other, nor how far it is. ConvergenceError is raised where Anderson's
    mixing does not come to rest.
    """
    x, image = torch.zeros_like(first), first.clone()
    history = _History(torch.ones(first.shape[1], dtype=torch.float64), len(first))
    every = torch.arange(len(first))
    for _ in range(_LONGEST_SEARCH):
        residual, size = (image - x).abs().amax(dim=1), image.abs().amax(dim=1)
        if bool((residual <= tol * (1.0 + size)).all()):
            return image
        if not bool(torch.isfinite(residual).all()):
            break
        history.add(x, image, every)
        x = history.mixed(every, image)
        image = advance(x)
    raise ConvergenceError(
        f"the states do not come to rest: after {_LONGEST_SEARCH} steps one of them still moves by "
        f"{float((image - x).abs().max()):.3g}; scale the weights on the state down"
    )


class _History:
    """The last few points and images of m samples, each with as many as it has had."""

    def __init__(self, weights: Tensor, samples: int) -> None:
        self._weights, self._filled = weights, torch.zeros(samples, dtype=torch.int64)
        self._residuals: Tensor | None = None
        self._images: Tensor | None = None

    def add(self, x: Tensor, image: Tensor, rows: Tensor) -> None:
        """Remember F(x) = ``image`` of some samples, in the place of what is oldest."""
        if self._residuals is None or self._images is None:
            shape = (len(self._filled), _MEMORY, x.shape[1])
            self._residuals, self._images = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        place = self._filled[rows] % _MEMORY
        self._residuals[rows, place] = (image - x).double() * self._weights
        self._images[rows, place] = image.double()
        self._filled[rows] += 1

    def mixed(self, rows: Tensor, image: Tensor) -> Tensor:
        """The combination of images whose residuals sum to the least, with coefficients that sum to one."""
        assert self._residuals is not None
        assert self._images is not None
        F, known = self._residuals[rows], torch.arange(_MEMORY) < self._filled[rows, None]
        gram = F @ F.mT
        scale = torch.where(known, gram.diagonal(dim1=1, dim2=2), 0.0).sum(dim=1)[:, None, None]
        floor = torch.finfo(torch.float64).tiny
        system = gram / scale.clamp(min=floor) + 1e-14 * torch.eye(_MEMORY, dtype=torch.float64)
        # What is not known yet has no part.
        both = known[:, :, None] & known[:, None, :]
        system = torch.where(both, system, torch.eye(_MEMORY, dtype=torch.float64))
        solved = torch.linalg.solve_ex(system, known.double()[:, :, None])[0][:, :, 0]
        coefficients = solved / solved.sum(dim=1, keepdim=True)
        found = (coefficients[:, None, :] @ self._images[rows])[:, 0].to(image.dtype)
        return torch.where(torch.isfinite(found).all(dim=1, keepdim=True), found, image)


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


#: How a fixed point is found, by name.
METHODS: dict[str, Callable[[FixedPoint, Tensor, float], tuple[Tensor, int, int]]] = {
    "picard": by_picard,
    "newton": by_newton,
    "anderson": by_anderson,
}
