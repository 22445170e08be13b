"""A problem whose rows are solved here and by the twin, as most tests of ``solve_rows`` write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from kkt import assert_kkt
from reference import Array, Mask, Prices, RowModel

TOL = 1e-6


@dataclass
class Case:
    """Features, targets, and either ``beta`` of ``L1`` or any ``penalty``."""

    features: Array
    targets: Array
    beta: float = 1.0
    weight: float = 1.0
    radius: float | None = None
    in_ball: Mask | None = None
    support: Mask | None = None
    intercept: bool = False
    column_weights: Array | None = None
    penalty: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def priced(self) -> Any:
        return sp.L1(self.beta, self.column_weights) if self.penalty is None else self.penalty

    def solve(self) -> sp.Solution:
        return sp.solve_rows(
            self.features,
            self.targets,
            penalty=self.priced,
            weight=self.weight,
            ball=None if self.radius is None else sp.Ball(self.radius, self.in_ball),
            support=self.support,
            intercept=self.intercept,
            tol=TOL,
            **self.extra,
        )

    def row(self, i: int) -> RowModel:
        d = self.features.shape[1]
        return RowModel(
            self.features,
            self.targets[:, i],
            Prices.of(self.priced, d, i),
            self.weight,
            self.radius,
            self.in_ball,
            None if self.support is None else np.broadcast_to(self.support, (self.targets.shape[1], d))[i],
            self.intercept,
        )

    def check(self) -> sp.Solution:
        """Solve, and hold every row against the twin and the optimality conditions."""
        solution = self.solve()
        assert solution.converged.all()
        coefficients = solution.coefficients.toarray()
        for i in range(self.targets.shape[1]):
            row, w, constant = self.row(i), coefficients[i], float(solution.intercepts[i])
            energy = float(np.square(row.target).sum())
            primal = row.objective(w, constant)
            assert primal == pytest.approx(solution.objective[i], rel=1e-9, abs=1e-12 * energy)
            least, _ = row.solve()
            floor = max(primal, 1e-6 * row.weight * energy)
            # The reference is itself only good to about 1e-8 of its objective.
            assert primal - least <= TOL * floor + 1e-7 * floor
            assert solution.dual_gap[i] >= primal - least - 1e-7 * floor
            gap, multiplier = float(solution.dual_gap[i]), float(solution.multiplier[i])
            assert_kkt(row, w, constant=constant, multiplier=multiplier, gap=gap)
        return solution


def problem(m: int, d: int, r: int, seed: int = 0, sparse_truth: int = 5) -> tuple[Array, Array]:
    """Columns of many sizes, sparse truth, a little noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d)) * rng.uniform(0.2, 3.0, size=d)
    truth = np.zeros((d, r))
    for column in truth.T:
        column[rng.choice(d, size=min(sparse_truth, d), replace=False)] = rng.normal(size=min(sparse_truth, d))
    return features, features @ truth + 0.1 * rng.normal(size=(m, r))
