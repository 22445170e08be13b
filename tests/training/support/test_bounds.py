"""The bound on what another support of the same size could gain, against all such supports."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.rows import Ball
from simplicit.training.problem import LEAST_RIDGE, LeastSquares, Samples
from simplicit.training.support.bounds import with_support_gap
from tied_nets import made, subject

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Case:
    """Ridge on samples, and the same as a record of sums."""

    samples: Samples
    weights: Array
    support: Mask
    ridge: sp.Ridge

    @cached_property
    def problem(self) -> LeastSquares:
        return LeastSquares.of(self.samples.sums, self.weights, self.support, self.ridge)

    @cached_property
    def more(self) -> tuple[Array, Array]:
        """Samples whose plain least squares this is: centred, with a line for each column."""
        features, targets = self.samples.features, self.samples.targets
        if self.samples.intercept:
            features, targets = features - features.mean(axis=0), targets - targets.mean(axis=0)
        squares = np.square(features).sum(axis=0)[self.support.any(axis=0)]
        delta = max(self.ridge.ridge, LEAST_RIDGE) * ((squares.mean() if len(squares) else 0.0) or 1.0)
        lines, wanted = np.sqrt(delta) * np.eye(features.shape[1]), np.sqrt(delta) * self.ridge.anchor * self.weights.T
        return np.vstack([features, lines]), np.vstack([targets, wanted])

    def error(self, row: int, w: Array) -> float:
        """‖z − Φw‖² + δ‖w − a·w⁰‖² from the samples themselves."""
        features, targets = self.more
        return float(np.square(targets[:, row] - features @ w).sum())

    def least(self, row: int, size: int) -> float:
        """The least error over all supports of a size."""
        (features, targets), allowed = self.more, np.flatnonzero(self.support[row])
        errors = []
        for columns in itertools.combinations(allowed.tolist(), min(size, len(allowed))):
            w = np.zeros(features.shape[1])
            w[list(columns)] = np.linalg.lstsq(features[:, list(columns)], targets[:, row], rcond=None)[0]
            errors.append(self.error(row, w))
        return min(errors)


def case(seed: int, m: int, d: int, *, ridge: float = 0.1, scale: float = 1.0, r: int = 3, ugly: str = "") -> Case:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d)) @ (np.eye(d) + 0.7 * rng.normal(size=(d, d)) / np.sqrt(d))
    targets = features @ rng.normal(size=(d, r)) + rng.normal(size=(m, r))
    support = rng.random((r, d)) < 0.85
    support[:, 0] = True
    weights = rng.normal(size=(r, d)) * support / scale
    features *= scale
    if ugly == "duplicate":
        features[:, -1] = features[:, 0]
    if ugly == "zero column":
        features[:, -1] = 0.0
    if ugly == "zero target":
        targets[:, 1] = 0.0
    return Case(Samples(features, targets, bool(seed % 2)), weights, support, sp.Ridge(ridge, 1.0))


def refitted(ours: Case, support: Mask, weight: float = 1.0, ball: Ball | None = None) -> sp.Solution:
    solution = sp.solve_rows(
        ours.problem.statistics,
        penalty=sp.NoPenalty(),
        weight=weight,
        ball=ball,
        support=support,
        tol=1e-10,
        executor="serial",
        throw=False,
    )
    return with_support_gap(solution, ours.problem, weight)


def some_support(ours: Case, sizes: Any, seed: int = 0) -> Mask:
    """So many admissible columns in each row, at random."""
    rng, support = np.random.default_rng(seed), np.zeros_like(ours.support)
    for row, size in enumerate(np.broadcast_to(sizes, len(support))):
        allowed = np.flatnonzero(ours.support[row])
        support[row, rng.permutation(allowed)[:size]] = True
    return support


def check(ours: Case, solution: sp.Solution, weight: float = 1.0) -> Array:
    """The bound holds in every row; returns which share of the gap the best support gains."""
    used = []
    for row, w in enumerate(solution.coefficients.toarray()):
        # Sums of squares are known to their rounding, which matters where the ridge is next to nothing.
        rounded = ours.problem.rounding * np.trace(ours.problem.gram) * np.square(w).sum()
        slack = weight * (1e-9 * ours.problem.energy[row] + rounded)
        assert solution.objective[row] == pytest.approx(weight * ours.error(row, w), rel=1e-9, abs=slack)
        gain = solution.objective[row] - weight * ours.least(row, np.count_nonzero(w))
        assert gain <= solution.cardinality_gap[row] + slack, row
        assert solution.cardinality_gap[row] >= 0
        used.append(gain / solution.cardinality_gap[row] if solution.cardinality_gap[row] > slack else 1.0)
    return np.array(used)


@pytest.mark.parametrize("seed", range(10))
def test_no_support_of_the_same_size_is_better_by_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours = case(seed, int(rng.integers(2, 30)), int(rng.integers(3, 9)), ridge=10.0 ** rng.uniform(-4, 1))
    weight = float(10.0 ** rng.uniform(-2, 2))
    check(ours, refitted(ours, some_support(ours, rng.integers(0, 5, size=3), seed), weight), weight)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(1, 12),
    d=st.integers(1, 7),
    ridge=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 10.0]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    ugly=st.sampled_from(["", "duplicate", "zero column", "zero target"]),
)
def test_ugly_problems(seed: int, m: int, d: int, ridge: float, scale: float, ugly: str) -> None:
    ours = case(seed, m, d, ridge=ridge, scale=scale, ugly=ugly)
    solution = refitted(ours, some_support(ours, [0, d, 2], seed))
    assert np.isfinite(solution.cardinality_gap).all()
    check(ours, solution)


def test_under_a_ball_the_bound_holds_too() -> None:
    ours = case(3, 20, 7)
    solution = refitted(ours, some_support(ours, 3), ball=Ball(0.4, slice(0, 7)))
    assert (solution.multiplier > 0).any()
    check(ours, solution)


def test_it_is_the_dual_of_the_perspective_relaxation() -> None:
    """The relaxation as a cone programme, solved by Clarabel: the bound comes within a hundredth of the error of it."""
    ours = case(4, 40, 12, ridge=0.3, r=2)
    problem, solution = ours.problem, refitted(ours, some_support(ours, 4))
    eigenvalues, vectors = np.linalg.eigh(problem.gram)
    alpha = eigenvalues[0]
    root = np.sqrt(np.maximum(eigenvalues - alpha, 0))[:, None] * vectors.T
    for row, w in enumerate(solution.coefficients.toarray()):
        x, t = cp.Variable(12), cp.Variable(12)
        shared = cp.sum([cp.quad_over_lin(x[j], t[j]) for j in range(12)])
        objective = cp.sum_squares(root @ x) - 2 * problem.cross[row] @ x + alpha * shared + problem.energy[row]
        limits = [t >= 0, t <= 1, cp.sum(t) <= np.count_nonzero(w), x[~problem.support[row]] == 0]
        relaxed = cp.Problem(cp.Minimize(objective), limits).solve(solver="CLARABEL")
        bound = solution.objective[row] - solution.cardinality_gap[row]
        assert relaxed - 0.011 * solution.objective[row] <= bound <= relaxed * (1 + 1e-6)


def test_a_best_support_is_proved_where_the_relaxation_is_exact() -> None:
    """Orthogonal columns: the largest correlations are the best support, and the gap of it is nothing."""
    samples = Samples(np.eye(8) * 2, np.arange(1.0, 9.0)[:, None], False)
    ours = Case(samples, np.zeros((1, 8)), np.ones((1, 8), bool), sp.Ridge(0.5))
    best = np.arange(8)[None] >= 5
    assert refitted(ours, best).cardinality_gap[0] <= 0.01 * refitted(ours, best).objective[0]
    worse = np.arange(8)[None] < 3
    assert check(ours, refitted(ours, worse))[0] >= 0.99


def test_more_weights_leave_less_to_gain_at_both_ends() -> None:
    """Without a column, and with all of them, there is no choice."""
    ours = case(6, 30, 8)
    empty = refitted(ours, np.zeros_like(ours.support))
    assert (empty.cardinality_gap <= 1e-12 * empty.objective).all()
    full = refitted(ours, ours.support)
    np.testing.assert_array_equal(full.cardinality_gap, full.dual_gap)


def test_a_row_without_an_error_has_nothing_to_gain() -> None:
    """Its dual gap is within a tolerance of the target's size, and may be more than all of its error."""
    samples = Samples(np.ones((5, 3)), np.full((5, 1), 1e3), True)
    ours = Case(samples, np.ones((1, 3)), np.ones((1, 3), dtype=bool), sp.Ridge(0.1, 1.0))
    solution = refitted(ours, ours.support)
    assert 0 <= solution.cardinality_gap[0] <= solution.objective[0] <= 1e-12


