"""An independent twin of the row problem, modelled in CVXPY from its definition and solved by Clarabel.

Nothing here uses code of the library: of a penalty only its name and its parameters are read. The perspective penalty
is modelled by its definition, min αs + γt with w² ≤ st and 0 ≤ t ≤ 1, and not by the reverse Huber function.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Tolerances that are tried in turn: cones do not always come to the tightest.
TOLERANCES = (1e-12, 1e-10, 1e-8)
STRENGTHS = ("beta", "alpha", "gamma")


@dataclass(frozen=True)
class Prices:
    """A penalty as one row meets it: its name, β, α and γ, and the factors c on the d columns."""

    name: str
    beta: float
    alpha: float
    gamma: float
    factors: Array

    @classmethod
    def of(cls, penalty: Any, n_columns: int, row: int = 0) -> Prices:
        """From ``L1``, ``ElasticNet``, ``Perspective``, ``BasisPursuit`` or ``NoPenalty``."""
        strengths = {key: np.ravel(getattr(penalty, key, 0.0)) for key in STRENGTHS}
        chosen = {key: float(value[row if len(value) > 1 else 0]) for key, value in strengths.items()}
        factors = getattr(penalty, "column_weights", None)
        factors = np.ones(n_columns) if factors is None else np.atleast_2d(factors)
        if factors.ndim == 2:
            factors = factors[row if len(factors) > 1 else 0]
        return cls(type(penalty).__name__, factors=np.asarray(factors, dtype=float), **chosen)

    def value(self, w: npt.NDArray[Any]) -> Any:
        """Σ h(w), in the precision of ``w``."""
        size = abs(w)
        if self.name == "L1":
            terms = self.beta * size
        elif self.name == "BasisPursuit":
            terms = size
        elif self.name == "ElasticNet":
            terms = self.beta * size + self.alpha * size * size
        elif self.name == "Perspective":
            near = 2 * np.sqrt(self.alpha * self.gamma) * size
            terms = np.where(size <= np.sqrt(self.gamma / self.alpha), near, self.alpha * size * size + self.gamma)
        else:
            terms = 0 * size
        return (self.factors * terms).sum()

    def slope(self, w: Array) -> Array:
        """|h'(w)|, from the right at zero."""
        size = abs(w)
        if self.name == "L1":
            return self.factors * self.beta
        if self.name == "BasisPursuit":
            return self.factors
        if self.name == "ElasticNet":
            return self.factors * (self.beta + 2 * self.alpha * size)
        if self.name == "Perspective":
            return self.factors * np.maximum(2 * np.sqrt(self.alpha * self.gamma), 2 * self.alpha * size)
        return np.zeros_like(size)

    def model(self, v: cp.Variable, unit: Array) -> tuple[Any, list[Any]]:
        """Σ h(unit·v) in CVXPY, with its constraints."""
        strength = self.factors * unit
        if self.name == "L1":
            return self.beta * strength @ cp.abs(v), []
        if self.name == "BasisPursuit":
            return strength @ cp.abs(v), []
        if self.name == "ElasticNet":
            bent = cp.sum_squares(cp.multiply(np.sqrt(self.alpha * strength * unit), v))
            return self.beta * strength @ cp.abs(v) + bent, []
        if self.name == "Perspective":
            # The same cone for s/k and tk: with k so that both prices are alike, Clarabel gets through.
            k = np.maximum(1.0, np.sqrt(self.gamma / self.alpha) / unit)
            s, t = cp.Variable(len(unit)), cp.Variable(len(unit))
            cone = cp.SOC(s + t, cp.vstack([2 * v, s - t]), axis=0)
            cost = self.alpha * (strength * unit * k) @ s + self.gamma * (self.factors / k) @ t
            return cost, [cone, t >= 0, t <= k]
        return 0.0, []


