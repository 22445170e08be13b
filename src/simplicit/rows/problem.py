r"""A block of row problems that share one design, with its objective, dual and certificate.

For every row, with target z ∈ Rᵐ, weight λ > 0, penalty h and ball columns J (equation (7), row by row):

    primal   P(w)    = λ‖z − Φw‖² + Σⱼ h(wⱼ),   ‖w_J‖₁ ≤ κ,   wⱼ = 0 off the support
    dual     D(θ, μ) = zᵀθ − ‖θ‖²/(4λ) − κμ − Σ_{j∈J} h*((|vⱼ| − μ)₊) − Σ_{j∉J} h*(vⱼ),   v = Φᵀθ,  μ ≥ 0

D(θ, μ) ≤ P(w) for every feasible w, θ and μ ≥ 0. The certificate takes θ = 2λt(z − Φw) with the better of two choices:
t ∈ [0, 1] as large as h* outside the ball allows, and the μ that the columns inside it then need; or t small enough for
all columns and μ = 0, which is better where the ball is slack, since there a large κ would magnify the rounding in μ.
Everything here is float64.

Internally rows are divided by 2λ, so that all of them are  ½wᵀGw − cᵀw + Σⱼ h(wⱼ)/(2λ)  with one G = ΦᵀΦ, c = Φᵀz.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from simplicit.rows.penalties import Penalty

__all__ = ["Certificate", "Design", "RowProblem"]

P = TypeVar("P", bound=Penalty)

#: Below this share of λ‖z‖² float64 cannot tell an objective from zero; the tolerance is relative to it there.
FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Design:
    """Φ on the columns in play and what is computed from it once, for all rows.

    Parameters
    ----------
    features : (m, k) float64 tensor
        Φ, centred if an intercept is wanted; no zero column.
    """

    features: Tensor
    _inverses: dict[float, Tensor] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def gram(self) -> Tensor:
        """G = ΦᵀΦ, (k, k)."""
        return self.features.T @ self.features

    def prepare(self) -> None:
        """Compute G now, with all processors, before blocks of rows share it."""
        _ = self.gram

    @cached_property
    def curvature(self) -> Tensor:
        """The diagonal of G, (1, k): the metric in which all columns count alike."""
        return torch.diagonal(self.gram).clone()[None, :]

    def ridge_inverse(self, rho: float) -> Tensor:
        """(G + ρ diag(G))⁻¹, kept for the other blocks of rows, which come by the same few values of ρ."""
        with self._lock:
            if rho not in self._inverses:
                self._inverses[rho] = self._invert(rho)
                while len(self._inverses) > 4:
                    self._inverses.pop(next(iter(self._inverses)))
            return self._inverses[rho]

    def _invert(self, rho: float) -> Tensor:
        while True:
            shifted = self.gram.clone()
            shifted.diagonal().mul_(1.0 + rho)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not int(failed):
                return torch.cholesky_inverse(factor)
            rho *= 10  # the Gram matrix is indefinite by its own rounding


@dataclass(frozen=True)
class Certificate:
    """What is proved of a block of coefficients; shapes (r,) but for ``gradient`` (r, k)."""

    objective: Tensor
    dual_gap: Tensor  # infinite where the objective is not a number
    gradient: Tensor  # c − Gw = Φᵀ(z − Φw), from the residual itself, without the rounding of the Gram matrix
    scale: Tensor  # the least objective that float64 can tell from zero, FLOOR·λ‖z‖², or the objective if larger

    @property
    def relative_gap(self) -> Tensor:
        """gap / max(primal, 1e-6·λ‖z‖²); 0 where both are 0."""
        return torch.where(self.dual_gap > 0, self.dual_gap / self.scale, 0.0)

    def converged(self, tol: float) -> Tensor:
        """Where gap ≤ tol·max(primal, 1e-6·λ‖z‖²)."""
        return (self.dual_gap <= tol * self.scale) & self.objective.isfinite()

    def replaced(self, where: Tensor, other: Certificate) -> Certificate:
        """The rows of ``other`` in the places ``where`` (r,), the own ones elsewhere."""
        mine = (self.objective, self.dual_gap, self.gradient, self.scale)
        theirs = (other.objective, other.dual_gap, other.gradient, other.scale)
        chosen = (where if a.ndim == 1 else where[:, None] for a in mine)
        return Certificate(*(torch.where(c, b, a) for c, a, b in zip(chosen, mine, theirs, strict=True)))


@dataclass(frozen=True, eq=False)
class RowProblem(Generic[P]):
    """r row problems on one design.

    Parameters
    ----------
    design : Design
    targets : (r, m) float64 tensor
        One target z per row (rows first, as the coefficients).
    weight : (r, 1) tensor
        λ > 0.
    penalty : Penalty
        Spread over the (r, k) block.
    allowed : (r, k) boolean tensor or None
        The support; None where all k columns are admissible.
    ball_columns : (j,) index tensor
        J within the k columns; empty where there is no ball.
    radius : (r, 1) tensor
        κ.
    """

    design: Design
    targets: Tensor
    weight: Tensor
    penalty: P
    allowed: Tensor | None
    ball_columns: Tensor
    radius: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.targets.shape[0], self.design.features.shape[1]

    @cached_property
    def cross(self) -> Tensor:
        """c = Φᵀz, (r, k)."""
        return self.targets @ self.design.features

    @cached_property
    def kink(self) -> Tensor:
        """h'(0+)/(2λ), (r, k): how large a gradient leaves a column at zero; infinite off the support."""
        kink = self.penalty.kink() / (2 * self.weight)
        return kink if self.allowed is None else torch.where(self.allowed, kink, torch.inf)

    @cached_property
    def outside_ball(self) -> Tensor:
        """The columns that are not in J, as an index tensor."""
        outside = torch.ones(self.shape[1], dtype=torch.bool)
        outside[self.ball_columns] = False
        return torch.nonzero(outside)[:, 0]

    @cached_property
    def _outer_penalty(self) -> P:
        rows, columns = torch.arange(self.shape[0]), self.outside_ball
        return self.penalty.select(rows.numpy(), columns.numpy())

    def certify(self, w: Tensor) -> Certificate:
        """Objective and duality gap of feasible coefficients ``w`` (r, k), row by row."""
        residual = self.targets - w @ self.design.features.T
        gradient = residual @ self.design.features
        admissible = gradient if self.allowed is None else gradient * self.allowed
        lam = self.weight[:, 0]
        fit = (residual * residual).sum(1)
        objective = lam * fit + self.penalty.value(w)

        dual = self._dual(2 * self.weight * admissible, (self.targets * residual).sum(1), fit)
        floor = FLOOR * lam * (self.targets * self.targets).sum(1)
        # Rounding can leave the dual a hair above the primal; a gap is never negative.
        gap = (objective - dual).clamp(min=0).nan_to_num(nan=torch.inf)
        return Certificate(objective, gap, gradient, torch.maximum(objective, floor))

    def _dual(self, v: Tensor, fit_target: Tensor, fit: Tensor) -> Tensor:
        """The better of the two dual values at v = Φᵀθ, θ = 2λ(z − Φw), with zᵀ(z − Φw) and ‖z − Φw‖²; (r,)."""
        everywhere = self.penalty.dual_scale(v)
        values = self._dual_value(everywhere[:, 0], fit_target, fit) - self.penalty.conjugate(everywhere * v).sum(1)
        if not len(self.ball_columns):
            return values
        outside, inside = self.outside_ball, self.ball_columns
        t = self._outer_penalty.dual_scale(v[:, outside])
        mu = (t * v[:, inside].abs() - self.penalty.kink()[:, inside]).amax(1).clamp(min=0)
        tight = self._dual_value(t[:, 0], fit_target, fit) - self.radius[:, 0] * mu
        tight -= self._outer_penalty.conjugate(t * v[:, outside]).sum(1)
        return torch.maximum(values, tight)

    def _dual_value(self, t: Tensor, fit_target: Tensor, fit: Tensor) -> Tensor:
        """zᵀθ − ‖θ‖²/(4λ) for θ = 2λt(z − Φw)."""
        return self.weight[:, 0] * t * (2 * fit_target - t * fit)
