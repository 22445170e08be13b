r"""A model made ready to be bounded: in float64, its states in working order, and what rounding can do to it.

Certificates speak of the model *as it is evaluated*, in its own dtype, and are themselves computed in float64. With
unit roundoff u, a sum of k products errs by at most γ = k u / (1 - k u) times the sum of their sizes, in any order
(Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1). So there are two errors to give up:

- *Bounding.* Every bound is a sum of products whose sizes are known; γ of float64 times their total, some 1e-13 of it,
  is taken off (:attr:`PreparedModel.gamma`).
- *Evaluation.* If |x| <= X and |z| <= w = |A| X + |B| U + |b| for all inputs of a box, then computed z and x differ
  from the exact ones by at most ζ and e, with

      ζ = γ (w + |A| e) + |A| e,      e = slope(z ± ζ) (ζ + 16 u w) + 16 u X,

  γ and u now of the model's dtype, slope the largest |φ'| nearby: 0 for a ReLU that stays below 0. Piecewise linear φ
  lose the terms with 16, the units in the last place that evaluating a φ may cost. A z that copies an integer input has
  no error at all. A substitution solves this stage by stage. A block is another matter: what its program does to errors
  is only known as the interval image of z ± ζ.
  So the bounds of a model with blocks speak of all trajectories whose outputs of blocks lie *anywhere* in
  these images, those as computed among them, and are exact between the blocks: e is 0 at a block, and counts on.
  Where the model is iterated, (I - L|A|)⁻¹ does, and what Picard's iteration leaves over comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import ImplicitModel
from simplicit.implicit.equations import PREDICTION_TOL
from simplicit.implicit.groups import EVALUATION_ULPS, Activation, Block, per_state
from simplicit.implicit.picard import NOISE_ULPS
from simplicit.implicit.plan import Stage

#: More than all that can underflow, and far enough from the smallest float64 that products with it stay normal numbers:
#: denormal ones would slow everything down.
UNDERFLOW = 1e-200
# For sums of sums: blocks, centre and radius, and the operations around them.
_SAFETY = 4.0
# Equations for radii are iterated until they change by less than this share, and made sound afterwards.
_SETTLED, _STEPS = 1e-12, 1000


class PreparedModel:
    """A model as it is evaluated, in ``dtype``: its numbers in float64, its states in working order from here on.

    ``has_blocks`` says whether there are groups whose φ is not elementwise; then there are n_pre pre-activations in
    place of n. ``system`` is the state equation, ``stages`` are those of its plan. Of the model there are ``C`` (q, n),
    ``D`` (q, p), the biases ``b`` (n_pre,) of the states and ``d`` (q,) of the outputs; of the activations, all (n,),
    the ``slopes`` L, what torch's may jump by, and the units in the last place (``ulps``) that evaluating one may cost:
    none where it is linear on both sides of 0. ``gamma`` is γ of float64 for any sum in a bound.
    """

    def __init__(self, model: ImplicitModel) -> None:
        exact, groups = model.astype(np.float64), model.groups
        self.has_blocks = any(isinstance(group.activation, Block) for group in groups)
        self.model, self.system = model, exact.state_equation
        self.stages: tuple[Stage, ...] = self.system.plan.stages
        self.dtype = torch.float32 if model.dtype == np.float32 else torch.float64
        self.gamma = _SAFETY * _gamma(model.n_states + model.n_inputs + 64, torch.float64)
        self.C = self.system.plan.to_working(torch.from_numpy(exact.C.toarray()))
        self.D = torch.from_numpy(exact.D.toarray())
        self.b, self.d = self._working(exact.state_bias), torch.tensor(exact.output_bias)
        self.slopes = self._working(self.system.slopes)
        self.jumps = self._working(per_state(groups, lambda phi: phi.jump))
        self.ulps = self._working(per_state(groups, lambda phi: 0.0 if phi.homogeneous else EVALUATION_ULPS))
        self._inexact = 1.0 - self._copies_of_integers()

    def widened(self, bound: Tensor) -> Tensor:
        """Round a sum of non-negative terms up by what its own evaluation may have lost."""
        return bound * (1.0 + self.gamma)

    def _copies_of_integers(self) -> Tensor:
        """Return 1 for pre-activations that are one integer of the input and nothing else, (n_pre,), and 0 for others.

        Only integers do not move, and what looks something up by them is lost where they are a little uncertain.
        """
        whole, layout = torch.zeros(1, self.model.n_inputs, dtype=torch.float64), self.model.inputs
        if layout is not None:
            for spec in layout.specs:
                whole[:, layout.columns[spec.name]] = 0.0 if spec.floating else 1.0
        single = self._working((self.system.row_counts == 1) & (self.model.state_bias == 0))
        return single * (self.system.plan.to_working(self.system.absolute.drive(whole, bias=False))[0] == 1)

    def rounded(self, errors: Tensor, rows: slice) -> Tensor:
        """Return what sums for the pre-activations ``rows`` lose, (m, k), but for those that are copies of integers."""
        return errors * self._inexact[rows]

    def drive(self, U: Tensor) -> Tensor:
        """Return B u, (m, n), for U (m, p)."""
        return self.system.plan.to_working(self.system.drive(U, bias=False))

    def pull_back_drive(self, Z_bar: Tensor) -> Tensor:
        """Return Z̄ B, (m, p), for Z̄ (m, n)."""
        return self.system.pull_back_drive(self.system.plan.to_model(Z_bar))

    def drive_reach(self, radii: Tensor) -> Tensor:
        """Return |B| r, (m, n), for r (m, p)."""
        system = self.system
        return self.widened(system.plan.to_working(system.absolute.drive(radii, bias=False)))

    def state_radii(self, reach: Tensor, growth: float = 1.0) -> Tensor:
        """Return d >= L (g |A| d + r), (m, n): how far states move if B u moves by at most r, (m, n_pre).

        A block moves by its Lipschitz constant times the largest move of its z; infinite where a φ has none.

        With ``growth`` g = 1 it is the solution (I - L|A|)⁻¹ L r, by substitution. Where the model is iterated, a
        solution of finite accuracy is made sound by its defect, measured in s with L|A| s <= ρ s: d + s t with
        t = max(defect / s) / (1 - g ρ) satisfies the inequality. It is infinite if g ρ >= 1.
        """
        plan = self.system.absolute.plan
        if plan.triangular:
            d = reach.new_zeros(len(reach), plan.n_states)
            if not bool(torch.isfinite(self.slopes).all()):
                return torch.full_like(d, torch.inf)
            for stage in plan.stages:
                drive = reach[:, stage.rows]
                for source, block in stage.terms:
                    drive = drive + growth * block.apply(d[:, source])
                if isinstance(stage.activation, Block):
                    drive = drive.amax(dim=1, keepdim=True)
                d[:, stage.target] = self.widened(stage.activation.slope * drive)
            return d
        s, rho = torch.from_numpy(self.system.contraction.s), growth * self.system.contraction.rho
        if rho >= 1.0:
            return torch.full_like(reach, torch.inf)

        def step(d: Tensor) -> Tensor:
            return self.widened(self.slopes * (growth * plan.product(d) + reach))

        d = _iterated(step, reach)
        t = ((step(d) - d).clamp(min=0.0) / s).amax(dim=1, keepdim=True) / (1.0 - rho)
        return self.widened(d + s * t)

    def state_errors(self, X: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return e with slope L everywhere, (m, n), for states computed in ``dtype``; X and ``sizes`` w are (m, n)."""
        if self.has_blocks:
            infinite = torch.full_like(sizes, torch.inf)
            return self.sharp_state_errors(-infinite, infinite, X, sizes, dtype)
        unit, gamma, tiny = unit_roundoff(dtype), self._row_gammas(dtype), self._underflow(dtype)
        before = (gamma + self.ulps * unit) * sizes + tiny
        after = self.ulps * unit * X + self.jumps + tiny
        # What rounding adds to errors themselves.
        growth = 1.0 + max((gamma + 3.0 * self.ulps * unit).tolist(), default=0.0)
        errors = self.state_radii(growth * (before + after / self.slopes), growth)
        if self.system.plan.triangular:
            return errors
        # Left over by the iteration: its tolerance, or steps that are taken for rounding, over 1 - ρ (picard.py).
        s, rho = torch.from_numpy(self.system.contraction.s), self.system.contraction.rho
        noise = NOISE_ULPS * 2.0 * unit * (X / s).amax(dim=1, keepdim=True) / (1.0 - rho)
        return errors + s * (PREDICTION_TOL + 2.0 * noise)

    def sharp_state_errors(
        self, z_lower: Tensor, z_upper: Tensor, X: Tensor, sizes: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return e with the slopes that φ has on the bounds of z, (m, n), for triangular models."""
        errors = torch.zeros_like(X)
        for number, stage in enumerate(self.system.absolute.plan.stages):
            at, rows, phi = stage.target, stage.rows, stage.activation
            zeta = self.pre_errors(number, errors, sizes[:, rows], dtype)
            if isinstance(phi, Block):
                largest = float((sizes[:, rows] + zeta).max()) if zeta.numel() else 0.0
                moved = phi.slope * zeta.amax(dim=1, keepdim=True)
                errors[:, at] = self.widened(moved + phi.rounding(largest, dtype) + self._underflow(dtype))
            else:
                bounds = z_lower[:, rows] - zeta, z_upper[:, rows] + zeta
                errors[:, at] = self.stage_errors(number, zeta, bounds, X[:, at], sizes[:, rows], dtype)
        return errors

    def pre_errors(self, number: int, errors: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ζ of one stage, from the errors e of all states before it (m, n) and the sizes w of its z."""
        stage = self.system.absolute.plan.stages[number]
        inherited = torch.zeros_like(sizes)
        for source, block in stage.terms:
            inherited = inherited + block.apply(errors[:, source])
        lost = self._row_gammas(dtype)[stage.rows] * (sizes + inherited) + self._underflow(dtype)
        return self.rounded(lost, stage.rows) + inherited

    def stage_errors(
        self,
        number: int,
        zeta: Tensor,
        bounds: tuple[Tensor, Tensor],
        X: Tensor,
        sizes: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return e of one stage with an elementwise φ, for ζ, bounds of z ± ζ, X on its |x| and w of its z."""
        stage, unit, tiny = self.stages[number], unit_roundoff(dtype), self._underflow(dtype)
        at, phi = stage.target, cast(Activation, stage.activation)
        slope = phi.steepest(*bounds)
        evaluating = self.ulps[at] * unit * (slope * (sizes + 2.0 * zeta) + X)
        return self.widened(slope * zeta + evaluating + self.jumps[at] + tiny)

    def output_errors(self, errors: Tensor, X: Tensor, U: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the error of outputs, (m, q), from that of the states; X (m, n), U (m, p) bound states and inputs."""
        terms = int((self.C != 0).sum(dim=1).max() + (self.D != 0).sum(dim=1).max()) + len(self.model.groups) + 4
        sizes = (X + errors) @ self.C.abs().T + U @ self.D.abs().T + self.d.abs()
        return self.widened(errors @ self.C.abs().T + _gamma(terms, dtype) * sizes) + self._underflow(dtype)

    def _underflow(self, dtype: torch.dtype) -> float:
        """Return all that one sum in ``dtype`` can lose below the smallest normal number."""
        return max(UNDERFLOW, (self.model.n_states + self.model.n_inputs + 64) * torch.finfo(dtype).tiny)

    def _row_gammas(self, dtype: torch.dtype) -> Tensor:
        """Return γ for the sum A x + B u + b of every state, (n,)."""
        counts = self.system.row_counts + len(self.model.groups) + 4
        return self._working(np.array([_gamma(int(count), dtype) for count in counts]))

    def _working(self, values: np.ndarray) -> Tensor:
        return self.system.plan.to_working(torch.from_numpy(np.array(values, dtype=np.float64))[None])[0]


def _iterated(step: Callable[[Tensor], Tensor], first: Tensor) -> Tensor:
    """Iterate from ``first`` to a fixed point, nearly."""
    d = first
    for _ in range(_STEPS):
        before, d = d, step(d)
        if not (d - before).abs().amax() > _SETTLED * d.abs().amax():
            break
    return d


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return u, half the distance from 1 to the next number."""
    return 0.5 * torch.finfo(dtype).eps


def _gamma(terms: int, dtype: torch.dtype) -> float:
    loss = terms * unit_roundoff(dtype)
    return loss / (1.0 - loss) if loss < 1.0 else torch.inf