def test_rows_without_an_admissible_column() -> None:
    ours = replace(case(1, 10, 4), support=np.zeros((3, 4), bool), weights=np.zeros((3, 4)))
    assert (refitted(ours, ours.support).cardinality_gap == 0).all()


# --- in fit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["baseline", "feedforward"])
def test_fit_says_how_far_its_supports_are_from_the_best(structure: str) -> None:
    result = Subject(mlp(12, 10, 8, 4), uniform(150)).fit(sp.Sparse(70, structure))
    gap, objective = result.rows.cardinality_gap, result.rows.objective
    assert ((gap >= 0) & (gap <= objective * (1 + 1e-9))).all()
    assert all(layer.support_bound is not None and 0.3 < layer.support_bound <= 1 for layer in result.layers)


@pytest.mark.parametrize("ridge", [0.0, 1e-7])
def test_float32_sums_of_tied_rows(ridge: float) -> None:
    """Their rounding is that of float32: without a ridge they are singular, and a proof of more digits is none."""
    net, _ = made("plain")
    single = Subject(net.float(), torch.rand(5, 3, 7, 7))
    for samples in (single.inputs, torch.zeros(5, 3, 7, 7), 100 + torch.rand(20, 3, 7, 7)):
        result = single.fit(sp.Sparse(70, ridge=ridge), samples)
        assert all(layer.support_bound is not None and 0 <= layer.support_bound <= 1 for layer in result.layers)


def test_tied_rows_have_it_too() -> None:
    result = subject("plain").fit(sp.Sparse(60))
    assert all(layer.support_bound is not None and 0 < layer.support_bound <= 1 for layer in result.layers)
