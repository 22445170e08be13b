r"""How far computed states are from the equilibrium: what an iteration left over, and all rounding.

x* is the equilibrium in exact arithmetic of the model as stored. With roundings δ of one evaluation of A x + B u + b
and ε of φ, an error e >= |x* - x| of the states gives the bound

    E(e) = spread(|A| e + δ) + ε,   spread(r)ᵢ = sup over |z' - zᵢ| <= rᵢ of |φ(z') - φ(zᵢ)| <= Lᵢ rᵢ.

Of a block, whose program rounds at every step, the image of the interval z ± r as evaluated holds both φ(z') and φ(z),
and takes the place of spread and ε. After a substitution e = E(e) is solved in the same order. After an iteration
|x* - x_{t-1}| <= e + |step|; a first e is
s (ρ |step|_s + |L δ + ε|_s) / (1 - ρ), and e ← min(e, E(e + |step|)) sharpens it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simplicit.implicit.equations import StateEquation
from simplicit.implicit.groups import EVALUATION_ULPS, Block, per_state
from simplicit.implicit.picard import StateSolution

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
        return self._after_substitution() if self._step is None else self._after_iteration(self._step)

    def _after_substitution(self) -> Tensor:
        errors = torch.empty_like(self._X)
        for stage in self._plan.stages:
            radius, phi = self._before[:, stage.rows], stage.activation
            for source, block in stage.terms:
                radius = radius + block.apply(errors[:, source])
            z, radius = self._Z[:, stage.rows], self._widened(radius)
            if isinstance(phi, Block):
                spread = phi.spread(z, radius, self._X[:, stage.target], self._dtype)
            else:
                spread = phi.spread(z, radius)
            errors[:, stage.target] = self._widened(spread) + self._after[:, stage.target]
        return errors

    def _after_iteration(self, step: Tensor) -> Tensor:
        s, rho = torch.from_numpy(self._equation.contraction.s), self._equation.contraction.rho
        rounding = torch.from_numpy(self._equation.slopes) * self._before + self._after
        scalar = (rho * (step / s).amax(dim=1) + (rounding / s).amax(dim=1)) / (1.0 - rho)
        errors = self._widened(scalar[:, None] * s)
        for _ in range(_SHARPENING_STEPS):
            radius = self._widened(self._plan.product(errors + step) + self._before)
            sharper = torch.minimum(errors, self._widened(self._plan.spread(self._Z, radius)) + self._after)
            settled = bool((sharper.amax(dim=1) >= _SHARPENED * errors.amax(dim=1)).all())
            errors = sharper
            if settled:
                break
        return errors
