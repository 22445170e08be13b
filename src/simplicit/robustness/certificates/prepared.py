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
  Where states depend on themselves, (I - L|A|)⁻¹ does, and what the iteration leaves over comes on top; blocks on such
  a loop are exact, and count by their Lipschitz constants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import ImplicitModel
from simplicit.implicit.equations import PREDICTION_TOL
from simplicit.implicit.fixed_point import NOISE_ULPS
from simplicit.implicit.groups import EVALUATION_ULPS, INPUT, Activation, Block, per_state
from simplicit.implicit.maps import CsrMap, LinearMap
from simplicit.implicit.plan import Loop, Stage
from simplicit.implicit.spectral import Contraction

#: More than all that can underflow, and far enough from the smallest float64 that products with it stay normal numbers:
#: denormal ones would slow everything down.
UNDERFLOW = 1e-200
# For sums of sums: blocks, centre and radius, and the operations around them.
_SAFETY = 4.0
# Equations for radii are iterated until they change by less than this share, and made sound afterwards.
_SETTLED, _STEPS = 1e-12, 1000


class PreparedModel:
    """A model as it is evaluated, in ``dtype``: its numbers in float64, its states in working order from here on.

    ``trajectories`` says whether there are groups whose φ is not elementwise; then there are n_pre pre-activations in
    place of n, and bounds speak of all trajectories with blocks as computed. ``looped`` are the stages on loops.
    ``system`` is the state equation, ``stages`` are those of its plan. Of the model there are ``C`` (q, n),
    ``D`` (q, p), the biases ``b`` (n_pre,) of the states and ``d`` (q,) of the outputs; of the activations, all (n,),
    the ``slopes`` L, what torch's may jump by, and the units in the last place (``ulps``) that evaluating one may cost:
    none where it is linear on both sides of 0. ``gamma`` is γ of float64 for any sum in a bound.
    """

    def __init__(self, model: ImplicitModel) -> None:
        exact, groups = model.astype(np.float64), model.groups
        self.model, self.system = model, exact.state_equation
        self.stages: tuple[Stage, ...] = self.system.plan.stages
        self.trajectories = any(isinstance(group.activation, Block) for group in groups)
        plan = self.system.plan
        self.looped = frozenset(loop.first + place for loop in plan.loops for place in range(len(loop.names)))
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

    @cached_property
    def inputs(self) -> tuple[LinearMap | None, ...]:
        """B of every stage, (rows of the stage, p); None where a stage reads no input."""
        plan, model = self.system.plan, self.model.astype(np.float64)
        if plan.order is not None:
            B = model.B[plan.order.numpy()]
            parts = [CsrMap(B[stage.rows]) for stage in self.stages]
            return tuple(part if part.nnz else None for part in parts)
        names = {at.start: name for name, at in self.system.slices.items()}
        return tuple(model.blocks.get((names[stage.target.start], INPUT)) for stage in self.stages)

    def drive_reach(self, radii: Tensor) -> Tensor:
        """Return |B| r, (m, n), for r (m, p)."""
        system = self.system
        return self.widened(system.plan.to_working(system.absolute.drive(radii, bias=False)))

    def state_radii(
        self, reach: Tensor, growth: float = 1.0, left: Callable[[Loop, Contraction], Tensor] | None = None
    ) -> Tensor:
        """Return d >= L (g |A| d + r), (m, n): how far states move if B u moves by at most r, (m, n_pre).

        A block moves by its Lipschitz constant times the largest move of its z; infinite where a φ has none.

        With ``growth`` g = 1 it is the solution (I - L|A|)⁻¹ L r, by substitution. Where states depend on themselves, a
        solution of finite accuracy is made sound by its defect, measured in s with L|A| s <= ρ s: d + s t with
        t = max(defect / s) / (1 - g ρ) satisfies the inequality. It is infinite if g ρ >= 1. What is ``left`` over of a
        loop of states comes on top there.
        """
        plan = self.system.absolute.plan
        if plan.triangular and not bool(torch.isfinite(self.slopes).all()):
            return torch.full((len(reach), plan.n_states), torch.inf, dtype=reach.dtype)
        d = reach.new_zeros(len(reach), plan.n_states)
        for part in plan.parts:
            if isinstance(part, Loop):
                drive = reach.clone()
                for rows, (source, block) in part.outside:
                    drive[:, rows] += growth * block.apply(d[:, source])
                d[:, part.states] = self.loop_radii(part, unknown(drive[:, part.rows]), growth, left)
                continue
            stage = plan.stages[part]
            drive = reach[:, stage.rows]
            for source, block in stage.terms:
                drive = drive + growth * block.apply(d[:, source])
            d[:, stage.target] = self._moved(stage, unknown(drive))
        return d

    def _moved(self, stage: Stage, radius: Tensor) -> Tensor:
        """Return how far one stage's x moves where its z moves by at most ``radius``."""
        phi = stage.activation
        return unknown(self.widened(phi.moved(radius) if isinstance(phi, Block) else phi.slope * radius))

    def loop_radii(
        self, loop: Loop, reach: Tensor, growth: float, left: Callable[[Loop, Contraction], Tensor] | None
    ) -> Tensor:
        """Return :meth:`state_radii` of a loop's states, for r (m, n_pre of the loop)."""
        plan, known = loop.plan, self.contraction_of(loop)
        s, rho = torch.from_numpy(known.s), growth * known.rho
        finite = torch.isfinite(reach).all(dim=1, keepdim=True)
        reach = torch.where(finite, reach, 0.0)

        def step(d: Tensor) -> Tensor:
            z, moved = self.widened(growth * plan.product(d) + reach), torch.empty_like(d)
            for stage in plan.stages:
                moved[:, stage.target] = self._moved(stage, z[:, stage.rows])
            return moved

        if rho >= 1.0:
            return reach.new_full((len(reach), plan.n_states), torch.inf)
        d = _iterated(step, step(reach.new_zeros(len(reach), plan.n_states)))
        t = ((step(d) - d).clamp(min=0.0) / s).amax(dim=1, keepdim=True) / (1.0 - rho)
        d = self.widened(d + s * t)
        return torch.where(finite, d if left is None else d + left(loop, known), torch.inf)

    def contraction_of(self, loop: Loop) -> Contraction:
        """Return s and ρ of a loop of the plan of |A|."""
        system = self.system
        return system.contraction_of(system.plan.loops[system.absolute.plan.loops.index(loop)])

    def state_errors(self, X: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return e with slope L everywhere, (m, n), for states computed in ``dtype``.

        X bounds |x|, (m, n), and ``sizes`` w are (m, n_pre).
        """
        if self.trajectories and self.system.plan.triangular:
            infinite = torch.full_like(sizes, torch.inf)
            return self.sharp_state_errors(-infinite, infinite, X, sizes, dtype)
        reach, growth = self.rounding_reach(X, sizes, dtype)
        return self.state_radii(reach, growth, self.left_over(X, dtype))

    def rounding_reach(self, X: Tensor, sizes: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return what rounding is worth in z, (m, n_pre), and g, what it adds to errors themselves."""
        unit, gamma, tiny = unit_roundoff(dtype), self._row_gammas(dtype), self._underflow(dtype)
        reach = torch.empty_like(sizes)
        for stage in self.stages:
            at, rows, phi = stage.target, stage.rows, stage.activation
            if isinstance(phi, Block):  # z as computed may be larger than exact ones are
                largest = 2.0 * float(unknown(sizes[:, rows]).max()) + 1.0
                evaluating = phi.rounding(largest, dtype) / max(phi.reach, tiny)
                reach[:, rows] = gamma[rows] * sizes[:, rows] + 2.0 * tiny + evaluating
                continue
            before = (gamma[rows] + self.ulps[at] * unit) * sizes[:, rows] + tiny
            after = self.ulps[at] * unit * X[:, at] + self.jumps[at] + tiny
            reach[:, rows] = before + after / self.slopes[at]
        growth = 1.0 + float(gamma.max()) + 3.0 * float(self.ulps.max()) * unit if len(gamma) else 1.0
        return growth * unknown(reach), growth

    def left_over(self, X: Tensor, dtype: torch.dtype) -> Callable[[Loop, Contraction], Tensor]:
        """Return what an iteration leaves over of a loop: its tolerance, or steps taken for rounding, over 1 - ρ."""
        unit = unit_roundoff(dtype)

        def left(loop: Loop, known: Contraction) -> Tensor:
            s = torch.from_numpy(known.s)
            noise = NOISE_ULPS * 2.0 * unit * (X[:, loop.states] / s).amax(dim=1, keepdim=True) / (1.0 - known.rho)
            return s * (PREDICTION_TOL + 2.0 * noise)

        return left

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
                errors[:, at] = self.widened(phi.moved(zeta) + phi.rounding(largest, dtype) + self._underflow(dtype))
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


def unknown(bound: Tensor) -> Tensor:
    """Return a bound in which what is no number, as a product of zero and infinity, is infinite."""
    return bound.nan_to_num(nan=torch.inf, posinf=torch.inf)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return u, half the distance from 1 to the next number."""
    return 0.5 * torch.finfo(dtype).eps


def _gamma(terms: int, dtype: torch.dtype) -> float:
    loss = terms * unit_roundoff(dtype)
    return loss / (1.0 - loss) if loss < 1.0 else torch.inf