@dataclass(frozen=True)
class RowModel:
    """One row: target, λ, penalty, ball, support and whether a constant is free."""

    features: Array
    target: Array
    prices: Prices
    weight: float = 1.0
    radius: float | None = None
    in_ball: Mask | None = None
    support: Mask | None = None
    intercept: bool = False

    @property
    def inside(self) -> Mask:
        """J as a mask; empty without a ball."""
        d = self.features.shape[1]
        if self.radius is None:
            return np.zeros(d, dtype=bool)
        return np.ones(d, dtype=bool) if self.in_ball is None else self.in_ball

    def objective(self, w: Array, constant: float = 0.0) -> float:
        """λ‖z − Φw − b‖² + Σ h(w) in extended precision; for exact matching Σ h(w) alone."""
        long = w.astype(np.longdouble)
        priced = self.prices.value(long)
        if self.prices.name == "BasisPursuit":
            return float(priced)
        on = w != 0
        residual = self.target.astype(np.longdouble) - self.features[:, on].astype(np.longdouble) @ long[on] - constant
        return float(self.weight * (residual * residual).sum() + priced)

    def feasible(self, w: Array) -> Array:
        """``w`` without what is off the support, scaled into the ball."""
        w = np.where(True if self.support is None else self.support, w, 0.0)
        norm = abs(w[self.inside]).sum()
        if self.radius is not None and norm > self.radius:
            w = np.where(self.inside, w * (self.radius / norm * (1 - 1e-15)), w)
        return w

    def solve(self) -> tuple[float, Array]:
        """The least value, as Clarabel has it, and its w; infinite if no w matches exactly."""
        v, unit, sigma = self._units()
        priced, cones = self.prices.model(v, unit)
        residual, more = self._residual(v, unit, sigma)
        constraints = [*self._limits(v, unit), *cones]
        if self.prices.name == "BasisPursuit":
            value = _minimise(priced / sigma, [*constraints, *more, residual == 0])
            return value * sigma, np.zeros(len(unit)) if v.value is None else np.asarray(v.value) * unit
        scale = self.weight * sigma**2
        value = _minimise(cp.sum_squares(residual) + priced / scale, [*constraints, *more])
        return value * scale, np.asarray(v.value) * unit

    def least_residual(self) -> float:
        """min ‖z − Φw − b‖ under the ball and on the support, whatever the penalty."""
        v, unit, sigma = self._units()
        residual, more = self._residual(v, unit, sigma)
        _minimise(cp.sum_squares(residual), [*self._limits(v, unit), *more])
        return float(np.linalg.norm(residual.value)) * sigma

    def _units(self) -> tuple[cp.Variable, Array, float]:
        """v with w = unit·v, where target and columns, with what a penalty bends, have norm 1: Clarabel wants units."""
        features, target = self._centred()
        sigma = float(np.linalg.norm(target)) or 1.0
        norms = np.sqrt(np.square(features).sum(axis=0) + self.prices.alpha * self.prices.factors / self.weight)
        return cp.Variable(len(norms)), sigma / np.where(norms > 0, norms, 1.0), sigma

    def _centred(self) -> tuple[Array, Array]:
        """With a free constant, features and target less their means: only the constant changes."""
        if not self.intercept:
            return self.features, self.target
        return self.features - self.features.mean(axis=0), self.target - self.target.mean()

    def _limits(self, v: cp.Variable, unit: Array) -> list[Any]:
        """The ball and the support."""
        limits: list[Any] = []
        if self.radius is not None:
            limits.append((np.where(self.inside, unit, 0.0) / self.radius) @ cp.abs(v) <= 1)
        if self.support is not None and not self.support.all():
            limits.append(v[np.flatnonzero(~self.support)] == 0)
        return limits

    def _residual(self, v: cp.Variable, unit: Array, sigma: float) -> tuple[Any, list[Any]]:
        """(z − Φw − b)/σ, and b = 0 where no constant is wanted."""
        features, target = self._centred()
        constant = cp.Variable()
        return target / sigma - (features * (unit / sigma)) @ v - constant, [] if self.intercept else [constant == 0]


def _minimise(objective: Any, constraints: list[Any]) -> float:
    """The least value; infinite if there is no feasible point."""
    problem = cp.Problem(cp.Minimize(objective), constraints)
    for tol in TOLERANCES:
        with warnings.catch_warnings(), contextlib.suppress(cp.SolverError):
            warnings.simplefilter("ignore", UserWarning)  # of an inaccurate solution: the next tolerance is looser
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
            if problem.status in (cp.OPTIMAL, cp.INFEASIBLE):
                return float(problem.value)
    raise ArithmeticError(f"the reference ends with {problem.status}")
