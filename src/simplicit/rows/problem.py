r"""A block of row problems that share one design, in the units of the solver, with objective, dual and certificate.

A row of problem (7), with target z ∈ Rᵐ, weight λ > 0, penalty h and ball columns J, is solved as

    primal   P(w)       = ½‖z − Φw‖² + Σⱼ h(wⱼ),   Σ_{j∈J} aⱼ|wⱼ| ≤ κ,   wⱼ = 0 off the support

where everything has been divided by 2λ, and the columns, the target and with them w, h, the weights a of the ball and κ
are measured in units (powers of two) in which columns and target have norms near 1. Its dual is, for θ ∈ Rᵐ and μ ≥ 0,

    dual     D(θ, μ)    = zᵀθ − ½‖θ‖² − κμ − Σ_{j∈J} h*((|vⱼ| − μaⱼ)₊) − Σ_{j∉J} h*(vⱼ),   v = Φᵀθ

and D(θ, μ) ≤ P(w) for every feasible w, θ and μ ≥ 0. With θ = t(z − Φw), v = t·g, g = Φᵀ(z − Φw), their difference is

    gap(t, μ) = ½(1 − t)²‖z − Φw‖² + Σⱼ [h(wⱼ) + h*((|vⱼ| − μaⱼ)₊) − vⱼwⱼ] + κμ,

which never subtracts one large objective from another, so that small gaps are not lost to rounding. The certificate is
the least of a few choices: t as large as h* allows on all columns and μ = 0, best where the ball is slack; t as large
as the columns outside the ball allow, with the μ that the columns inside it then need, or with that of the polish.
Where h* is finite everywhere but steep, t is also tried at the kink. Everything here is float64.

A column without any penalty asks of the dual that vⱼ = 0 exactly, which no rounded number meets; there vⱼ counts as
zero up to 1e-12·‖z − Φw‖ + 1e-15·‖z‖, as if the column had a kink of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.ball import project_into_ball, shrink_into_ball
from simplicit.rows.design import Design
from simplicit.rows.outcome import BlockSolution
from simplicit.rows.penalties import PiecewiseQuadratic

__all__ = ["FLOOR", "Certificate", "RowProblem"]

#: Below this share of ½‖z‖² float64 cannot tell an objective from zero; the tolerance is relative to it there.
FLOOR = 1e-6
#: The kink in the certificate of a column that has no penalty at all, as a share of ‖z − Φw‖.
LEAST_KINK = 1e-12
#: To which, as a share of ‖z‖, comes the rounding of the residual.
ROUNDING = 1e-15


@dataclass(frozen=True)
class Certificate:
    """What is proved of a block of coefficients; shapes (r,) but for ``gradient`` (r, k)."""

    objective: Tensor
    dual_gap: Tensor  # infinite where the objective is not a number
    gradient: Tensor  # Φᵀ(z − Φw), from the residual itself where Φ is at hand, without the rounding of G
    multiplier: Tensor  # μ of the dual point that proves the gap
    scale: Tensor  # the least objective that float64 can tell from zero, FLOOR·½‖z‖², or the objective if larger

    @property
    def relative_gap(self) -> Tensor:
        """gap / max(primal, 1e-6·½‖z‖²); 0 where both are 0."""
        relative = torch.where(self.dual_gap > 0, self.dual_gap / self.scale, 0.0)
        return torch.where(self.dual_gap.isinf(), torch.inf, relative)

    def converged(self, tol: float) -> Tensor:
        """Where gap ≤ tol·max(primal, 1e-6·½‖z‖²)."""
        return (self.dual_gap <= tol * self.scale) & self.objective.isfinite()

    def select(self, rows: Tensor) -> Certificate:
        """Of some of the rows."""
        return Certificate(*(part[rows] for part in self._parts()))

    def update(self, rows: Tensor, other: Certificate) -> None:
        """Write the rows of ``other`` in the places ``rows``."""
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            mine[rows] = theirs

    def clone(self) -> Certificate:
        return Certificate(*(part.clone() for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.objective, self.dual_gap, self.gradient, self.multiplier, self.scale


@dataclass(frozen=True, eq=False)
class RowProblem:
    """r row problems on one design, in its units.

    Parameters
    ----------
    design : Design
    targets : (r, m) float64 tensor or None
        One target z per row (rows first, as the coefficients); None where only G and Φᵀz are known.
    cross : (r, k) tensor
        Φᵀz.
    energy : (r,) tensor
        ‖z‖².
    penalty : PiecewiseQuadratic
        Of the (r, k) block.
    allowed : (r, k) boolean tensor or None
        The support; None where all k columns are admissible.
    ball_columns : (j,) index tensor
        J within the k columns; empty where there is no ball.
    ball_weights : (1, j) tensor
        a.
    radius : (r, 1) tensor
        κ.
    """

    design: Design
    targets: Tensor | None
    cross: Tensor
    energy: Tensor
    penalty: PiecewiseQuadratic
    allowed: Tensor | None
    ball_columns: Tensor
    ball_weights: Tensor
    radius: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.cross.shape[0], self.cross.shape[1]

    def select(self, rows: Tensor) -> RowProblem:
        """The problems of some of the rows."""
        every_column = torch.arange(self.shape[1]).numpy()
        return replace(
            self,
            targets=None if self.targets is None else self.targets[rows],
            cross=self.cross[rows],
            energy=self.energy[rows],
            penalty=self.penalty.select(rows.cpu().numpy(), every_column),
            allowed=None if self.allowed is None else self.allowed[rows],
            radius=self.radius[rows],
        )

    def with_targets(self, targets: Tensor) -> RowProblem:
        """The same problems with other targets."""
        assert self.design.transposed is not None
        cross = targets @ self.design.transposed.T
        return replace(self, targets=targets, cross=cross, energy=(targets * targets).sum(1))

    def feasible(self, w: Tensor, *, nearly: bool = False) -> Tensor:
        """The nearest coefficients to ``w`` (r, k) on the support and in the ball, to the last bit.

        Rows are scaled into the ball alone where ``nearly`` says that they miss it by rounding.
        """
        w = w if self.allowed is None else w * self.allowed
        if not len(self.ball_columns):
            return w
        inside, weights = w[:, self.ball_columns], self.ball_weights[0].cpu().numpy()
        if not nearly:
            inside = project_into_ball(inside, self.ball_weights, self.radius)
        parts = zip(inside.cpu().numpy(), self.radius[:, 0].tolist(), strict=True)
        rows = np.stack([shrink_into_ball(part, radius, weights) for part, radius in parts])
        w = w.clone()
        w[:, self.ball_columns] = torch.from_numpy(rows).to(w.device)
        return w

    @cached_property
    def outside_ball(self) -> Tensor:
        """The columns that are not in J, as an index tensor."""
        outside = torch.ones(self.shape[1], dtype=torch.bool, device=self.cross.device)
        outside[self.ball_columns] = False
        return torch.nonzero(outside)[:, 0]

    @cached_property
    def _free(self) -> Tensor | None:
        """Where a column has no penalty at all; None if none has."""
        free = (self.penalty.kink == 0) & (self.penalty.curvature == 0)
        return free if bool(free.any()) else None

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts.of(self, self.penalty)

    def _proving(self, fit: Tensor) -> _Parts:
        """The penalty that the certificate is of: a column without any has the least kink that rounding can meet."""
        if self._free is None:
            return self._parts
        least = (LEAST_KINK * fit.sqrt() + ROUNDING * self.energy.sqrt())[:, None] + torch.finfo(fit.dtype).tiny
        return _Parts.of(self, replace(self.penalty, kink=torch.where(self._free, least, self.penalty.kink)))

    def residuals(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """‖z − Φw‖² (r,) and Φᵀ(z − Φw) (r, k)."""
        transposed = self.design.transposed
        if self.targets is None or transposed is None:
            gradient = self.cross - w @ self.design.gram
            return (self.energy - ((self.cross + gradient) * w).sum(1)).clamp(min=0), gradient
        residual = self.targets - self._image(w, transposed)
        return (residual * residual).sum(1), residual @ transposed.T

    def _image(self, w: Tensor, transposed: Tensor) -> Tensor:
        """wΦᵀ, by the columns alone that some row has, where these are few."""
        used = torch.nonzero(w.any(0))[:, 0]
        if 2 * len(used) > w.shape[1]:
            return w @ transposed
        return w[:, used] @ transposed[used]

    def certify(self, w: Tensor | None, multiplier: Tensor | None = None) -> Certificate:
        """Objective and duality gap of feasible coefficients, row by row.

        Parameters
        ----------
        w : (r, k) tensor or None
            The coefficients; None for zero.
        multiplier : (r,) tensor, optional
            A guess of μ to try beside the others.
        """
        fit, gradient = (self.energy.clone(), self.cross.clone()) if w is None else self.residuals(w)
        w = torch.zeros_like(self.cross) if w is None else w
        v = gradient if self.allowed is None else gradient * self.allowed
        parts = self._proving(fit)
        priced = parts.whole.value(w)
        choices = list(self._choices(parts, v, multiplier))
        gaps = torch.stack([self._gap(parts, t, mu, fit, v, w, priced, paid) for t, mu, paid in choices])
        gap, chosen = gaps.nan_to_num(nan=torch.inf).min(0)
        mu = torch.cat([mu for _, mu, _ in choices], dim=1).gather(1, chosen[:, None])[:, 0]
        objective = 0.5 * fit + self.penalty.value(w)
        # Rounding can leave the dual a hair above the primal; a gap is never negative.
        gap = torch.where(objective.isfinite(), gap.clamp(min=0), torch.inf)
        return Certificate(objective, gap, gradient, mu, torch.maximum(objective, 0.5 * FLOOR * self.energy))

    def solution(
        self,
        w: Tensor,
        certificate: Certificate,
        status: npt.NDArray[np.int8],
        seconds: npt.NDArray[np.float64],
        timings: dict[str, float],
    ) -> BlockSolution:
        """Coefficients and what their certificate proves, as the outcome of the block; nothing is copied."""
        fit, _ = self.residuals(w)
        excess = self.penalty.cardinality_excess(w) if self.penalty.cardinality else torch.nan
        return BlockSolution(
            coefficients=w.cpu().numpy(),
            objective=certificate.objective.cpu().numpy(),
            dual_gap=certificate.dual_gap.cpu().numpy(),
            relative_gap=certificate.relative_gap.cpu().numpy(),
            cardinality_gap=(certificate.dual_gap + excess).cpu().numpy(),
            multiplier=certificate.multiplier.cpu().numpy(),
            residual=fit.sqrt().cpu().numpy(),
            status=status,
            seconds=seconds,
            timings=timings,
        )

    def _choices(self, parts: _Parts, v: Tensor, multiplier: Tensor | None) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Pairs of t (r, 1) and μ (r, 1) that make the dual finite, and whether μ pays for all that is in the ball.

        Where it does, h* is zero there by construction; to compute it would tell rounding in μ from small kinks.
        """
        none = v.new_zeros(v.shape[0], 1)
        for strict in (False,) if parts.whole.only_kinks else (False, True):
            over = parts.whole.domain_excess(v, strict=strict)
            yield _largest(over).reciprocal(), none, False
            if not len(self.ball_columns):
                continue
            t = _largest(over[:, self.outside_ball]).reciprocal()
            needed = (t * v[:, self.ball_columns].abs() - parts.inner.kink) / self.ball_weights
            yield t, needed.amax(1, keepdim=True).clamp(min=0), True
            if multiplier is not None and not parts.inner.only_kinks:
                yield t, multiplier[:, None].clamp(min=0), False

    def _gap(
        self, parts: _Parts, t: Tensor, mu: Tensor, fit: Tensor, v: Tensor, w: Tensor, priced: Tensor, paid: bool
    ) -> Tensor:
        """gap(t, μ), (r,)."""
        gap = 0.5 * (1 - t[:, 0]) ** 2 * fit + priced - t[:, 0] * (v * w).sum(1) + self.radius[:, 0] * mu[:, 0]
        if parts.whole.only_kinks:
            return gap  # h* is zero wherever it is finite
        tv = t * v
        if not len(self.ball_columns):
            return gap + parts.whole.conjugate(tv).sum(1)
        gap += parts.outer.conjugate(tv[:, self.outside_ball]).sum(1)
        if not paid:
            left = (tv[:, self.ball_columns].abs() - mu * self.ball_weights).clamp(min=0)
            gap += parts.inner.conjugate(left).sum(1)
        return gap


def _largest(over: Tensor) -> Tensor:
    """The largest excess of every row, at least 1; (r, 1)."""
    return over.amax(1, keepdim=True).clamp(min=1) if over.shape[1] else over.new_ones(len(over), 1)


@dataclass(frozen=True)
class _Parts:
    """A penalty on all columns, on those outside the ball, and on those in it."""

    whole: PiecewiseQuadratic
    outer: PiecewiseQuadratic
    inner: PiecewiseQuadratic

    @classmethod
    def of(cls, problem: RowProblem, penalty: PiecewiseQuadratic) -> _Parts:
        rows = torch.arange(problem.shape[0]).numpy()
        outer, inner = (penalty.select(rows, c.cpu().numpy()) for c in (problem.outside_ball, problem.ball_columns))
        return cls(penalty, outer, inner)
