r"""The dual of a block of row problems proves a duality gap of coefficients, row by row.

The dual of P in ``problem`` is, for θ ∈ Rᵐ and μ ≥ 0,

    D(θ, μ) = zᵀθ − ½‖θ‖² − κμ − Σ_{j∈J} h*((|vⱼ| − μaⱼ)₊) − Σ_{j∉J} h*(vⱼ),   v = Φᵀθ on the support

and D(θ, μ) ≤ P(w) for every feasible w, θ and μ ≥ 0. With θ = t(z − Φw), v = t·g, g = Φᵀ(z − Φw), their difference is

    gap(t, μ) = ½(1 − t)²‖z − Φw‖² + Σⱼ [h(wⱼ) + h*((|vⱼ| − μaⱼ)₊) − vⱼwⱼ] + κμ,

which never subtracts one large objective from another, so that small gaps are not lost to rounding. The certificate is
the least of a few choices: t as large as h* allows on all columns and μ = 0, best where the ball is slack; t as large
as the columns outside the ball allow, with the μ that the columns inside it then need, or with that of the polish.
Where h* is finite everywhere but steep, t is also tried at the kink. Everything here is float64.

A column without any penalty asks of the dual that vⱼ = 0 exactly, which no rounded number meets; there vⱼ counts as
zero up to 1e-12·‖z − Φw‖ + 1e-15·‖z‖, as if the column had a kink of that size. So does one whose kink is smaller than
that, which rounding cannot tell from none.

Products of columns of norms near 1 round v by some 1e-16·(‖z‖ + ‖w‖₂), and with it the gap by that times ‖w‖₁. A gap
above this, and above what those least kinks cost, is real, and is compared with the objective alone; below it a
tolerance that is relative to an objective near zero could not be met, and there the gap is compared with a share of
½‖z‖².
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from simplicit.rows.batch import Batch
from simplicit.rows.penalties import PiecewiseQuadratic
from simplicit.rows.problem import RowProblem

#: Where the gap may be rounding alone, it is compared with no less than this share of ½‖z‖².
FLOOR = 1e-6
#: The kink of a column that has no penalty at all, as a share of ‖z − Φw‖ and of ‖z‖: a thousand roundings of the
#: products with the residual, and a few of the residual itself.
LEAST_KINK, ROUNDING = 1e-12, 1e-15
#: A gap of so many times (‖z‖ + ‖w‖₂)·‖w‖₁ may be rounding: a few roundings of the products with the residual.
GAP_ROUNDING = 5e-16


@dataclass(frozen=True)
class Certificate(Batch):
    """This is proved of a block of coefficients; float64 tensors (r,), but for the gradient.

    The gradient is the one of the residual itself where there are samples, without the rounding of G.
    """

    objective: Tensor  # P(w)
    dual_gap: Tensor  # how far it is from the least possible one, at most; infinite where it is not a number
    gradient: Tensor  # Φᵀ(z − Φw), (r, k)
    multiplier: Tensor  # μ of the dual point that proves the gap
    scale: Tensor  # what the gap is compared with: the objective; no less than FLOOR·½‖z‖² if the gap may be rounding

    @property
    def relative_gap(self) -> Tensor:
        """The relative gap is gap / scale, and 0 where both are 0; (r,)."""
        relative = torch.where(self.dual_gap > 0, self.dual_gap / self.scale, 0.0)
        return torch.where(self.dual_gap.isinf(), torch.inf, relative)

    def converged(self, tol: float) -> Tensor:
        """Say where gap ≤ tol·scale."""
        return (self.dual_gap <= tol * self.scale) & self.objective.isfinite()


def certify(problem: RowProblem, w: Tensor | None, multiplier: Tensor | None = None) -> Certificate:
    """Compute objective and duality gap of feasible coefficients (r, k), None for zero, row by row.

    The multiplier (r,) is a guess of μ to try beside the others.
    """
    fit, gradient = (problem.energy.clone(), problem.cross.clone()) if w is None else problem.residuals(w)
    w = torch.zeros_like(problem.cross) if w is None else w
    bound = _Bound(problem, fit, problem.on_support(gradient), w)
    gap, mu = bound.least(multiplier)
    value = problem.penalty.value(w)
    objective = 0.5 * fit + value
    # Rounding can leave the dual a hair above the primal; a gap is never negative.
    gap = torch.where(objective.isfinite(), gap.clamp(min=0), torch.inf)
    rounding = GAP_ROUNDING * (problem.energy.sqrt() + w.norm(dim=1)) * w.abs().sum(1)
    rounded = gap <= 2 * (bound.value - value) + rounding
    floor = torch.where(rounded, 0.5 * FLOOR * problem.energy, 0.0)
    return Certificate(objective, gap, gradient, mu, torch.maximum(objective, floor))


class _Bound:
    """Coefficients w (r, k) with fit ‖z − Φw‖² (r,) and v = Φᵀ(z − Φw) on the support have a gap at every dual point.

    The bound is the least of several.
    """

    def __init__(self, problem: RowProblem, fit: Tensor, v: Tensor, w: Tensor) -> None:
        self.problem, self.fit, self.v, self.w = problem, fit, v, w
        self.inside, self.outside = problem.ball_columns, problem.outside_ball
        self.penalty = _with_least_kink(problem, fit)
        self.value = self.penalty.value(w)

    @cached_property
    def inner(self) -> PiecewiseQuadratic:
        """This is the penalty on the columns in the ball."""
        return self.penalty.on_columns(self.inside)

    def least(self, multiplier: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the least gap of every row and its μ, (r,) each."""
        choices = list(self._choices(multiplier))
        gaps = torch.stack([self._gap(t, mu, covered) for t, mu, covered in choices])
        gap, chosen = gaps.nan_to_num(nan=torch.inf).min(0)
        return gap, torch.cat([mu for _, mu, _ in choices], dim=1).gather(1, chosen[:, None])[:, 0]

    def _choices(self, multiplier: Tensor | None) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Yield pairs of t (r, 1) and μ (r, 1) that make the dual finite, and whether μ covers all that is in the ball.

        Where it does, h* is zero there by construction; to compute it would tell rounding in μ from small kinks.
        """
        none = self.v.new_zeros(self.v.shape[0], 1)
        for strict in (False,) if self.penalty.only_kinks else (False, True):
            over = self.penalty.domain_excess(self.v, strict=strict)
            yield _largest(over).reciprocal(), none, False
            if not len(self.inside):
                continue
            t = _largest(over[:, self.outside]).reciprocal()
            needed = (t * self.v[:, self.inside].abs() - self.inner.kink) / self.problem.ball_weights
            yield t, needed.amax(1, keepdim=True).clamp(min=0), True
            if multiplier is not None and not self.inner.only_kinks:
                yield t, multiplier[:, None].clamp(min=0), False

    def _gap(self, t: Tensor, mu: Tensor, covered: bool) -> Tensor:
        """Return gap(t, μ), (r,)."""
        along, price = t[:, 0] * (self.v * self.w).sum(1), self.problem.radius[:, 0] * mu[:, 0]
        gap = 0.5 * (1 - t[:, 0]) ** 2 * self.fit + self.value - along + price
        if self.penalty.only_kinks:
            return gap  # h* is zero wherever it is finite
        tv = t * self.v
        if not len(self.inside):
            return gap + self.penalty.conjugate(tv).sum(1)
        gap += self.penalty.on_columns(self.outside).conjugate(tv[:, self.outside]).sum(1)
        if not covered:
            left = (tv[:, self.inside].abs() - mu * self.problem.ball_weights).clamp(min=0)
            gap += self.inner.conjugate(left).sum(1)
        return gap


def _with_least_kink(problem: RowProblem, fit: Tensor) -> PiecewiseQuadratic:
    """Return the penalty that is proved: where nothing bends, no kink is below the least that rounding can meet."""
    penalty = problem.penalty
    least = (LEAST_KINK * fit.sqrt() + ROUNDING * problem.energy.sqrt())[:, None] + torch.finfo(fit.dtype).tiny
    below = (penalty.kink < least) & (penalty.curvature == 0)
    if not bool(below.any()):
        return penalty
    return replace(penalty, kink=torch.where(below, least, penalty.kink))


def _largest(over: Tensor) -> Tensor:
    """Return the largest excess of every row, at least 1; (r, 1)."""
    return over.amax(1, keepdim=True).clamp(min=1) if over.shape[1] else over.new_ones(len(over), 1)
