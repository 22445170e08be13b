r"""Row problems that share one design are stated as a block, in the units of the solver.

A row of problem (7) of the paper, with target z ∈ Rᵐ, weight λ > 0, penalty h and ball columns J, is solved as

    minimise   P(w) = ½‖z − Φw‖² + Σⱼ h(wⱼ)   subject to   Σ_{j∈J} aⱼ|wⱼ| ≤ κ,   wⱼ = 0 off the support

where everything has been divided by 2λ, and the columns, the target and with them w, h, the weights a of the ball and κ
are measured in units (powers of two) in which columns and target have norms near 1. Everything here is float64. Like
its design a problem has the samples and the targets themselves (:class:`SampleProblem`), or only G, Φᵀz and ‖z‖²
(:class:`GramProblem`); ``certificate`` has its dual.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.rows.ball import project_into_ball, shrink_into_ball
from simplicit.rows.batch import SHARED, Batch
from simplicit.rows.design import Design, SampleDesign
from simplicit.rows.penalties import PiecewiseQuadratic


@dataclass(frozen=True, eq=False)
class RowProblem(Batch, ABC):
    """A block has r row problems on one design, in its units; all numbers are float64."""

    design: Design
    cross: Tensor  # Φᵀz, (r, k)
    energy: Tensor  # ‖z‖², (r,)
    penalty: PiecewiseQuadratic  # on the (r, k) block
    allowed: Tensor | None  # the support, an (r, k) mask; None where all k columns are admissible
    ball_columns: Tensor = field(metadata=SHARED)  # J within the k columns, a (j,) index; empty where there is no ball
    ball_weights: Tensor = field(metadata=SHARED)  # a, (1, j)
    radius: Tensor  # κ, (r, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape is (r, k)."""
        return self.cross.shape[0], self.cross.shape[1]

    @property
    def least_squares(self) -> bool:
        """Whether nothing is minimised but the residual."""
        penalty = self.penalty
        return penalty.only_kinks and not penalty.equality and not bool(penalty.kink.any())

    @abstractmethod
    def residuals(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return ‖z − Φw‖² (r,) and Φᵀ(z − Φw) (r, k) at coefficients w (r, k)."""

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the device of the problem."""
        return torch.from_numpy(array).to(self.cross.device)

    def on_support(self, values: Tensor) -> Tensor:
        """Return values (r, k) with zeros off the support."""
        return values if self.allowed is None else values * self.allowed

    def feasible(self, w: Tensor, *, nearly: bool = False) -> Tensor:
        """Return the nearest coefficients to ``w`` (r, k) on the support and in the ball, to the last bit.

        Rows are scaled into the ball alone where ``nearly`` says that they miss it by rounding.
        """
        w = self.on_support(w)
        if not len(self.ball_columns):
            return w
        inside, weights = w[:, self.ball_columns], self.ball_weights[0].cpu().numpy()
        if not nearly:
            inside = project_into_ball(inside, self.ball_weights, self.radius)
        parts = zip(inside.cpu().numpy(), self.radius[:, 0].tolist(), strict=True)
        rows = np.stack([shrink_into_ball(part, radius, weights) for part, radius in parts])
        w = w.clone()
        w[:, self.ball_columns] = self.tensor(rows)
        return w

    @cached_property
    def ball_prices(self) -> Tensor:
        """This is a on all columns, zero off J; (k,)."""
        prices = self.cross.new_zeros(self.shape[1])
        prices[self.ball_columns] = self.ball_weights[0]
        return prices

    @cached_property
    def outside_ball(self) -> Tensor:
        """These columns are not in J; an index tensor."""
        return torch.nonzero(self.ball_prices == 0)[:, 0]


@dataclass(frozen=True, eq=False)
class GramProblem(RowProblem):
    """Of these row problems only G, Φᵀz and ‖z‖² are known."""

    def residuals(self, w: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self.cross - w @ self.design.gram
        return (self.energy - ((self.cross + gradient) * w).sum(1)).clamp(min=0), gradient


@dataclass(frozen=True, eq=False)
class SampleProblem(RowProblem):
    """These row problems have their samples."""

    design: SampleDesign
    targets: Tensor  # z, rows first as the coefficients, (r, m)

    def residuals(self, w: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.targets - self._image(w)
        return (residual * residual).sum(1), residual @ self.design.transposed.T

    def _image(self, w: Tensor) -> Tensor:
        """Return wΦᵀ, by the columns alone that some row has, where these are few."""
        used = torch.nonzero(w.any(0))[:, 0]
        if 2 * len(used) > w.shape[1]:
            return w @ self.design.transposed
        return w[:, used] @ self.design.transposed[used]

    def with_targets(self, targets: Tensor) -> SampleProblem:
        """Return the same problems with other targets (r, m)."""
        cross = targets @ self.design.transposed.T
        return replace(self, targets=targets, cross=cross, energy=(targets * targets).sum(1))
