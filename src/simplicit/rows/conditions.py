r"""Coefficients are optimal where they meet these conditions, and at any point there are data under which it does.

With g = Φᵀ(z − Φw) and the penalty h(w) = p|w| + ½c((|w| − τ)₊)², coefficients w in the ball Σ aⱼ|wⱼ| ≤ κ (aⱼ = 0 off
it) are the solution of a row if and only if there is a μ with

    gⱼ = sⱼ(pⱼ + cⱼ(|wⱼ| − τⱼ)₊ + μaⱼ)      where wⱼ ≠ 0 has the sign sⱼ
    |gⱼ| ≤ pⱼ + μaⱼ                          where wⱼ = 0
    μ ≥ 0,   κ − Σ aⱼ|wⱼ| ≥ 0,               one of them zero: the ball is tight or slack.

Off the support p = ∞. On either side of τ the first line is linear: with the slope p and the curvature 0 up to it, with
p − cτ and c beyond,

    gⱼ = sⱼ(slope + μaⱼ) + curvature·wⱼ.

A homotopy (``polish``, ``homotopy``) begins at any w and μ, with gradients that make them optimal: those of the first
line where a column is in, and where it is not the true ones, as far as the second line lets them.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from simplicit.rows.problem import RowProblem
from simplicit.rows.tableau import Slots

#: Gradients start from below their limits by up to this share of them, staggered by multiples of the golden ratio. With
#: 1e-6 and 1e-2 the events of the family change by a hundredth.
STAGGER, GOLDEN = 1e-4, (1 + 5**0.5) / 2


class Conditions:
    """The conditions on the r rows and k columns of a problem are made of its penalty, support and ball.

    They have p, c and τ as ``kink``, ``curvature`` and ``threshold`` (r, k), a as ``ball`` (k,) and κ as ``radius``
    (r, 1). The columns ``free`` (r, k) are always in, for nothing holds them at zero, p = a = 0. Coefficients and
    gradients are (r, k) tensors, multipliers (r,).
    """

    def __init__(self, problem: RowProblem) -> None:
        self.kink, self.curvature, self.threshold = problem.penalty.expanded(problem.shape)
        if problem.allowed is not None:
            self.kink = torch.where(problem.allowed, self.kink, torch.inf)
        self.ball, self.radius = problem.ball_prices, problem.radius
        self.free = (self.kink == 0) & (self.ball == 0)
        self.has_ball, self.bends = bool(len(problem.ball_columns)), not problem.penalty.only_kinks
        # The limits differ by a hair, so that equal columns do not come in at once.
        multiples = GOLDEN * torch.arange(len(self.ball), device=self.ball.device, dtype=torch.float64)
        self._stagger = 1 - STAGGER * torch.remainder(multiples, 1.0)

    def active(self, w: Tensor) -> Tensor:
        """Say which columns are in, (r, k)."""
        return (w != 0) | self.free

    def limit(self, mu: Tensor) -> Tensor:
        """Return p + μa, (r, k)."""
        return torch.addcmul(self.kink, mu[:, None], self.ball) if self.has_ball else self.kink

    @cached_property
    def bending(self) -> Tensor:
        """The mask of these columns says where the penalty has two pieces, (r, k)."""
        return (self.curvature > 0) & (self.threshold > 0)

    def piece(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Say whether w is beyond the threshold, and return slope and c of h' = slope + c|w| on that piece."""
        bent = w.abs() >= self.threshold
        if not self.bends:
            return bent, self.kink, torch.zeros_like(w)
        c = torch.where(bent, self.curvature, 0.0)
        return bent, self.kink - c * self.threshold, c

    def optimal_gradient(self, w: Tensor, mu: Tensor) -> Tensor:
        """Return the gradients at which w is optimal, (r, k); they mean something on its support alone."""
        _, slope, c = self.piece(w)
        if self.has_ball:
            slope = torch.addcmul(slope, mu[:, None], self.ball)
        return slope * _side(w) + c * w

    def admissible_gradient(self, gradient: Tensor, mu: Tensor) -> Tensor:
        """Return gradients within the limits, from which columns at zero start: their own, as far as possible.

        Those beyond keep their order, so that they come in one after another, the worst first; and none is quite at
        its limit, each by another hair, so that equal columns do not come in at once.
        """
        limit = self.limit(mu) * self._stagger
        size = gradient.abs()
        ratio = torch.where((size > limit) & (limit > 0), size / limit, 1.0)
        worst = torch.where(ratio.isfinite(), ratio, 1.0).amax(1, keepdim=True) if ratio.shape[1] else ratio
        return torch.minimum(size, limit * ratio.clamp(max=worst) / worst.where(ratio > 1, 1.0)).copysign(gradient)

    @staticmethod
    def slot_gradient(slots: Slots, mu: Tensor) -> Tensor:
        """Return the gradients of watched columns, where active those at which they are optimal; (r, q)."""
        curvature = torch.where(slots.bent, slots.curvature, 0.0)
        slope = slots.kink - curvature * slots.threshold + slots.ball * mu[:, None]
        return torch.where(slots.active, slope * _side(slots.value) + curvature * slots.value, slots.value)

    def ball_value(self, w: Tensor, mu: Tensor, tight: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ where the ball is tight, else the slack; and what a tight one lacks of its radius; (r,) each."""
        if not self.has_ball:
            return torch.full_like(mu, torch.inf), torch.zeros_like(mu)
        room = self.radius[:, 0] - (w.abs() * self.ball).sum(1)
        return torch.where(tight, mu, room.clamp(min=0)), torch.where(tight, room, 0.0)

    def passed(self, w: Tensor, new: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Say which columns pass a zero that holds them on the way from w to ``new``, or else the bend; (r, k) each."""
        passed = (new * w < 0) & (self.limit(mu) > 0)
        if not self.bends:
            return passed, torch.zeros_like(passed)
        beyond = (new.abs() >= self.threshold) != (w.abs() >= self.threshold)
        return passed, beyond & ~passed & self.bending


def _side(value: Tensor) -> Tensor:
    """Return 1 or −1, also for a zero, whose sign says where it came from; the slope that it goes may be negative."""
    return torch.ones_like(value).copysign(value)
