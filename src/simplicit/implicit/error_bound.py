r"""How far computed states are from the equilibrium: what an iteration left over, and all rounding.

x* is the equilibrium in exact arithmetic of the model as stored. With roundings δ of one evaluation of A x + B u + b
and ε of φ, an error e >= |x* - x| of the states gives the bound

    E(e) = spread(|A| e + δ) + ε,   spread(r)ᵢ = sup over |z' - zᵢ| <= rᵢ of |φ(z') - φ(zᵢ)| <= Lᵢ rᵢ.

Of a block, whose program rounds at every step, the image of the interval z ± r as evaluated holds both φ(z') and φ(z),
and takes the place of spread and ε. After a substitution e = E(e) is solved in the same order, loops among them. After
the iteration of a loop |x* - x_{t-1}| <= e + |step|; a first e is s (ρ |step|_s + |L δ + ε|_s) / (1 - ρ), δ with what
is known of the states before the loop, and e ← min(e, E(e + |step|)) sharpens it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simplicit.implicit.equations import StateEquation
from simplicit.implicit.groups import EVALUATION_ULPS, Block, per_state
from simplicit.implicit.picard import StateSolution
from simplicit.implicit.plan import Loop, Plan, Stage

# A bound is sharpened until a step takes off less than a tenth, and that so many times at most: each costs one product.
_SHARPENING_STEPS, _SHARPENED = 50, 0.9


def error_bound(equation: StateEquation, solution: StateSolution, U: Tensor) -> Tensor:
    """A bound on maxᵢ |x*ᵢ - xᵢ| for every sample of U (m, p), (m,) float64."""
    if not equation.size:
        return torch.zeros(U.shape[0], dtype=torch.float64)
    return _Roundings(equation, solution, U).errors().amax(dim=1).nan_to_num(nan=math.inf, posinf=math.inf)


class _Roundings:
    """The solution for inputs U, with δ and ε, entry by entry in working order, (m, n) float64.

    A sum of k products in any order errs by at most γ = k u / (1 - k u) times the sum of their sizes.
    """

    def __init__(self, equation: StateEquation, solution: StateSolution, U: Tensor) -> None:
        self._equation, self._plan = equation, equation.absolute.plan
        self._Z, self._X, self._dtype = solution.Z.double(), solution.X.double(), U.dtype
        self._step = None if solution.step is None else solution.step.double()
        # The largest number of terms in one row of [A B b], and a few for the sums over blocks.
        self._terms = int(equation.row_counts.max(initial=0)) + 2 * len(equation.groups) + 4
        unit = 0.5 * torch.finfo(U.dtype).eps
        gamma = self._terms * unit / (1.0 - self._terms * unit)
        X = solution.X.double().abs()
        # In an iteration the product was formed with the states before the last step.
        inner = X if solution.step is None else X + solution.step
        sizes = self._plan.product(inner) + self._plan.to_working(equation.absolute.drive(U.double().abs()))
        jumps = torch.from_numpy(per_state(equation.groups, lambda phi: phi.jump))
        # φ errs in the last places of its value, or as if its argument did: by much less where φ is flat.
        # What underflows loses at most the smallest normal number each time.
        tiny = torch.finfo(U.dtype).tiny
        before = gamma * sizes + EVALUATION_ULPS * unit * self._Z.abs() + self._terms * tiny
        self._before = self._widened(before)
        self._after = EVALUATION_ULPS * unit * X + tiny + self._plan.to_working(jumps[None])

    def _widened(self, bound: Tensor) -> Tensor:
        """``bound``, (m, n) float64, rounded up by what its own evaluation may have lost."""
        return bound * (1.0 + (self._terms + 64) * torch.finfo(torch.float64).eps)

    def errors(self) -> Tensor:
        """Return e, (m, n)."""
        errors = torch.empty_like(self._X)
        for part in self._plan.parts:
            if isinstance(part, Loop):
                errors[:, part.states] = self._after_iteration(part, errors)
            else:
                self._after_substitution_(self._plan.stages[part], errors)
        return errors

    def _after_substitution_(self, stage: Stage, errors: Tensor) -> None:
        """Write e of a stage, which was substituted, from that of the states before it."""
        radius, phi = self._before[:, stage.rows], stage.activation
        for source, block in stage.terms:
            radius = radius + block.apply(errors[:, source])
        z, radius = self._Z[:, stage.rows], self._widened(radius)
        if isinstance(phi, Block):
            spread = phi.spread(z, radius, self._X[:, stage.target], self._dtype)
        else:
            spread = phi.spread(z, radius)
        errors[:, stage.target] = self._widened(spread) + self._after[:, stage.target]

    def _after_iteration(self, loop: Loop, errors: Tensor) -> Tensor:
        """Return e of a loop's states, from that of the states before it."""
        assert self._step is not None
        known = self._equation.contraction_of(self._equation.plan.loops[self._plan.loops.index(loop)])
        s, rho = torch.from_numpy(known.s), known.rho
        before, after, step = self._before.clone(), self._after[:, loop.states], self._step[:, loop.states]
        for rows, (source, block) in loop.outside:
            before[:, rows] += self._widened(block.apply(errors[:, source]))
        before, Z, X = before[:, loop.rows], self._Z[:, loop.rows], self._X[:, loop.states]
        rounding = self._through(loop.plan, before, Z) + after
        scalar = (rho * (step / s).amax(dim=1) + (rounding / s).amax(dim=1)) / (1.0 - rho)
        found = self._widened(scalar[:, None] * s)
        for _ in range(_SHARPENING_STEPS):
            radius = self._widened(loop.plan.product(found + step) + before)
            sharper = torch.minimum(found, self._widened(loop.plan.spread(Z, radius, X, self._dtype)) + after)
            settled = bool((sharper.amax(dim=1) >= _SHARPENED * found.amax(dim=1)).all())
            found = sharper
            if settled:
                break
        return found

    def _through(self, plan: Plan, before: Tensor, Z: Tensor) -> Tensor:
        """What errors of z, (m, n_pre), make of x at most, and what evaluating blocks adds, (m, n)."""
        result = before.new_empty(len(before), plan.n_states)
        for stage in plan.stages:
            phi, radius = stage.activation, before[:, stage.rows]
            if isinstance(phi, Block):
                largest = float((Z[:, stage.rows].abs() + radius).max())
                result[:, stage.target] = phi.moved(radius) + phi.rounding(largest, self._dtype)
            else:
                result[:, stage.target] = phi.slope * radius
        return self._widened(result)
